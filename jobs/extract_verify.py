"""`python -m jobs.extract --verify`: every shard against its checksums, its status table and the data set; changes nothing.

The shards are read whole, in tasks on all CPUs of the cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from jobs.extract import extraction_fingerprint, videos_of
from jobs.progress import Progress
from jobs.run_folder import RunFolder
from robust.config import Config
from robust.data.shard_check import check_shard, check_table
from robust.data.shards import STATUS_SUFFIX, read_committed, status_key
from robust.data.stale import count_reasons, leftovers
from robust.errors import UserError
from robust.storage import Storage

SHARDS_OF_A_TASK = 8
TASKS_OF_A_CPU = 2
"""Under way at once, so that none waits for the driver."""
MOST_TOLD = 50
RETRIES = 3
"""Of a task whose process dies, as with its machine; one that dies every time does so because of what it reads."""
ENDED = (WorkerCrashedError, OutOfMemoryError)


def verify(config: Config, storage: Storage) -> dict:
    """Checks everything that extraction has written; returns counts if all is right.

    Raises:
        UserError: something is wrong; each finding has been told on stderr, the error counts them.
    """
    run = config.run.name
    if not storage.exists(RunFolder(storage, config).config_key):
        raise UserError(f"there is no run {run} in {storage.uri()}; nothing to verify")
    RunFolder(storage, config).require_same("extract")
    dataset, rows = videos_of(config)
    plans = [key.removeprefix(f"{run}/faces/").removesuffix(STATUS_SUFFIX)
             for key in storage.list(f"{run}/faces") if key.endswith(STATUS_SUFFIX)]
    wrong = check_shards(storage, run, plans)
    counts = {"shards": len(plans)}
    try:
        committed = read_committed(storage, run)
    except UserError:
        if not wrong:  # else it is a status table that cannot be read, which has been told
            raise
        problems = [problem for one in wrong.values() for problem in one]
    else:
        table = check_table(committed, rows, fingerprint=extraction_fingerprint(config), files=dataset.files)
        problems = [problem for one in wrong.values() for problem in one] + table
        counts |= {"videos": len(committed.current()), "stale": count_reasons(committed.stale),
                   "uncommitted": len(leftovers(committed, run))}
    for problem in problems[:MOST_TOLD]:
        print(f"extract: {problem}", file=sys.stderr, flush=True)
    if problems:
        more = f", {len(problems) - MOST_TOLD} of them not shown" if len(problems) > MOST_TOLD else ""
        raise UserError(f"{len(problems)} findings in {len(plans)} shards of {storage.uri(f'{run}/faces')}{more}; "
                        f"{what_to_do(wrong, storage, run)}")
    return {**counts, "summary": f"verified: {counts['shards']} shards, {counts['videos']} videos, nothing wrong; "
                                 f"{sum(counts['stale'].values())} stale status rows, {counts['uncommitted']} uncommitted "
                                 "objects (--remove-stale removes both)"}


def what_to_do(wrong: dict[str, list[str]], storage: Storage, run: str) -> str:
    """Wrong shards come first: what they hold is missing or doubtful whatever the table says."""
    if not wrong:
        return "run jobs.extract again: it does what is missing or has changed"
    table = storage.uri(f"{run}/faces/{next(iter(wrong))}{STATUS_SUFFIX}")
    return ("delete the status table of each shard named (the name up to its '-', with .status.parquet, "
            f"e.g. {table}) and run jobs.extract again, which makes it anew")


def check_shards(storage: Storage, run: str, plans: Sequence[str], *, check=None) -> dict[str, list[str]]:
    """{plan: what is wrong} of the shards with which something is, checked in parallel.

    A shard that ends the process which reads it, every time, is found by checking those of its task one by one.
    """
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(check or check_some)
    parts = [list(plans[start:start + SHARDS_OF_A_TASK]) for start in range(0, len(plans), SHARDS_OF_A_TASK)]
    wrong: dict[str, list[str]] = {}
    most = max(1, int(TASKS_OF_A_CPU * ray.cluster_resources().get("CPU", 1)))
    with Progress("extract: verify", total=len(plans), unit="shards") as progress:
        while parts:
            alone: list[list[str]] = []
            for part, found in in_flight(task, iter(parts), storage, run, most=most):
                if isinstance(found, ENDED) and len(part) > 1:
                    alone += [[plan] for plan in part]
                    continue
                if isinstance(found, ENDED):
                    what = str(found).partition("\n")[0][:200]
                    found = [(part[0], [f"{storage.uri(status_key(run, part[0]))} or its crops end the process that reads them "
                                        f"({type(found).__name__}: {what})"])]
                wrong.update({plan: problems for plan, problems in found if problems})
                progress.advance(len(found), note=f"{len(wrong)} wrong")
            parts = alone
    return dict(sorted(wrong.items()))


def check_some(storage: Storage, run: str, plans: Sequence[str]) -> list[tuple[str, list[str]]]:
    return [(plan, check_shard(storage, run, plan)) for plan in plans]


def in_flight(task, parts: Iterator[list[str]], storage: Storage, run: str, *, most: int) -> Iterator[tuple[list[str], object]]:
    """(part, its result, or the error of ENDED) as they come, with at most `most` tasks at once."""
    waiting: dict = {}
    while True:
        while len(waiting) < most and (part := next(parts, None)) is not None:
            waiting[task.remote(storage, run, part)] = part
        if not waiting:
            return
        (done, *_), _ = ray.wait(list(waiting), num_returns=1)
        try:
            found = ray.get(done)
        except ENDED as error:
            found = error
        yield waiting.pop(done), found
