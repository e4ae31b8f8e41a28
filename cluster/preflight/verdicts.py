"""Judges what was measured; plain functions of plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster import demands
from cluster.preflight import FAIL, NOTE, OK, Finding

GIB = 2**30
SKEW_NOTED_S, SKEW_REFUSED_S = 5.0, 600.0
"""S3 refuses signatures of a clock that is 15 minutes off."""
DISK_FULL_SHARE = 0.95
"""From there on Ray puts no objects on a disk when its store is full, and the work that made them fails."""
DISK_LOW, DISK_LEAST = 10 * GIB, GIB // 4
"""What a node should have for objects and models, and what it must have for logs and code alone."""
SHM_OF_GPUS = GIB
"""NCCL needs some hundred MiB there; a container has 64 MiB unless it is told otherwise."""
GPU_RESERVE = 0.95
"""Of a GPU's memory; the rest goes to the CUDA context and to what else runs there."""
SAME = ("python", "ray", "torch", "code")
"""Versions that must agree; others are noted."""


@dataclass(frozen=True)
class Node:
    """What Ray says of a machine that is alive."""

    name: str
    cpus: float
    gpus: float
    object_store: int  # bytes
    identity: str = ""  # Ray's


def several(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes} nodes"


def room(wanted: Sequence[demands.Demand], nodes: Sequence[Node], *, waits_s: float = 0) -> list[Finding]:
    """Whether each stage's workers fit into the nodes that are there. Args: waits_s: for more of them, before it starts."""
    findings = []
    for demand in wanted:
        places = demands.room([(node.cpus, node.gpus) for node in nodes], demand)
        seen = f"{demand} wanted, room for {places} on {several(len(nodes))}"
        remedy = (
            f"the job will wait {waits_s:g} s for nodes (cluster.wait_for_nodes_s)"
            if waits_s
            else "bring up more or larger nodes, let the job wait for a cluster that grows (cluster.wait_for_nodes_s), or ask for less"
        )
        short = NOTE if waits_s else FAIL
        findings.append(Finding("room", demand.key, OK if places >= demand.workers else short, seen, remedy))
    return findings


def versions(reports: Mapping[str, dict], driver: dict[str, str]) -> list[Finding]:
    """
    Args:
        reports: of each node by name; those that could not answer are judged elsewhere.
        driver: versions where the job itself runs.
    """
    findings = []
    for node, report in reports.items():
        differs = {key: value for key, value in report["versions"].items() if value != driver[key]}
        if not differs:
            continue
        seen = ", ".join(f"{key} {value} (the job has {driver[key]})" for key, value in differs.items())
        state = FAIL if set(differs) & set(SAME) else NOTE
        remedy = "run the same image or environment, and the same code, on every node (docs/cluster/image.md)"
        findings.append(Finding("versions", node, state, seen, remedy))
    whole = ", ".join(f"{key} {value}" for key, value in driver.items())
    return findings or [Finding("versions", several(len(reports)), OK, whole)]


def certain_skew(before: float, other: float, after: float, *, resolution: float = 0.0) -> float:
    """How far another clock is off at least, seconds: it was read between `before` and `after` of this one.

    Args:
        resolution: the other clock is cut to this, as a Date header is to whole seconds.
    """
    if other > after:
        return other - after
    return min(0.0, other + resolution - before)


def clocks(node: str, skew: float, against: str) -> Finding:
    size = abs(skew)
    state = FAIL if size > SKEW_REFUSED_S else NOTE if size > SKEW_NOTED_S else OK
    seen = (
        f"at least {size:.0f} s {'ahead of' if skew < 0 else 'behind'} {against}"
        if size > 1
        else f"agrees with {against}"
    )
    remedy = "set the clock by NTP (chrony); S3 refuses requests of a clock that is 15 minutes off"
    return Finding("clock", node, state, seen, remedy)


