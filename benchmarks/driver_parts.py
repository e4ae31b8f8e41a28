"""What the driver of jobs.extract does itself, whatever the workers do: made-up videos in DFDC's layout, each part timed.

    list and split -> plan -> cut into tasks | commits (the workers') | a second run: read all status tables, compare, count

benchmarks/noop_pipeline.py prints it, and sends the same videos through Ray.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.noop_stage import crops_and_status
from jobs.extract import VIDEOS_OF_A_TASK, extraction_fingerprint, require_complete, result_of, videos_of
from jobs.extract_stages import plan_table, rows_of_a_shard
from jobs.video_tasks import tasks_of, videos_of_a_task
from robust.config import Config
from robust.config_file import parse
from robust.data.shard_plan import plan_shards, stale_rows, videos_of_a_shard
from robust.data.shards import read_committed, write_shard
from robust.storage import Storage

RUN = "noop"
OF_A_PART = 2500
"""Videos of a folder with a metadata.json; DFDC's 50 parts have some 2 400 each."""
FAKES_OF_A_REAL = 4
"""As in DFDC, nearly: 104 500 fakes of 23 654 real videos."""
COMMITS = "commit"
"""The part that the workers do."""


def config_of(outputs: Path, *, videos: str, storage: str, cpus: int = 1, actors: int | None = None) -> Config:
    return parse({
        "run": {"name": RUN}, "storage": {"uri": storage},
        "cluster": {"address": "local", "num_cpus": cpus, "object_store_memory_mb": 500, "outputs": str(outputs)},
        "data": {"datasets": [{"layout": "dfdc", "uri": videos}]},
        "extract": {"detect_actors": actors}})


def made_up_videos(count: int) -> Iterator[tuple[str, bytes]]:
    """(path, content): videos of one byte, which nobody opens, and the lists that DFDC's training parts have."""
    for part, first in enumerate(range(0, count, OF_A_PART)):
        names = [f"{number:07d}.mp4" for number in range(first, min(count, first + OF_A_PART))]
        originals = [names[index - index % (FAKES_OF_A_REAL + 1)] for index in range(len(names))]
        facts = {name: {"label": "REAL"} if name == original else {"label": "FAKE", "original": original}
                 for name, original in zip(names, originals)}
        yield f"dfdc_train_part_{part}/metadata.json", json.dumps(facts).encode()
        yield from ((f"dfdc_train_part_{part}/{name}", b"x") for name in names)


def write_folder(folder: Path, count: int) -> None:
    for path, content in made_up_videos(count):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def write_bucket(storage: Storage, prefix: str, count: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: storage.write_bytes(f"{prefix}/{one[0]}", one[1]), made_up_videos(count)))


@dataclasses.dataclass
class Meter:
    """CPU seconds of this process and requests, by part.

    Args:
        sent: how many requests of each kind there have been so far.
    """

    sent: Callable[[], Counter] = Counter
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    requests: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began, before = time.process_time(), self.sent()
        yield
        self.seconds[name] = time.process_time() - began
        self.requests[name] = dict(self.sent() - before)


def measure(config: Config, meter: Meter, *, cpus: int) -> dict:
    """Does all parts in order, and tells of the sizes that they meet.

    Args:
        cpus: of the cluster that tasks are cut for.
    """
    storage, settings = Storage.from_config(config.storage), extraction_fingerprint(config)
    with meter.part("list"):
        dataset, rows = videos_of(config)
    of_a_shard = videos_of_a_shard(config.extract)
    with meter.part("plan"):
        plans = plan_shards(rows, videos_per_shard=of_a_shard, fingerprint=settings, files=dataset.files)
    with meter.part("cut"):
        per_shard = rows_of_a_shard(plans, most=of_a_shard)
        most = videos_of_a_task(len(rows), cpus, limit=VIDEOS_OF_A_TASK)
        tasks = tasks_of(plan_table(plans, per_shard), videos_per_shard=per_shard, most=most)
    with meter.part(COMMITS):
        for plan in plans:
            faces, statuses = zip(*(crops_and_status(row, settings, dataset.files[row.video_id]) for row in plan.rows))
            write_shard(storage, RUN, plan.key, list(faces), list(statuses))
    with meter.part("read"):
        committed = read_committed(storage, RUN)
    with meter.part("compare"):
        stale = stale_rows(committed.table, rows, fingerprint=settings, files=dataset.files)
        current = committed.current()
    with meter.part("count"):
        require_complete(current, rows)
        result_of(committed, dataset, extracted=0)
    if stale or len(current) != len(rows):
        raise SystemExit(f"{len(stale)} stale rows and {len(current)} of {len(rows)} videos, where nothing has changed")
    return {"rows": len(rows), "shards": len(plans), "tasks": len(tasks), "task_bytes": sum(len(one["plan"]) for one in tasks),
            "table_bytes": committed.table.nbytes, "seconds": meter.seconds, "requests": meter.requests}
