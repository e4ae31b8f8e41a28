"""What Ray Train costs around the plain loop, what a second worker gives, and how long a step waits for its data.

    python -m benchmarks.workers --profile demo [section.key=value ...]

Some faces of a finished run are trained on with the defended recipe of the configuration, from random weights: by the plain
loop in a process of its own, by `jobs.train` with one worker, and with two; each worker has one computing thread. An epoch's time is
that between two ends of epochs, so that start and first epoch do not count, and handing in a checkpoint does. The wait for data
is that of the plain loop with one thread that decodes and augments ahead, on the other core. Keep the machine idle.

Faces are SIZE pixels and a batch BATCH crops, whatever the configuration says: two workers have half of it each, and at the demo's own 80 pixels
and 32 crops the passes are too small for a core: attacking 8 crops takes 0.8 of the time that 16 take.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.search_kills import copy_some
from cluster.local import LocalCluster
from jobs import train as job
from jobs.cli import run_job
from jobs.run_folder import RunFolder
from robust.config import Config
from robust.config_file import parse
from robust.storage import Storage
from robust.training.loop import Place
from robust.training.session import initial_detector, limit_threads, load_crops, run_epochs
from robust.training.state import save_state

VIDEOS = {"train": 384, "val": 8}
EPOCHS = 5
SIZE, BATCH = 128, 64
BARS = {"overhead of Ray Train, 1 worker": (0.03, "at most"), "1 -> 2 workers": (1.8, "at least"), "data wait": (0.05, "at most")}


def main(config: Config, storage: Storage) -> dict:
    """Prints a line for each bar and writes them below the run's `benchmarks/`."""
    with tempfile.TemporaryDirectory(prefix="workers-") as folder:
        alone = child_of(config, Path(folder), workers=1)
        copy_some(storage, config.run.name, Storage.from_config(alone.storage), alone.run.name, VIDEOS)
        with LocalCluster(alone):  # idle while the plain loop runs, as Ray is beside its one worker
            first, _ = apart(plain, alone)
            one, two = (with_ray(child_of(config, Path(folder), workers=workers)) for workers in (1, 2))
            second, _ = apart(plain, alone)
            _, waited = apart(plain, child_of(config, Path(folder), workers=1, loader_threads=1))
    loop = median(first + second)
    figures = {"overhead of Ray Train, 1 worker": median(one) / loop - 1, "1 -> 2 workers": median(one) / median(two), "data wait": median(waited)}
    seconds = {"plain loop": [first, second], "1 worker": one, "2 workers": two}
    told = [f"seconds an epoch of {VIDEOS['train']} crops at {SIZE} pixels, {BATCH} a batch: " + json.dumps(seconds, default=float)]
    told += [f"{name}: {figures[name]:.3f} (bar: {word} {bar:g}: {'met' if is_met(name, figures[name]) else 'missed'})" for name, (bar, word) in BARS.items()]
    print("\n".join(told), flush=True)
    key = f"{config.run.name}/benchmarks/workers.json"
    storage.write_json(key, {"figures": figures, "seconds": seconds, "epochs": EPOCHS, "crops": VIDEOS["train"], "size": SIZE, "batch": BATCH})
    return {"summary": f"written to {storage.uri(key)}"}


def is_met(name: str, value: float) -> bool:
    bar, word = BARS[name]
    return value <= bar if word == "at most" else value >= bar


def child_of(config: Config, folder: Path, *, workers: int, loader_threads: int = 0) -> Config:
    """The configuration for a few epochs from random weights on local files."""
    tree = config.model_dump(mode="json")
    tree["run"]["name"] = f"workers-{workers}"
    tree["storage"] = {"uri": str(folder / "storage")}
    tree["cluster"] |= {"address": "local", "num_cpus": 2, "local_s3": False, "dashboard": False, "outputs": str(folder / "out")}
    tree["model"] |= {"weights": "none", "input_size": SIZE}
    tree["train"] |= {"models": ["defended"], "batch_size": BATCH, "workers": workers, "least_workers": None, "cpus_per_worker": 1, "gpus_per_worker": 0,
                      "loader_threads": loader_threads, "patience": None}
    tree["train"]["validation"] |= {"every": 1, "steps": 1, "max_images": 8}
    tree["train"]["defended"] |= {"init_from": None, "epochs": EPOCHS}
    tree["tune"] |= {"winner": "report"}
    return parse(tree)


def apart(work: Callable, config: Config):
    """In a process of its own, with the environment of Ray's workers: how malloc keeps memory decides about much of a step's time."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (config,))


def plain(config: Config) -> tuple[list[float], list[float]]:
    """Seconds of each epoch but the first, and the shares of them that steps waited for data."""
    limit_threads(1)
    storage, recipe = Storage.from_config(config.storage), config.train.defended
    network, _ = initial_detector(config, recipe, storage)
    crops, ends, waited = load_crops(config, storage), [], []
    place = Place(loader_threads=config.train.loader_threads)
    for training, figures, _ in run_epochs(config, recipe, config.train.validation, network, crops, place=place):
        ends.append(time.perf_counter())
        waited.append(figures.data_wait_share)
        with tempfile.TemporaryDirectory() as state:
            save_state(training, Path(state), {})
    return between(ends), waited[1:]


def with_ray(config: Config) -> list[float]:
    """Seconds of each epoch but the first in `jobs.train`; the run's faces are those of the run of one worker."""
    storage = Storage.from_config(config.storage)
    for key in storage.list("workers-1/faces"):
        storage.write_bytes(key.replace("workers-1", config.run.name, 1), storage.read_bytes(key))
    ends, done = [], threading.Event()
    watch = threading.Thread(target=_watch, args=(storage, RunFolder(storage, config).key("train", "defended", job.PROGRESS), ends, done))
    watch.start()
    try:
        job.train(config, storage)
    finally:
        done.set()
        watch.join()
    return between(ends)


def _watch(storage: Storage, key: str, ends: list[float], done: threading.Event) -> None:
    """Notes when rank 0 writes down the end of an epoch."""
    while not done.wait(0.05):
        if storage.exists(key) and storage.read_json(key)["epoch"] > len(ends):
            ends.append(time.perf_counter())


def between(ends: list[float]) -> list[float]:
    """Raises: ValueError: an end was missed."""
    if len(ends) != EPOCHS:
        raise ValueError(f"{len(ends)} ends of {EPOCHS} epochs were seen")
    return [round(after - before, 3) for before, after in zip(ends, ends[1:])]


if __name__ == "__main__":
    sys.exit(run_job("workers", main, needs_ray=False, in_run_folder=False))
