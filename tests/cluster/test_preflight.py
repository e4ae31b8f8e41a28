"""jobs.preflight: what each check says of good and bad values, the bucket's probe on real storage, and a cluster of three nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.demands import demands
from cluster.preflight import FAIL, NOTE, OK, Finding, as_json, node, table, verdicts
from cluster.preflight.dry_step import attack_step, training_step
from cluster.preflight.verdicts import GIB, Node, certain_skew
from jobs.preflight import stages_of
from robust.config import StorageConfig
from robust.config_file import parse
from robust.object_stores.local import LocalObjects
from robust.storage import Storage

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "model": {"name": "test_resnet", "input_size": 32, "weights": "none"},
    "train": {"batch_size": 8, "workers": 2, "defended": {"attack": {"epsilon": 1}, "lipschitz": {"weight": 0.1}}},
    "evaluate": {"batch_size": 2},
}


def states(findings):
    return [(finding.check, finding.state) for finding in findings]


@pytest.mark.parametrize(
    "sections, nodes, short",
    [
        ({}, [(1, 0)], []),
        (
            {},
            [(0, 0)],
            [
                "train.workers",
                "tune (one trial)",
                "evaluate (one block)",
                "extract (one detector)",
                "detect_many (one actor)",
            ],
        ),
        ({"train": {"workers": 3, "batch_size": 9}}, [(1, 0), (1, 0)], ["train.workers"]),
        ({"train": {"workers": 3, "batch_size": 9}}, [(2, 0), (1, 0)], []),
        ({"train": {"cpus_per_worker": 2}}, [(1, 0), (1, 0)], ["train.workers"]),  # enough in sum, on no node
        ({"train": {"workers": 4, "gpus_per_worker": 0.5}}, [(8, 1), (8, 1)], []),
        ({"train": {"workers": 4, "gpus_per_worker": 1}}, [(8, 4), (0, 4)], []),
        ({"train": {"workers": 5, "batch_size": 40, "gpus_per_worker": 1}}, [(8, 4), (0, 4)], ["train.workers"]),
        ({"train": {"workers": 4, "cpus_per_worker": 1.5}}, [(6, 0)], []),
        ({"train": {"workers": 4, "cpus_per_worker": 1.5}}, [(5.9, 0)], ["train.workers"]),
        ({"extract": {"detect_actors": 3}}, [(2, 0)], ["extract.detect_actors"]),
        ({"detect": {"actors": 3, "actor_gpus": 0.5}}, [(8, 1)], ["detect.actors"]),
        ({"evaluate": {"gpus_per_task": 1}}, [(64, 0)], ["evaluate (one block)"]),
        # Where detectors have GPUs, other tasks decode (1 CPU) and write (0.1 CPU) beside them.
        ({"extract": {"detect_gpus": 1}}, [(2, 1)], ["extract (one detector)"]),
        ({"extract": {"detect_gpus": 1}}, [(2.1, 1)], []),
        ({"extract": {"detect_gpus": 1}}, [(1, 1), (1, 0)], ["extract (one detector)"]),
        ({"extract": {"detect_gpus": 1}}, [(1, 1), (1.1, 0)], []),
        ({"extract": {"detect_gpus": 0.5, "detect_actors": 2, "decode_cpus": 2}}, [(3, 1)], ["extract.detect_actors"]),
        ({"extract": {"detect_gpus": 0.5, "detect_actors": 2, "decode_cpus": 2}}, [(3, 1), (2, 0)], []),
    ],
)
def test_room_is_counted_node_by_node(sections, nodes, short):
    found = verdicts.room(
        demands(parse(sections)), [Node(str(i), cpus, gpus, 0) for i, (cpus, gpus) in enumerate(nodes)]
    )
    assert [finding.where for finding in found if finding.state == FAIL] == short
    assert all(finding.remedy for finding in found)


def test_without_a_search_no_room_is_asked_for_one():
    sections = {"tune": {"samples": 0, "gpus_per_trial": 8}}
    assert "tune" not in stages_of(parse(sections), "pipeline") and "train" in stages_of(parse(sections), "pipeline")
    assert "tune" in stages_of(parse({}), "pipeline") and stages_of(parse(sections), "tune") == ("tune",)


def test_a_node_with_other_versions_is_named():
    driver = node.versions()
    assert driver["ray"] == "2.60.0" and driver["python"].startswith("3.11") and len(driver["code"]) == 12
    same = {"versions": driver}
    assert states(verdicts.versions({"a": same, "b": same}, driver)) == [("versions", OK)]
    for key, state in (("ray", FAIL), ("torch", FAIL), ("code", FAIL), ("python", FAIL), ("pyarrow", NOTE)):
        (found,) = verdicts.versions({"a": same, "b": {"versions": {**driver, key: "0"}}}, driver)
        assert (found.where, found.state) == ("b", state) and f"{key} 0 (the job has {driver[key]})" in found.seen


def test_only_a_skew_that_is_certain_counts():
    assert certain_skew(10, 11, 12) == 0 and certain_skew(10, 15, 12) == 3 and certain_skew(10, 4, 12) == -6
    assert certain_skew(10.9, 10, 11.1, resolution=1) == 0  # a Date is cut to whole seconds
    assert certain_skew(20, 10, 21, resolution=1) == -9
    assert [verdicts.clocks("a", skew, "b").state for skew in (0, 0.9, -30, 30, -601, 900)] == [
        OK,
        OK,
        NOTE,
        NOTE,
        FAIL,
        FAIL,
    ]
    assert "behind" in verdicts.clocks("a", 30, "b").seen and "ahead" in verdicts.clocks("a", -30, "b").seen


def test_disks_and_shared_memory():
    def disk(total, free):
        return verdicts.disk("a", {"folder": "/", "total": total * GIB, "free": free * GIB}).state

    assert [disk(100, 50), disk(100, 9), disk(100, 0.2), disk(1000, 40), disk(20, 9)] == [OK, NOTE, FAIL, NOTE, NOTE]
    assert [disk(1, 0.9), disk(0.5, 0.4), disk(0.5, 0.2)] == [NOTE, NOTE, FAIL]  # a small /tmp in memory is enough
    cpu, gpu = Node("a", 1, 0, GIB // 2), Node("a", 1, 1, GIB // 2)

    def shm(one, gib, *, together=True):
        return verdicts.shared_memory(
            one, gib and {"total": int(gib * GIB), "free": 0}, workers_with_gpus=together
        ).state

    assert [shm(cpu, 0.06), shm(cpu, 0.5), shm(gpu, 0.5), shm(gpu, 2), shm(cpu, None)] == [NOTE, OK, FAIL, OK, NOTE]
    assert shm(gpu, 0.5, together=False) == OK


def test_gpu_memory_is_judged_by_the_workers_share():
    def state(peak, share):
        return verdicts.gpu_memory("train", "H", {"peak": peak * GIB, "total": 100 * GIB}, share=share).state

    assert [state(94, 1), state(96, 1), state(40, 0.5), state(48, 0.5), state(94, 2)] == [OK, FAIL, OK, FAIL, OK]
    assert verdicts.gpu_memory("train", "H", {"error": "CUDA out of memory"}, share=1).state == FAIL
    assert verdicts.gpu_memory("evaluate", "H", {"peak": None, "total": None}, share=1).state == FAIL


@pytest.mark.parametrize("recipe", ["madry", "flagship", "free"])
def test_the_dry_step_runs_each_kind_of_recipe(recipe):
    config = parse(
        {**TINY, "train": {**TINY["train"], "defended": {"recipe": recipe, "epochs": 4}}} if recipe != "madry" else TINY
    )
    assert training_step(config, "cpu") == attack_step(config, "cpu") == {"peak": None, "total": None}


def test_the_table_says_what_to_do_and_json_has_the_same():
    findings = [Finding("room", "x", OK, "fits", "-"), Finding("disk", "a-node", FAIL, "full", "free some")]
    assert table(findings).splitlines() == [
        "ok    room  x       fits",
        "FAIL  disk  a-node  full",
        "      -> free some",
    ]
    assert as_json(findings)["ok"] is False and as_json(findings[:1])["ok"] is True
    assert json.loads(json.dumps(as_json(findings)))["findings"][1]["remedy"] == "free some"


def check_bucket(storage: Storage):
    told = node.bucket(storage.config, None)
    assert list(told) == ["list", "write", "read", "write once", "shared", "list folder", "delete"] and not any(
        told.values()
    )
    assert storage.list(".preflight") == []
    assert states(verdicts.bucket("x", {"a": told})) == [("bucket", OK)]
    missing = node.bucket(storage.config, ".preflight/not-there")  # a folder that the nodes do not share
    assert [step for step, error in missing.items() if error] == ["shared"] and storage.list(".preflight") == []


def test_the_probe_of_a_folder_leaves_nothing(local_storage):
    check_bucket(local_storage)


def test_a_store_that_writes_over_what_is_there_is_told(local_storage, monkeypatch):
    honest = LocalObjects.write
    monkeypatch.setattr(LocalObjects, "write", lambda self, key, data, if_absent: honest(self, key, data, False))
    told = node.bucket(local_storage.config, None)
    assert [step for step, error in told.items() if error] == ["write once"]
    (found,) = verdicts.bucket("x", {"a": told, "b": told})
    assert (found.check, found.where, found.state) == (
        "bucket: write once",
        "all nodes",
        FAIL,
    ) and "run name" in found.remedy


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    told = node.bucket(StorageConfig(uri=str(tmp_path / "file")), None)
    assert list(told) == ["list"] and verdicts.bucket("x", {"a": told})[0].state == FAIL


def test_nodes_that_meet_the_same_error_are_one_line(tmp_path):
    (tmp_path / ".preflight").write_text("")  # so nothing can be written below it
    config = StorageConfig(uri=str(tmp_path))
    told = {name: node.bucket(config, ".preflight/0123456789abcdef0123456789abcdef") for name in "abcd"}
    found = verdicts.bucket("x", told)
    assert [finding.check for finding in found] == ["bucket: write", "bucket: delete"]
    assert {finding.where for finding in found} == {"all nodes"}
    assert "/.preflight" in found[0].seen
    assert verdicts.bucket("x", {}) == []


@pytest.mark.parametrize("wrong, told", [({"ca_bundle": "/nowhere.pem"}, "ca_bundle"), ({}, "endpoint_url")])
def test_a_node_with_wrong_settings_of_the_bucket_still_reports(tmp_path, monkeypatch, wrong, told):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://127.0.0.1:9" if wrong else "127.0.0.1:9")
    report = node.report(StorageConfig(uri="s3://b/p", **wrong), ".preflight/x", str(tmp_path))
    assert report["bucket_clock"] is None and report["disk"]["folder"] == str(tmp_path)
    assert list(report["bucket"]) == ["list"] and told in report["bucket"]["list"]


@pytest.mark.cluster
@pytest.mark.head
def test_a_cluster_of_three_nodes_and_a_real_bucket(s3, s3_server):
    with tempfile.TemporaryDirectory(prefix="pf", dir="/tmp") as short:  # Ray's sockets lie below
        folder = Path(short)
        overrides = [
            f"storage.uri={s3.uri}",
            "storage.addressing_style=path",
            "storage.max_attempts=2",
            "train.workers=2",
        ]
        environment = {
            **os.environ,
            **s3_server.environment,
            "PYTHONPATH": str(ROOT),
            "HOME": short,
            "OMP_NUM_THREADS": "1",
        }
        ended = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("preflight_cluster.py")), short, *overrides],
            cwd=ROOT,
            text=True,
            env=environment,
            capture_output=True,
            timeout=500,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        well, crowded, lost, refused, here = json.loads((folder / "told.json").read_text())
    check_bucket(Storage.from_config(s3))
    assert well["code"] == 0 and well["ok"], well
    seen = {finding["check"]: finding for finding in well["findings"]}
    assert set(seen) == {"room", "versions", "bucket", "disk", "/dev/shm", "clock"}
    assert (
        "3 nodes" in seen["versions"]["where"]
        and "3 nodes" in seen["bucket"]["where"]
        and seen["clock"]["seen"] == "agrees with the bucket's Date"
    )
    assert sum(finding["check"] == "disk" for finding in well["findings"]) == 3
    assert crowded["code"] == 1 and [f["where"] for f in crowded["findings"] if f["state"] == "FAIL"] == [
        "train.workers"
    ]
    assert lost["code"] == 1 and {f["check"] for f in lost["findings"] if f["state"] == "FAIL"} == {"bucket: list"}
    assert refused["code"] == 1 and "preflight: 1 of" in refused["error"] and "train.workers" in refused["error"]
    assert not Storage.from_config(s3).list("refused")  # so the name is free for other settings
    assert [f["check"] for f in here["findings"]] == ["room", "bucket", "disk"]
    assert here["findings"][-1]["seen"].endswith(f"at {here['session']}") and here["session"].startswith(short)