def disk(node: str, space: dict) -> Finding:
    used = 1 - space["free"] / space["total"]
    is_low = used > DISK_FULL_SHARE or space["free"] < DISK_LOW
    state = FAIL if space["free"] < DISK_LEAST else NOTE if is_low else OK
    seen = f"{space['free'] / GIB:.1f} of {space['total'] / GIB:.1f} GiB free at {space['folder']}"
    remedy = (
        "free space or give the node a larger disk (cluster.deploy.*.disk_gb): from 95 % on Ray spills no objects there"
    )
    return Finding("disk", node, state, seen, remedy)


def shared_memory(node: Node, space: dict | None, *, workers_with_gpus: bool) -> Finding:
    if space is None:
        return Finding("/dev/shm", node.name, NOTE, "there is none", "Ray's object store goes to /tmp, which is slow")
    seen = f"{space['total'] / GIB:.2f} GiB, Ray's object store has {node.object_store / GIB:.2f}"
    larger = "give the container more (--shm-size; on Kubernetes an emptyDir with medium: Memory)"
    if workers_with_gpus and node.gpus and space["total"] < SHM_OF_GPUS:
        remedy = f"{larger}: training on several GPUs exchanges its gradients there"
        return Finding("/dev/shm", node.name, FAIL, seen, remedy)
    if space["total"] < node.object_store:
        return Finding("/dev/shm", node.name, NOTE, seen, f"{larger}: else the object store is in /tmp, which is slow")
    return Finding("/dev/shm", node.name, OK, seen)


REMEDIES = {
    "list": "check storage.uri, storage.endpoint_url and this machine's credentials and network",
    "write": "the credentials need s3:PutObject below storage.uri",
    "read": "the credentials need s3:GetObject below storage.uri",
    "write once": "two jobs could take the same run name: keep the runs in another store, or never start two jobs of one name",
    "shared": "storage.uri is not the same place on every node: give a bucket, or a folder on a disk that all share",
    "list folder": "the credentials need s3:ListBucket for the whole prefix",
    "delete": "the credentials need s3:DeleteObject below storage.uri; what is left lies in .preflight/",
}


def bucket(uri: str, told: Mapping[str, dict[str, str | None]]) -> list[Finding]:
    """
    Args:
        told: of each node by name: {step: None or what went wrong}; nothing of nodes that did not answer.
    """
    if not told:
        return []
    wrong = Counter((step, error) for steps in told.values() for step, error in steps.items() if error)
    findings = []
    for (step, error), count in wrong.items():
        nodes = [name for name, steps in told.items() if steps.get(step) == error]
        where = nodes[0] if count == 1 else "all nodes" if count == len(told) else f"{count} nodes, {nodes[0]} first"
        findings.append(Finding(f"bucket: {step}", where, FAIL, error, REMEDIES[step]))
    if findings:
        return findings
    steps = ", ".join(next(iter(told.values())))
    return [Finding("bucket", several(len(told)), OK, f"{uri}: {steps}")]


def gpu_memory(key: str, where: str, step: dict, *, share: float) -> Finding:
    """
    Args:
        step: what dry_step returns: {"peak", "total"} in bytes, or {"error"}.
        share: of a GPU that one worker has.
    """
    remedy = {
        "train": "lower train.batch_size, raise train.accumulate or train.workers, or use train.precision=bfloat16",
        "evaluate": "lower evaluate.batch_size, or raise evaluate.gpus_per_task",
    }[key]
    if "error" in step:
        return Finding("GPU memory", f"{key}, {where}", FAIL, step["error"], remedy)
    if step["peak"] is None:
        return Finding("GPU memory", f"{key}, {where}", FAIL, "torch sees no CUDA device", "check driver and image")
    allowed = step["total"] * min(share, 1.0)
    seen = f"a step takes {step['peak'] / GIB:.2f} of {allowed / GIB:.1f} GiB"
    return Finding("GPU memory", f"{key}, {where}", OK if step["peak"] <= GPU_RESERVE * allowed else FAIL, seen, remedy)
