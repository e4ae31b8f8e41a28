"""Certificates as part of jobs.evaluate: the votes are the model's, resumed, and the same however the work is cut."""

import numpy as np
import pytest
import torch
from test_evaluate import RUN, SIZE, config_of, summary_of, write_crops, write_models

import jobs.evaluate as job
from jobs import block_tasks, smoothing_tasks
from robust.data.face_table import read_faces
from robust.data.images import decode_image
from robust.data.inputs import to_input
from robust.defenses.smoothing import Smoothing, certify, count_votes
from robust.models.checkpoint import load_checkpoint
from robust.storage import Storage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoothing")
    storage = Storage.from_config(config_of(folder).storage)
    write_models(storage, *write_crops(storage))
    return folder


def config(folder, *, smoothing=None, **evaluate):
    smoothing = {"enabled": True, "sigmas": [4, 64], "n0": 5, "n": 20, **(smoothing or {})}
    return config_of(folder, **{"epsilons": [0.5], "bootstrap": 10, "gates": {"enabled": False}, "smoothing": smoothing, **evaluate})


@pytest.fixture
def by_hand(monkeypatch):
    """No Ray: tasks run in this process, the last first; returns how many were run of each measurement."""
    done = []

    def one_by_one(config, storage, tasks, **_):
        done.extend(task.measure for task in tasks for _ in task.items)
        return sum(block_tasks.run_task(config, storage, task) for task in reversed(tasks))

    monkeypatch.setattr(job, "run_tasks", one_by_one)
    monkeypatch.setattr(job, "make_gallery", lambda *_: [])
    return done


def kept(storage):
    return storage.read_table(f"{RUN}/evaluate/certificates.parquet")


def test_certificates_are_resumed_and_the_same_however_they_are_cut(folder, by_hand):
    storage = Storage.from_config(config(folder).storage)
    job.evaluate(config(folder), storage)
    first, rows = summary_of(folder)["smoothing"], kept(storage)
    assert len(rows) == 2 * 2 * 16 and first["crops"] == 16  # one frame of each video
    assert [(record["model"], record["sigma"]) for record in first["records"]] == [
        ("baseline", 4), ("defended", 4), ("baseline", 64), ("defended", 64)]
    ran = by_hand.count(smoothing_tasks.certify_crops)

    for key in storage.list(f"{RUN}/evaluate/blocks")[::2]:
        storage.delete(key)
    job.evaluate(config(folder), storage)
    again = by_hand.count(smoothing_tasks.certify_crops) - ran
    assert 0 < again < ran and summary_of(folder)["smoothing"] == first and kept(storage).equals(rows)

    job.evaluate(config(folder, block_size=3, batch_size=2), storage)
    other = kept(storage)
    votes = np.abs(other.column("votes").to_numpy() - rows.column("votes").to_numpy())
    assert votes.max() <= 1 and (votes > 0).mean() < 0.1  # a logit within rounding of 0 may fall on its other side
    assert other.select(["model", "sigma", "video_id", "frame_index"]).equals(rows.select(["model", "sigma", "video_id", "frame_index"]))


def test_the_votes_are_the_models_under_noise_of_the_images_own(folder, by_hand):
    settings = config(folder)
    storage = Storage.from_config(settings.storage)
    job.evaluate(settings, storage)
    crops = {(row["video_id"], row["frame_index"]): row for row in read_faces(storage, RUN, split="test").to_pylist()}
    model, _ = load_checkpoint(storage, f"{RUN}/train/baseline")
    item = Smoothing(64, 5, 20, 0.001)
    checked = 0
    for row in kept(storage).to_pylist():
        if row["model"] == "baseline" and row["sigma"] == 64:
            x = to_input([decode_image(crops[row["video_id"], row["frame_index"]]["image"])], SIZE)
            chosen, votes = count_votes(model.eval(), x, item, seed=settings.run.seed)
            assert abs(votes[0] - row["votes"]) <= 1
            certified = certify(np.array([row["votes_to_choose"]]), np.array([row["votes"]]), item)
            assert (row["verdict"], row["radius"]) == (certified.verdict[0], pytest.approx(certified.radius[0]))
            assert row["abstains"] == (row["verdict"] == -1)
            with torch.no_grad():
                assert row["clean"] == pytest.approx(model(x).item(), abs=1e-4)
            checked += 1
    assert checked == 16


def test_switched_off_by_default_nothing_is_certified(folder, by_hand):
    off = config_of(folder, epsilons=[0.5], bootstrap=10, gates={"enabled": False})
    assert off.evaluate.smoothing.enabled is False
    job.evaluate(off, Storage.from_config(off.storage))
    assert summary_of(folder)["smoothing"] is None and smoothing_tasks.certify_crops not in by_hand


def test_another_budget_is_another_result(folder):
    settings = config(folder)
    storage = Storage.from_config(settings.storage)
    candidate = job.find_candidates(settings, storage)[0]
    block = job.blocks.plan_blocks(job.read_status(storage, RUN), split="test", block_size=8)[0]
    facts = ((4, 5, 20, 0.001), (8, 5, 20, 0.001), (4, 6, 20, 0.001), (4, 5, 21, 0.001), (4, 5, 20, 0.01))
    assert len({block_tasks.result_key(settings, candidate, block, Smoothing(*fact)) for fact in facts}) == 5
