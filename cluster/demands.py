"""What the jobs ask of a cluster at the same time, and how much of it a node takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from robust.config import Config

WRITE_CPUS = 0.1
"""Of a writing task of an extraction or detection, which mostly waits for the storage; actors on CPUs leave that much free."""


@dataclass(frozen=True)
class Demand:
    """So many workers at once, each with so many CPUs and GPUs of one node."""

    key: str  # the settings, for messages
    stage: str
    workers: int
    cpus: float
    gpus: float
    beside: tuple[float, ...] = ()  # CPUs of the tasks that run at the same time, each on any node
    lower: str = ""  # settings that would ask for less, for messages

    def __str__(self) -> str:
        beside = "".join(f" + {cpus:g} CPU" for cpus in self.beside)
        return f"{self.workers} x ({self.cpus:g} CPU, {self.gpus:g} GPU){beside}"


def demands(config: Config) -> list[Demand]:
    """The least with which each stage starts; without it Ray would wait for ever."""
    train, tune, evaluate, extract = config.train, config.tune, config.evaluate, config.extract
    detect = config.detect
    return [
        Demand(
            "train.workers",
            "train",
            train.least_workers or train.workers,
            train.cpus_per_worker,
            train.gpus_per_worker,
            lower="train.workers, train.cpus_per_worker or train.gpus_per_worker",
        ),
        Demand(
            "tune (one trial)",
            "tune",
            1,
            tune.cpus_per_trial,
            tune.gpus_per_trial,
            lower="tune.cpus_per_trial or tune.gpus_per_trial",
        ),
        Demand(
            "evaluate (one block)",
            "evaluate",
            1,
            evaluate.cpus_per_task,
            evaluate.gpus_per_task,
            lower="evaluate.cpus_per_task or evaluate.gpus_per_task",
        ),
        Demand(
            "extract.detect_actors" if extract.detect_actors else "extract (one detector)",
            "extract",
            extract.detect_actors or 1,
            extract.detect_cpus,
            extract.detect_gpus,
            (extract.decode_cpus, WRITE_CPUS) if extract.detect_gpus else (),  # else the detectors themselves decode
            lower="extract.detect_actors, detect_cpus, detect_gpus or decode_cpus",
        ),
        Demand(
            "detect.actors" if detect.actors else "detect_many (one actor)",
            "detect_many",
            detect.actors or 1,
            detect.actor_cpus,
            detect.actor_gpus,
            (extract.decode_cpus, WRITE_CPUS) if detect.actor_gpus else (),
            lower="detect.actors, actor_cpus, actor_gpus or extract.decode_cpus",
        ),
    ]


def demand_of(config: Config, stage: str) -> Demand:
    return next(demand for demand in demands(config) if demand.stage == stage)


def endpoint_demands(config: Config, amount: str) -> list[Demand]:
    """What the processes of jobs.serve ask for, all at the same time.

    Args:
        amount: least or most, of each kind.
    """
    asked = {"faces": config.serve.faces, "model": config.serve.model}
    return [
        Demand(f"serve.{kind}.{amount}", "serve", getattr(one, amount), one.cpus, one.gpus, lower=f"serve.{kind}")
        for kind, one in asked.items()
    ]


def fitting(node_cpus: float, node_gpus: float, demand: Demand) -> int:
    """How many workers of that size one node takes."""
    by_cpu = int(node_cpus / demand.cpus + 1e-9)
    return min(by_cpu, int(node_gpus / demand.gpus + 1e-9)) if demand.gpus else by_cpu


def room(nodes: Iterable[tuple[float, float]], demand: Demand) -> int:
    """How many of the workers fit at once.

    Args:
        nodes: (CPUs, GPUs) of each.
    """
    left = list(nodes)
    for cpus in demand.beside:  # where it displaces fewest workers
        losses = [
            (fitting(*node, demand) - fitting(node[0] - cpus, node[1], demand), number)
            for number, node in enumerate(left)
            if node[0] >= cpus
        ]
        if not losses:
            return 0
        _, taken = min(losses)
        left[taken] = left[taken][0] - cpus, left[taken][1]
    return sum(fitting(*node, demand) for node in left)


def without_room(nodes: Iterable[tuple[float, float]], demands: Iterable[Demand]) -> Demand | None:
    """The first of several demands at the same time that finds no room, the largest workers being placed first.

    Args:
        nodes: (CPUs, GPUs) of each.
    """
    left = list(nodes)
    for demand in sorted(demands, key=lambda demand: (demand.gpus, demand.cpus), reverse=True):
        for _ in range(demand.workers):
            for number, (cpus, gpus) in enumerate(left):
                if cpus + 1e-9 >= demand.cpus and gpus + 1e-9 >= demand.gpus:
                    left[number] = cpus - demand.cpus, gpus - demand.gpus
                    break
            else:
                return demand
    return None
