"""Looks, before anything costs money, whether cluster and bucket have what the configuration asks for.

    python -m jobs.preflight [--stage STAGE] [--json] [--config FILE] [--profile NAME] [section.key=value ...]

A table with a remedy for each failure. Exit code 0: nothing would fail; 1: something would, or no cluster answers; 2: the
configuration is wrong. jobs.pipeline and jobs.submit run it first; where Ray was started here, only what takes no time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import uuid
from collections.abc import Callable, Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.demands import demands
from cluster.local import LocalCluster
from cluster.preflight import FAIL, NOTE, OK, Finding, as_json, failed, node, table, verdicts
from jobs.cli import report_failure
from jobs.room import waits_s
from robust.config import Config, StorageConfig
from robust.config_file import default_config, load_config
from robust.deploy_config import JOBS, STAGES
from robust.errors import UserError
from robust.storage import Storage, open_input

PATIENCE_S = 180
"""For a node to answer; a worker process there starts first, and imports."""
GPU_PATIENCE_S = 300
"""For a GPU to be free and a step to run."""
DRY_STEPS = ("train", "evaluate")
"""Stages of which a step is tried on a GPU."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = parse_arguments(argv)
    try:
        config = load_config(arguments.config, arguments.overrides, profile=arguments.profile)
        shown = sys.stderr if arguments.json else sys.stdout  # what Ray's processes say is no part of the JSON
        with contextlib.redirect_stdout(shown), LocalCluster(config):
            findings = preflight(config, Storage.from_config(config.storage), stages_of(config, arguments.stage))
    except BaseException as error:
        return report_failure("preflight", error)
    print(json.dumps(as_json(findings), indent=2) if arguments.json else table(findings), flush=True)
    wrong = failed(findings)
    if not arguments.json:
        print(f"preflight: {len(findings)} checks, {len(wrong)} would fail", flush=True)
    return 1 if wrong else 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.preflight",
        allow_abbrev=False,
        description="Looks whether a run would fail, before it costs money.",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that override the file")
    parser.add_argument(
        "--stage",
        choices=(*JOBS, "detect"),
        default="pipeline",
        help="the job that is to run; default: %(default)s, all of them",
    )
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    parser.add_argument("--config", default=default_config(), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--profile", metavar="NAME", help="one of the file's profiles, laid over it")
    return parser.parse_intermixed_args(argv)


def stages_of(config: Config, stage: str) -> tuple[str, ...]:
    """The stage itself, or those that the pipeline will run: no search with tune.samples=0."""
    left_out = ("pipeline",) if config.tune.samples else ("pipeline", "tune")
    return tuple(name for name in STAGES if name not in left_out) if stage == "pipeline" else (stage,)


def require_preflight(config: Config, storage: Storage, stages: Sequence[str]) -> None:
    """What jobs.pipeline runs first: silent on this machine, a table on a cluster.

    Raises: UserError: something would fail; the table is in it.
    """
    here = config.cluster.address == "local"
    findings = quick(config, storage, stages) if here else preflight(config, storage, stages)
    if wrong := failed(findings):
        raise UserError(
            f"preflight: {len(wrong)} of {len(findings)} checks say that the run would fail:\n{table(wrong)}"
        )
    if not here:
        print(f"{table(findings)}\npreflight: nothing would fail", flush=True)


def quick(config: Config, storage: Storage, stages: Sequence[str]) -> list[Finding]:
    """What takes no time on the machine itself: room, bucket and disk."""
    there = alive()
    return [
        *verdicts.room([demand for demand in demands(config) if demand.stage in stages], list(there.values())),
        *verdicts.bucket(storage.uri(), {"this machine": node.bucket(config.storage, None)}),
        verdicts.disk("this machine", node.space(session_folder())),
    ]


def preflight(config: Config, storage: Storage, stages: Sequence[str]) -> list[Finding]:
    """All checks, on all nodes that are there."""
    there = alive()
    reports, findings = ask_nodes(config, storage, there)
    uses_gpus = config.train.gpus_per_worker > 0 and config.train.workers > 1
    return [
        *verdicts.room(
            [demand for demand in demands(config) if demand.stage in stages],
            list(there.values()),
            waits_s=waits_s(config),
        ),
        *findings,
        *(verdicts.versions(reports, node.versions()) if reports else []),
        *verdicts.bucket(storage.uri(), {name: report["bucket"] for name, report in reports.items()}),
        *data_sets(config, stages),
        *(verdicts.disk(name, report["disk"]) for name, report in reports.items()),
        *(
            verdicts.shared_memory(there[name], report["shm"], workers_with_gpus=uses_gpus)
            for name, report in reports.items()
        ),
        *(finding for name, report in reports.items() for finding in clock_findings(name, report)),
        *gpu_findings(config, stages),
    ]


def alive() -> dict[str, verdicts.Node]:
    """Nodes of the cluster by name (address, and Ray's id where two share one)."""
    found = [entry for entry in ray.nodes() if entry["Alive"]]
    addresses = [entry["NodeManagerAddress"] for entry in found]
    nodes = {}
    for entry in found:
        address, resources = entry["NodeManagerAddress"], entry["Resources"]
        name = address if addresses.count(address) == 1 else f"{address} {entry['NodeID'][:6]}"
        nodes[name] = verdicts.Node(
            name,
            resources.get("CPU", 0),
            resources.get("GPU", 0),
            int(resources.get("object_store_memory", 0)),
            entry["NodeID"],
        )
    return nodes


def ask_nodes(
    config: Config, storage: Storage, there: dict[str, verdicts.Node]
) -> tuple[dict[str, dict], list[Finding]]:
    """Reports of the nodes by name, and a finding for each that gave none."""
    probe = f"{node.SHARED}/{uuid.uuid4().hex}"
    try:
        storage.check()  # some stores make a missing bucket when they are written to
        storage.write_bytes(probe, b"written by the driver")
    except UserError:
        pass  # each node's own report says it better
    try:
        asked = time.time()
        waiting = {
            on_node(node_report, one.identity).remote(config.storage, probe): name for name, one in there.items()
        }
        reports, findings = {}, []
        for reference, name in waiting.items():
            try:
                reports[name] = ray.get(reference, timeout=max(1.0, asked + PATIENCE_S - time.time()))
                reports[name] |= {"asked": asked, "answered": time.time()}
            except (ray.exceptions.RayError, TimeoutError) as error:
                findings.append(
                    Finding(
                        "node",
                        name,
                        FAIL,
                        first_line(error),
                        "is the node alive, and are image and code of this version on it?",
                    )
                )
    finally:
        try:
            storage.delete(probe)
        except UserError:
            pass
    return reports, findings


def node_report(storage: StorageConfig, probe: str) -> dict:
    """Runs on the node."""
    return node.report(storage, probe, session_folder())


def session_folder() -> str:
    """Where Ray puts logs, and objects for which its store has no room, on this machine."""
    return ray._private.worker._global_node.get_session_dir_path()


def on_node(function: Callable, identity: str, **resources):
    """The function as a Ray task on one node, also on one without CPUs for work."""
    strategy = NodeAffinitySchedulingStrategy(identity, soft=False)
    return ray.remote(function).options(scheduling_strategy=strategy, max_retries=0, **{"num_cpus": 0, **resources})


def first_line(error: BaseException) -> str:
    told = [line for line in str(error).splitlines() if line.strip()]
    return (told[-1] if told else type(error).__name__)[:200]


def clock_findings(name: str, report: dict) -> list[Finding]:
    """Against the job's machine, and against the bucket; of two that agree one line."""
    against_job = -verdicts.certain_skew(report["asked"], report["time"], report["answered"])
    found = [verdicts.clocks(name, against_job, "the job's machine")]
    if (clock := report["bucket_clock"]) is not None:
        skew = verdicts.certain_skew(clock["before"], clock["date"], clock["after"], resolution=1.0)
        found.append(verdicts.clocks(name, skew, "the bucket's Date"))
    wrong = [finding for finding in found if finding.state != OK]
    return wrong or [found[-1]]


def data_sets(config: Config, stages: Sequence[str]) -> list[Finding]:
    """Whether the videos are there; the demo makes its own."""
    wanted, findings = {}, []
    if "extract" in stages and not config.data.demo.enabled:
        wanted = {f"data.datasets.{number}.uri": dataset.uri for number, dataset in enumerate(config.data.datasets)}
    if "detect_many" in stages and config.detect.input is not None:
        wanted["detect.input"] = config.detect.input
    for key, uri in wanted.items():
        try:
            open_input(uri, config.storage)
            findings.append(Finding("videos", key, OK, uri))
        except UserError as error:
            findings.append(
                Finding(
                    "videos", key, FAIL, str(error), "correct the uri, or give the machines the right to read there"
                )
            )
    return findings


def gpu_findings(config: Config, stages: Sequence[str]) -> list[Finding]:
    """A dry step on one node of each kind of GPU, where a stage asks for them."""
    findings = []
    for demand in demands(config):
        key, gpus = demand.stage, demand.gpus
        if gpus == 0 or key not in stages or key not in DRY_STEPS:
            continue
        nodes = one_of_each_kind()
        if not nodes:
            findings.append(
                Finding("GPU memory", key, NOTE, "no node with a GPU is there", "run preflight again when one is")
            )
        for kind, identity in nodes.items():
            reference = on_node(dry_step, identity, num_gpus=gpus, num_cpus=demand.cpus).remote(
                config.model_dump(mode="json"), key
            )
            try:
                step = ray.get(reference, timeout=GPU_PATIENCE_S)
                findings.append(verdicts.gpu_memory(key, kind, step, share=gpus))
            except ray.exceptions.GetTimeoutError:
                ray.cancel(reference, force=True)
                seen = f"no GPU was free for {GPU_PATIENCE_S} s"
                findings.append(
                    Finding(
                        "GPU memory",
                        f"{key}, {kind}",
                        NOTE,
                        seen,
                        "other work holds them; run preflight again, or wait for it",
                    )
                )
            except ray.exceptions.RayError as error:
                findings.append(
                    Finding(
                        "GPU memory",
                        f"{key}, {kind}",
                        FAIL,
                        first_line(error),
                        "see the node's logs; do driver and image fit?",
                    )
                )
    return findings


def one_of_each_kind() -> dict[str, str]:
    """{kind of GPU: Ray's id of a node that has it}."""
    kinds = {}
    for entry in ray.nodes():
        if entry["Alive"] and entry["Resources"].get("GPU", 0) >= 1:
            kind = next(
                (
                    name.removeprefix("accelerator_type:")
                    for name in entry["Resources"]
                    if name.startswith("accelerator_type:")
                ),
                "GPU",
            )
            kinds.setdefault(kind, entry["NodeID"])
    return kinds


def dry_step(config: dict, key: str) -> dict:
    """Runs on a node with a GPU."""
    import torch

    from cluster.preflight.dry_step import attack_step, training_step
    from robust.config_file import parse

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"train": training_step, "evaluate": attack_step}[key](parse(config), device)


if __name__ == "__main__":
    from jobs.preflight import main as by_its_modules_name  # Ray's workers cannot import from __main__

    sys.exit(by_its_modules_name())
