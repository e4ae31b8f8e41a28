"""benchmarks/chaos.py and ray_nodes.py: what is planned, which stage is read from the log, and what counts as different."""

import random

import pytest
import ray  # noqa: F401  makes psutil importable: it must come first

# isort: split
import psutil

from benchmarks import chaos
from benchmarks.ray_nodes import free_port, is_busy

SECONDS = {"extract": 80.0, "train baseline": 100.0, "tune": 40.0, "train defended": 200.0, "evaluate": 90.0}


def test_a_node_in_every_stage_the_server_in_two_the_dashboard_in_one_at_moments_within_them():
    events = chaos.plan(SECONDS, random.Random(0))
    assert [event.stage for event in events if event.what == "node"] == list(chaos.STAGES)
    assert len({event.stage for event in events if event.what == "s3"}) == 2
    assert [event.what for event in events].count("dashboard") == 1
    assert all(0.2 * SECONDS[event.stage] <= event.delay_s <= 0.8 * SECONDS[event.stage] for event in events)
    assert chaos.plan(SECONDS, random.Random(0)) == events != chaos.plan(SECONDS, random.Random(1))


def job_that_said(tmp_path, text: str) -> chaos.Pipeline:
    job = chaos.Pipeline.__new__(chaos.Pipeline)
    job.log, job.start = tmp_path / "log", len("of the last submission\npipeline: tune ...\n")
    job.log.write_text("of the last submission\npipeline: tune ...\n" + text)
    return job


def test_the_stage_under_way_and_the_seconds_of_those_that_ended(tmp_path):
    assert job_that_said(tmp_path, "preflight: nothing would fail\n").stage() is None
    begun = "pipeline: demo data ...\npipeline: demo data: {'real': 3} (5 s)\npipeline: train baseline ...\n"
    assert job_that_said(tmp_path, begun).stage() == "train baseline"
    job = job_that_said(tmp_path, begun + "pipeline: train baseline: baseline: validation AUC 0.8 (1 s), more (90 s)\n")
    assert job.stage() is None and job.seconds() == {"demo data": 5.0, "train baseline": 90.0}


class Broken:
    """Counts what is broken; there is no busy node in the first second."""

    def __init__(self):
        self.done = []

    def busy_nodes(self):
        self.done.append("asked")
        return ["node"] if len(self.done) > 1 else []

    def kill_node(self, node):
        self.done.append(node)

    def add_node(self):
        self.done.append("another")


def test_an_event_comes_once_in_its_stage_and_is_tried_again_until_there_is_something_to_break(monkeypatch, capsys):
    monkeypatch.setattr(chaos, "NODE_AWAY_S", 0)
    clock = iter(range(100))
    monkeypatch.setattr(chaos.time, "monotonic", lambda: next(clock))
    cluster, event = Broken(), chaos.Event("node", "tune", 0.0)
    broken = chaos.Chaos([event, chaos.Event("node", "evaluate", 0.0)], cluster, None, random.Random(0))
    broken.act("extract")
    broken.act(None)
    assert cluster.done == []
    for _ in range(4):
        broken.act("tune")
    assert cluster.done == ["asked", "asked", "node", "another"] and event.hit == "tune"
    assert "tune, second" in capsys.readouterr().out


@pytest.mark.parametrize("other, told", [
    ({"a": [1, {"b": 2}]}, []), ({"a": [1, {"b": 3}]}, [".a[1].b: 2 / 3"]), ({"a": [1]}, [".a: [1, {'b': 2}] / [1]"]), ({}, [".a: [1, {'b': 2}] / None"])])
def test_differences_are_told_by_their_place(other, told):
    assert chaos.differences({"a": [1, {"b": 2}]}, other) == told


def test_a_worker_without_work_is_not_busy():
    class Named:
        def __init__(self, title):
            self.title = title

        def cmdline(self):
            if self.title is None:
                raise psutil.NoSuchProcess(1)
            return [self.title]

    titles = ("ray::RayTrainWorker.execute", "ray::IDLE", "ray::DashboardAgent", "/usr/bin/raylet", None)
    assert [is_busy(Named(title)) for title in titles] == [True, False, False, False, False]
    assert 20_000 <= free_port() < 32_000
