"""benchmarks/search_kills.py: what it calls lost and run twice, the faces that it takes, and the AUC that it compares by."""

import copy
import subprocess
import sys

import numpy as np
import pytest
from tiny_run import write_faces

from benchmarks import search_kills as module
from jobs.known_trials import KnownTrial
from robust.config_file import parse
from robust.data.face_table import read_faces
from robust.data.shards import read_status
from robust.evaluation.metrics import auc


def row(name: str, epsilon: float, **changes) -> dict:
    return {"trial": name, "settings": {"epsilon": epsilon, "steps": 1}, "status": "done", "error": None, "seconds": 3.5, "robust_auc": 0.5, **changes}


TABLE = [row("a", 0.5), row("b", 0.7), row("c", 0.9)]
KNOWN = [[KnownTrial("a", {}, True, {"time_total_s": 3.5, "robust_auc": 0.5}), KnownTrial("b", {}, False, {})]]


def changed(place: int, **changes) -> list[dict]:
    table = copy.deepcopy(TABLE)
    table[place].update(changes)
    return table


@pytest.mark.parametrize(("table", "told"), [
    (TABLE, None), (TABLE[:2], "2 trials in place of 3"), ([TABLE[0], TABLE[2], row("d", 0.1)], "trial b was known at kill 1 and is lost"),
    (changed(2, trial="b"), "trial b is there 2 times"), (changed(1, status="error", error="no"), "trial b failed: no"),
    (changed(1, settings={"epsilon": 0.5, "steps": 1}), "2 trials have the settings"), (changed(0, seconds=7.1), "trial a had ended at kill 1 and was run again"),
    (changed(1, seconds=7.1), None),  # it ran on: more seconds than at the kill
])
def test_a_lost_and_a_repeated_trial_are_found(table, told):
    found = module.problems(table, KNOWN, samples=3)
    assert found == [] if told is None else len(found) == 1 and found[0].startswith(told)


def test_the_small_run_has_a_face_of_some_videos_of_each_split_and_the_search_its_own_settings(local_storage, tmp_path, monkeypatch):
    write_faces(local_storage, "big", splits={"train": 8, "val": 4, "test": 3}, people=2)
    monkeypatch.setattr(module, "VIDEOS", {"train": 6, "val": 8, "test": 4})
    config = parse({"run": {"name": "big"}, "model": {"name": "test_resnet", "input_size": 32, "weights": "none"},
                    "storage": {"uri": str(tmp_path)}, "tune": {"samples": 2, "threat": {"epsilon": 3}}})
    module.copy_faces(local_storage, config, "small")
    for split, label_count in (("train", 3), ("val", 4), ("test", 2)):
        faces = read_faces(local_storage, "small", split=split)
        assert np.bincount(faces.column("label").to_numpy()).tolist() == [label_count] * 2
        assert len(set(faces.column("video_id").to_pylist())) == len(faces)
    assert len(read_status(local_storage, "small")) == 6 + 8 + 4
    child = module.search_config(config, "small", outputs=tmp_path)
    assert (child.run.name, child.tune.samples, child.tune.threat.epsilon, child.tune.winner) == ("small", 24, 3, "report")


def test_a_weighted_auc_counts_a_sample_as_often_as_its_weight():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 30).astype(float), rng.integers(0, 2, 30)
    weights = rng.integers(0, 3, (4, 30))
    expected = [auc(np.repeat(scores, counts), np.repeat(labels, counts)) for counts in weights]
    assert np.allclose(module.weighted_auc(scores, labels, weights), expected)
    assert np.isnan(module.weighted_auc(scores, labels, labels[None])).all()


def test_a_kill_takes_the_children_along():
    code = "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True); time.sleep(600)"
    job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    child = int(job.stdout.readline())
    module.kill(job)
    assert job.poll() == -9 and not module.psutil.pid_exists(child)
