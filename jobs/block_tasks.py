"""Measurements on the test crops, block by block over the cluster; each finished block is kept in storage.

A measurement is a function of a model and some crops, and is run once for each of its items (an attack at one epsilon).
The cut into blocks never depends on the cluster, so any number of machines gives the same results, and a job that was
stopped goes on with the blocks that are missing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from torch import nn

from jobs import telemetry
from jobs.candidates import Candidate, load_model
from jobs.progress import Progress
from jobs.room import require_room
from jobs.task_pool import device_of, remote
from robust.config import Config
from robust.evaluation import blocks
from robust.evaluation.blocks import Block
from robust.evaluation.credibility import Sample
from robust.evaluation.item import Item
from robust.storage import Storage

READ_THREADS = 8
Measure = Callable[..., pa.Table | bytes]
"""measure(model, crops, pixels, item, config, device) -> a table of a row a crop, or several, or the content of a file;
a function of a module, as tasks import it.
It is also given the results of `item.after` on the block."""
Read = Callable[[Config, Storage, Block | Sample, nn.Module], tuple[pa.Table, Any]]
"""read(config, storage, block, model) -> (crops, pixels): what a measurement is given of a block."""


def everybody(config: Config) -> bool:
    """Whether videos are judged by everybody in them, as jobs.detect does with this setting; else by their subjects."""
    return config.extract.people == "all"


def read_inputs(config: Config, storage: Storage, block: Block, model: nn.Module) -> tuple[pa.Table, np.ndarray]:
    """The crops at the model's input size."""
    return blocks.read_block(storage, config.run.name, block, size=model.input_size,
                             max_frames=config.evaluate.frames_per_video, everybody=everybody(config))


@dataclasses.dataclass(frozen=True)
class Task:
    """One block on one model, for the items that have no result yet; `results` are the keys to write."""

    candidate: Candidate
    block: Block | Sample
    measure: Measure
    items: tuple[Item, ...]
    results: tuple[str, ...]
    read: Read


def missing_tasks(
    config: Config, storage: Storage, candidates: Sequence[Candidate], plan: Sequence[Block], measure: Measure, items: Sequence[Item],
    *, read: Read = read_inputs
) -> list[Task]:
    """What has no result in storage yet; `read` tells what `measure` is given of a block."""
    done = set(storage.list(_prefix(config)))
    tasks = []
    for candidate in candidates:
        for block in plan:
            keys = {item: result_key(config, candidate, block, item) for item in items}
            missing = {item: key for item, key in keys.items() if key not in done}
            if missing:
                tasks.append(Task(candidate, block, measure, tuple(missing), tuple(missing.values()), read))
    return tasks


def _prefix(config: Config) -> str:
    return f"{config.run.name}/evaluate/blocks"


def result_key(config: Config, candidate: Candidate, block: Block, item: Item) -> str:
    """Where the result of one block for one item is kept; models are told apart by what they compute, not by their names."""
    name = blocks.result_name(block, item, model=candidate.function, batch_size=config.evaluate.batch_size, seed=config.run.seed)
    return f"{_prefix(config)}/{name}.parquet"


def run_tasks(config: Config, storage: Storage, tasks: Sequence[Task], *, unit: str = "attacked crops") -> float:
    """Runs the tasks over the cluster; returns the seconds that they took, summed over tasks."""
    if not tasks:
        return 0.0
    require_room(config, "evaluate")
    total = sum(task.block.crops * len(task.items) for task in tasks)
    waiting = {remote(config, run_task).remote(config, storage, task): task for task in tasks}
    seconds = 0.0
    with Progress("evaluate", total=total, unit=unit, observe=telemetry.progress_of(config, "evaluate")) as progress:
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            seconds += ray.get(ready)
            task = waiting.pop(ready)
            done = task.block.crops * len(task.items)
            telemetry.add("evaluate_crops", done, run=config.run.name, model=task.candidate.name)
            progress.advance(done, note=task.candidate.name)
    return round(seconds, 1)


def run_task(config: Config, storage: Storage, task: Task) -> float:
    """Measures one block for each missing item and keeps each result as soon as it is there; returns the seconds."""
    began = time.monotonic()
    telemetry.hear_storage(config.run.name)
    device = device_of(config)
    model = load_model(task.candidate.storage, task.candidate.key, task.candidate.sha256, device)
    crops, pixels = task.read(config, storage, task.block, model)
    for item, key in zip(task.items, task.results, strict=True):
        keys = [result_key(config, task.candidate, task.block, one) for one in item.after]
        before = [storage.read_table(earlier) for earlier in keys]
        result = task.measure(model, crops, pixels, item, config, device, *before)
        (storage.write_bytes if isinstance(result, bytes) else storage.write_table)(key, result)
    return time.monotonic() - began


def collect(
    config: Config, storage: Storage, candidates: Sequence[Candidate], plan: Sequence[Block], items: Sequence[Item]
) -> Iterator[tuple[Candidate, Item, pa.Table]]:
    """All kept results, in order."""
    wanted = [(candidate, block, item) for candidate in candidates for block in plan for item in items]

    def read(one):
        candidate, block, item = one
        return candidate, item, storage.read_table(result_key(config, candidate, block, item))

    with ThreadPoolExecutor(READ_THREADS) as pool:
        yield from pool.map(read, wanted)


def measured(
    config: Config, storage: Storage, candidates: Sequence[Candidate], plan: Sequence[Block], measure: Measure, items: Sequence[Item],
    *, read: Read, run: Callable, unit: str
) -> Iterator[tuple[Candidate, Item, pa.Table]]:
    """All results of a measurement, those that are missing computed first.

    Args:
        run: run(config, storage, tasks, unit=...) does the tasks and returns when all are done.
    """
    run(config, storage, missing_tasks(config, storage, candidates, plan, measure, items, read=read), unit=unit)
    return collect(config, storage, candidates, plan, items)
