"""What the jobs ask of a cluster at the same time, and how much of it a node takes."""

from __future__ import annotations

from dataclasses import dataclass

from robust.config import Config


@dataclass(frozen=True)
class Demand:
    """So many workers at once, each with so many CPUs and GPUs of one node."""

    key: str  # the settings, for messages
    stage: str
    workers: int
    cpus: float
    gpus: float


def demands(config: Config) -> list[Demand]:
    """The least with which each stage starts; without it Ray would wait for ever."""
    train, tune, evaluate, extract = config.train, config.tune, config.evaluate, config.extract
    detect = config.detect
    return [
        Demand("train.workers", "train", train.workers, train.cpus_per_worker, train.gpus_per_worker),
        Demand("tune (one trial)", "tune", 1, tune.cpus_per_trial, tune.gpus_per_trial),
        Demand("evaluate (one block)", "evaluate", 1, evaluate.cpus_per_task, evaluate.gpus_per_task),
        Demand(
            "extract.detect_actors" if extract.detect_actors else "extract (one detector)",
            "extract",
            extract.detect_actors or 1,
            extract.detect_cpus,
            extract.detect_gpus,
        ),
        Demand(
            "detect.actors" if detect.actors else "detect_many (one actor)",
            "detect_many",
            detect.actors or 1,
            detect.actor_cpus,
            detect.actor_gpus,
        ),
    ]


def fitting(node_cpus: float, node_gpus: float, demand: Demand) -> int:
    """How many workers of that size one node takes."""
    by_cpu = int(node_cpus / demand.cpus + 1e-9)
    return min(by_cpu, int(node_gpus / demand.gpus + 1e-9)) if demand.gpus else by_cpu
