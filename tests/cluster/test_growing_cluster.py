"""jobs/room.py on a real cluster that grows: Ray's own autoscaler, whose nodes are processes on this machine."""

import subprocess
import sys

import pytest
from head import ROOT, Head

from cluster.demands import demands
from jobs.room import bundles
from robust.config_file import parse

SCRIPT = """
import time
import ray
from jobs.room import living_nodes, require_room
from robust.config_file import parse
from robust.errors import UserError
until = time.monotonic() + 120
while not ray.is_initialized():
    try:
        ray.init("auto", log_to_driver=False)
    except (ConnectionError, RuntimeError):  # the head is not up yet
        if time.monotonic() > until:
            raise
        time.sleep(1)
print("before", living_nodes(), flush=True)
extract = {"detect_actors": 3, "detect_cpus": 1}
try:
    require_room(parse({"extract": extract}), "extract")
except UserError as error:
    print("refused", error, flush=True)
try:
    require_room(parse({"cluster": {"wait_for_nodes_s": 4}, "extract": {**extract, "detect_gpus": 1}}), "extract")
except UserError as error:
    print("late", error, flush=True)
print("found", sorted(require_room(parse({"cluster": {"wait_for_nodes_s": 240}, "extract": extract}), "extract")), flush=True)
until = time.monotonic() + 240
while len(living_nodes()) > 1 and time.monotonic() < until:
    time.sleep(0.5)
print("after", living_nodes(), flush=True)
"""


@pytest.mark.cluster
@pytest.mark.head
@pytest.mark.timeout(900)
def test_a_job_waits_for_the_nodes_that_it_needs_and_keeps_none_of_them(tmp_path):
    types = {"two": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 3}}
    with Head(tmp_path, {}, num_cpus=0, autoscaling=types) as head:
        told = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, env={**head.environment, "RAY_ADDRESS": head.gcs}, text=True,
                              capture_output=True, timeout=800)
        lines = dict(line.partition(" ")[::2] for line in told.stdout.splitlines())
        print(told.stdout)
        assert told.returncode == 0, told.stderr[-3000:] + head.head_log()
    assert lines["before"] == "[(0, 0)]" == lines["after"]
    assert lines["refused"].startswith("extract needs 3 x (1 CPU, 0 GPU)") and "cluster.wait_for_nodes_s" in lines["refused"]
    assert "have room for 0" in lines["late"] and "waiting up to 4 s for nodes" in told.stdout
    assert lines["found"] == "[(0, 0), (2.0, 0), (2.0, 0)]"


def test_the_autoscaler_is_asked_for_workers_and_what_runs_beside_them():
    asked = {one.stage: bundles(one) for one in demands(parse({"train": {"workers": 2, "gpus_per_worker": 1}, "extract": {"detect_gpus": 0.5}}))}
    assert asked["train"] == [{"CPU": 1.0, "GPU": 1.0}] * 2
    assert asked["extract"] == [{"CPU": 1.0, "GPU": 0.5}, {"CPU": 1.0}, {"CPU": 0.1}]
    assert asked["evaluate"] == [{"CPU": 1.0}]
