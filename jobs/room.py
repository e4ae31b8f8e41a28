"""Room in the cluster for a stage, before it starts: Ray would wait without end for what no node has."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import ray
from ray.autoscaler.sdk import request_resources

from cluster.demands import Demand, demand_of, room
from robust.config import Config
from robust.errors import UserError

LOOK_EVERY_S = 2.0
TELL_EVERY_S = 60.0

Nodes = Sequence[tuple[float, float]]
"""(CPUs, GPUs) of each."""


def living_nodes() -> Nodes:
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(one.get("CPU", 0), one.get("GPU", 0)) for one in resources]


def require_room(config: Config, stage: str) -> Nodes:
    """The cluster's nodes, once they have room for the least that the stage starts with.

    A cluster that grows is asked to.

    Raises:
        UserError: there is no room.
    """
    demand, nodes = demand_of(config, stage), living_nodes()

    def lacks(nodes: Nodes) -> str | None:
        return _lacks(demand, nodes) if room(nodes, demand) < demand.workers else None

    if lacks(nodes) and (wait_s := waits_s(config)):
        nodes = grown(lacks, bundles(demand), wait_s)
    if told := lacks(nodes):
        raise UserError(f"{told}; lower {demand.lower}, or join a larger cluster (one that grows: set cluster.wait_for_nodes_s)")
    return nodes


def waits_s(config: Config) -> float:
    """For how long a job waits for nodes; 0: not at all, as on this machine's own Ray, which does not grow."""
    return 0 if config.cluster.address == "local" else config.cluster.wait_for_nodes_s


def grown(lacks: Callable[[Nodes], str | None], wanted: list[dict[str, float]], wait_s: float) -> Nodes:
    """The nodes when the autoscaler has brought up enough of them, or the time is up.

    Args:
        lacks: what is missing on these nodes, as a sentence; None: nothing.
        wanted: what the autoscaler is asked for, see `bundles`.
    """
    print(f"{lacks(living_nodes())}; waiting up to {wait_s:g} s for nodes", flush=True)
    until = time.monotonic() + wait_s
    tell = time.monotonic() + TELL_EVERY_S
    try:
        while (told := lacks(nodes := living_nodes())) and time.monotonic() < until:
            request_resources(bundles=wanted)  # again and again: the cluster has one request, another job's takes its place
            time.sleep(LOOK_EVERY_S)
            if time.monotonic() > tell:
                print(f"still waiting: {told}", flush=True)
                tell += TELL_EVERY_S
    finally:
        request_resources(bundles=[])  # or the nodes would stay when nothing runs on them any more
    return nodes


def bundles(demand: Demand) -> list[dict[str, float]]:
    """What the autoscaler is asked for: a share of a node for each worker and for each task beside them."""
    worker = {"CPU": demand.cpus, "GPU": demand.gpus}
    wanted = [worker] * demand.workers + [{"CPU": cpus} for cpus in demand.beside]
    return [{name: amount for name, amount in one.items() if amount} for one in wanted]


def _lacks(demand: Demand, nodes: Nodes) -> str:
    there = ", ".join(f"{cpus:g} CPU and {gpus:g} GPU" for cpus, gpus in nodes)
    return f"{demand.stage} needs {demand} ({demand.key}); the cluster's nodes ({there}) have room for {room(nodes, demand)}"
