"""Exported adversarial examples: read back with another library, inside the ball, scored as the manifest says."""

import hashlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import RUN, SIZE, config_of, one_by_one, summary_of, write_crops, write_models

import jobs.evaluate as job
from jobs import export_tasks
from robust.data.face_table import read_faces
from robust.data.images import decode_image
from robust.data.inputs import resize
from robust.evaluation.export import round_inside, some_of_each
from robust.models.checkpoint import load_checkpoint
from robust.storage import Storage

FOLDER = f"{RUN}/evaluate/adversarial"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    storage = Storage.from_config(config_of(folder).storage)
    write_models(storage, *write_crops(storage))
    return folder


def config(folder, **export):
    export = {"crops": 8, "epsilon": 12.5, **export}
    return config_of(folder, epsilons=[0.5], bootstrap=10, gates={"enabled": False}, export=export)


@pytest.fixture
def by_hand(monkeypatch):
    monkeypatch.setattr(job, "run_tasks", one_by_one)
    monkeypatch.setattr(job, "make_gallery", lambda *_: [])


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_files_are_what_the_manifest_says_and_score_as_it_says(folder, by_hand):
    settings = config(folder)
    storage = Storage.from_config(settings.storage)
    job.evaluate(settings, storage)
    summary, raw = summary_of(folder)["export"], storage.read_bytes(f"{FOLDER}/manifest.json")
    assert hashlib.sha256(raw).hexdigest() == summary["sha256"]
    assert summary["manifest"] == "evaluate/adversarial/manifest.json"
    manifest = json.loads(raw)
    assert manifest["attack"]["label"] == summary["attack"] == "PGD-3" and manifest["attack"]["epsilon"] == 12.5
    stored = {(row["video_id"], row["frame_index"]): row for row in read_faces(storage, RUN, split="test").to_pylist()}
    turned, listed = {}, {f"{FOLDER}/manifest.json"}
    for place in manifest["models"]:
        model, card = load_checkpoint(storage, f"{RUN}/train/{place['model']}")
        assert place["sha256"] == card["sha256"]
        examples = [one for one in manifest["examples"] if one["model"] == place["model"]]
        assert sorted(one["label"] for one in examples) == [0] * 4 + [1] * 4
        assert len({one["video_id"] for one in examples}) == 8
        for one in examples:
            files = {}
            for which in ("clean", "adversarial"):
                data = storage.read_bytes(f"{FOLDER}/{one[which]['file']}")
                assert hashlib.sha256(data).hexdigest() == one[which]["sha256"]
                assert (folder / "outputs" / RUN / "evaluate/adversarial" / one[which]["file"]).read_bytes() == data
                files[which] = pixels(data)
                x = torch.tensor(files[which]).permute(2, 0, 1)[None].float() / 255
                with torch.no_grad():
                    assert model.eval()(x).item() == pytest.approx(one[which]["logit"], abs=1e-4)
                listed.add(f"{FOLDER}/{one[which]['file']}")
            image = stored[one["video_id"], one["frame_index"]]
            assert (files["clean"] == resize([decode_image(image["image"])], SIZE)[0]).all()
            assert image["label"] == one["label"]
            change = np.abs(files["adversarial"].astype(int) - files["clean"]).max()
            assert 0 < change <= 12 and change == one["largest_change"]
        caught = [one for one in examples if one["label"] == 1 and one["clean"]["logit"] > 0]
        turned[place["model"]] = (sum(one["adversarial"]["logit"] <= 0 for one in caught), len(caught))
    told = {row["model"]: row["fake_to_real"] for row in summary["models"]}
    assert {name: (figure["hits"], figure["among"]) for name, figure in told.items()} == turned
    assert sum(hits for hits, _ in turned.values()) > 0
    assert set(storage.list(FOLDER)) == listed
    page = folder / "outputs" / RUN / "report/index.html"
    assert 'href="../evaluate/adversarial/manifest.json"' in page.read_text()
    assert (page.parent / "../evaluate/adversarial/manifest.json").resolve().read_bytes() == raw


def test_finished_crops_are_found_again_and_files_of_an_earlier_export_go(folder, by_hand, monkeypatch):
    settings = config(folder, crops=4)
    storage = Storage.from_config(settings.storage)
    job.evaluate(settings, storage)
    first = summary_of(folder)["export"]
    assert len(storage.list(FOLDER)) == 2 * 4 * 2 + 1
    monkeypatch.setattr(export_tasks, "export_crops", None)
    job.evaluate(settings, storage)
    assert summary_of(folder)["export"] == first
    job.evaluate(config(folder, crops=0), storage)
    assert summary_of(folder)["export"] is None


def test_rounding_stays_in_the_ball_and_takes_the_nearest_value_there():
    clean = np.array([0, 3, 100, 100, 100, 254], np.uint8)
    moved = np.array([2.6, 0.2, 102.5, 101.4, 97.4, 256.0]) / 255
    assert round_inside(moved, clean, 2.5).tolist() == [2, 1, 102, 101, 98, 255]
    assert round_inside(moved, clean, 1).tolist() == [1, 2, 101, 101, 99, 255]


def test_crops_are_drawn_half_fake_where_there_are_as_many(folder):
    status = job.read_status(Storage.from_config(config(folder).storage), RUN)

    def labels(count, seed=0, table=status):
        return some_of_each(table, count, split="test", seed=seed).column("label").to_pylist()

    assert (sum(labels(6)), len(labels(6))) == (3, 6) and len(labels(100)) == 16
    few = status.filter([row["label"] == 1 or row["video_id"].endswith("id0") for row in status.to_pylist()])
    assert sorted(labels(6, table=few)) == [0, 1, 1, 1, 1, 1]
    drawn = [some_of_each(status, 4, split="test", seed=seed).column("video_id").to_pylist() for seed in range(5)]
    assert len(set(map(tuple, drawn))) == 5
