"""The corruption grid as part of jobs.evaluate: the right crops at the right size, resumed, the same however it is cut."""

import numpy as np
import pyarrow as pa
import pytest
from test_evaluate import RUN, SIZE, config_of, one_by_one, summary_of, write_crops, write_models

import jobs.evaluate as job
from jobs import block_tasks, corruption_tasks
from robust.data.face_table import read_faces
from robust.data.inputs import to_input
from robust.evaluation.corruptions import CLEAN, KINDS, Corruption, corrupt
from robust.models.checkpoint import load_checkpoint
from robust.storage import Storage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corruptions")
    storage = Storage.from_config(config_of(folder).storage)
    write_models(storage, *write_crops(storage))
    return folder


def config(folder, **evaluate):
    settings = {"epsilons": [0.5], "bootstrap": 10, "gates": {"enabled": False}, "corruptions": {"severities": [2, 4], "frames_per_video": 2}}
    return config_of(folder, **{**settings, **evaluate})


@pytest.fixture
def by_hand(monkeypatch):
    monkeypatch.setattr(job, "run_tasks", one_by_one)
    monkeypatch.setattr(job, "make_gallery", lambda *_: [])


def kept(storage):
    return storage.read_table(f"{RUN}/evaluate/corruptions.parquet")


def test_the_grid_is_measured_on_stored_crops_resumed_and_the_same_however_it_is_cut(folder, by_hand):
    storage = Storage.from_config(config(folder).storage)
    storage.delete_prefix(f"{RUN}/evaluate/blocks")
    result = job.evaluate(config(folder), storage)
    first, rows = summary_of(folder)["corruptions"], kept(storage)
    assert len(rows) == 2 * (1 + 12 * 2) * 16 * 2 and (first["videos"], first["crops"]) == (16, 32)
    assert [row["model"] for row in first["models"]] == ["baseline", "defended"]

    done = storage.list(f"{RUN}/evaluate/blocks")
    for key in done[::3]:
        storage.delete(key)
    job.evaluate(config(folder), storage)
    assert summary_of(folder)["corruptions"] == first and kept(storage).equals(rows)
    assert result["blocks_computed"] < len(done)  # attacks and corruptions each have results of their own

    smaller = config(folder, block_size=4)
    job.evaluate(smaller, storage)
    logits, again = rows.column("logit").to_numpy(), kept(storage)
    np.testing.assert_allclose(again.column("logit").to_numpy(), logits, atol=1e-4)
    assert again.drop_columns("logit").equals(rows.drop_columns("logit"))


def test_a_logit_is_the_models_of_the_corrupted_stored_crop(folder, by_hand):
    storage = Storage.from_config(config(folder).storage)
    job.evaluate(config(folder), storage)
    crops = {(row["video_id"], row["frame_index"]): row for row in read_faces(storage, RUN, split="test").to_pylist()}
    model, _ = load_checkpoint(storage, f"{RUN}/train/baseline")
    table = kept(storage).filter((pa.compute.field("model") == "baseline") & (pa.compute.field("severity") != 2))
    from robust.data.images import decode_image

    checked = 0
    for row in table.to_pylist()[::7]:
        name = row["corruption"]
        if name == "h264":
            continue  # depends on the other crops of its video
        item = CLEAN if name == "clean" else Corruption(name, 4, KINDS[name].amounts[3])
        image = decode_image(crops[row["video_id"], row["frame_index"]]["image"])
        assert image.shape == (40, 40, 3) and SIZE != 40
        (changed,) = corrupt([image], [row["video_id"]], [row["frame_index"]], item, seed=config(folder).run.seed)
        assert model.eval()(to_input([changed], SIZE)).item() == pytest.approx(row["logit"], abs=1e-3)
        checked += 1
    assert checked > 40


def test_switched_off_nothing_is_measured(folder, by_hand, monkeypatch):
    monkeypatch.setattr(corruption_tasks, "score_corrupted", None)
    off = config(folder, corruptions={"enabled": False})
    job.evaluate(off, Storage.from_config(off.storage))
    assert summary_of(folder)["corruptions"] is None


def test_another_amount_is_another_result(folder):
    off = config(folder)
    storage = Storage.from_config(off.storage)
    candidate = job.find_candidates(off, storage)[0]
    block = job.blocks.plan_blocks(job.read_status(storage, RUN), split="test", block_size=8)[0]
    keys = {block_tasks.result_key(off, candidate, block, Corruption(*facts))
            for facts in (("jpeg", 1, 25), ("jpeg", 1, 26), ("jpeg", 2, 25), ("blur", 1, 25))}
    assert len(keys) == 4
