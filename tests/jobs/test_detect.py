"""jobs/detect.py: what is found in a folder, exit codes, which checkpoint. Faces are planted, the model untrained."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import jobs.detect as job
from jobs.cli import run_job
from robust.data import faces
from robust.data.faces import Face
from robust.models.checkpoint import save_checkpoint
from robust.models.detector import Architecture, empty_detector
from robust.storage import Storage
from tests import clips

MTCNN = faces.DETECTORS["mtcnn"]


class Middle:
    """A face in the middle of every frame that is not black."""

    def __init__(self, **_):
        pass

    def detect(self, frames):
        height, width = frames.shape[1:3]
        box = np.array([width * 0.3, height * 0.2, width * 0.7, height * 0.8], np.float32)
        return [[Face(box, 0.99, np.zeros((5, 2), np.float32))] if frame.max() > 20 else [] for frame in frames]


def save_model(storage, key, *, seed=0, **card):
    torch.manual_seed(seed)
    model = empty_detector(Architecture("meso_inception4", 64, (0.5,) * 3, (0.5,) * 3, None))
    card = {"threshold": 0.0, "frame_threshold": 0.0, "threshold_rule": "made up", **card}
    return save_checkpoint(storage, key, model, card)


@pytest.fixture
def run(tmp_path, capfd, monkeypatch):
    """Runs the job: run("detect.input=...") -> (exit code, stdout, stderr); its output lies in tmp_path/out."""
    monkeypatch.setitem(faces.DETECTORS, "mtcnn", Middle)
    monkeypatch.setattr("jobs.cli._stop_on_signals", lambda: None)
    (tmp_path / "config.yaml").write_text(f"run: {{name: here}}\nstorage: {{uri: {tmp_path / 'storage'}}}\n"
                                          f"detect: {{output: {tmp_path / 'out'}, frames: 3}}\n")

    def run(*arguments):
        code = run_job("detect", job.main, needs_ray=False, in_run_folder=False,
                       argv=["--config", str(tmp_path / "config.yaml"), *arguments])
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def noise():
    rng = np.random.default_rng(0)
    return lambda: rng.integers(0, 255, (64, 80, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, noise):
    """A video, a photograph, a video without a face, a damaged one, and a text file."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(clips.clip([noise() for _ in range(7)]))
    (folder / "dark.mp4").write_bytes(clips.clip([np.zeros((64, 80, 3), np.uint8)] * 4))
    Image.fromarray(noise()).save(folder / "deep" / "ä b.jpg")
    (folder / "damaged.mp4").write_bytes(b"\0" * 500)
    (folder / "list.txt").write_text("not for us")
    return folder


def verdicts_of(tmp_path):
    document = json.loads((tmp_path / "out/verdicts.json").read_text())
    return document, {one["name"]: one for one in document["verdicts"]}


def test_a_folder_gives_a_verdict_or_a_reason_for_every_file(run, folder, local_storage, tmp_path):
    card = save_model(local_storage, "here/train/baseline")
    code, out, err = run(f"detect.input={folder}")
    assert code == 0, err
    document, verdicts = verdicts_of(tmp_path)
    assert list(verdicts) == ["a.mp4", "damaged.mp4", "dark.mp4", "deep/ä b.jpg"]
    assert {name: one["status"] for name, one in verdicts.items()} == {
        "a.mp4": "ok", "damaged.mp4": "unreadable", "dark.mp4": "no_face", "deep/ä b.jpg": "ok"}
    assert verdicts["a.mp4"]["verdict"] in ("fake", "real") and len(verdicts["a.mp4"]["frames"]) == 3
    assert verdicts["damaged.mp4"]["reason"] and verdicts["damaged.mp4"]["picture"] is None
    assert document["skipped"] == [{"name": "list.txt", "reason": "not a video or an image by its name"}]
    assert document["checkpoint"]["sha256"] == card["sha256"]
    assert document["thresholds"]["video"] == {"logit": 0.0, "rule": "made up, video scores"}
    for name in ("a.mp4", "dark.mp4", "deep/ä b.jpg"):
        Image.open(tmp_path / "out" / verdicts[name]["picture"]).verify()
    for name, one in verdicts.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert one["verdict"] in line and one["reason"] in line
    assert "skipped list.txt" in out and out.splitlines()[-1].startswith("detect: 4 files: ")
    assert json.loads((tmp_path / "out/result.json").read_text())["status"] == "done"


@pytest.mark.parametrize(("threshold", "verdict"), [(-100, "fake"), (100, "real")])
def test_the_exit_code_is_0_whatever_the_verdict(run, folder, local_storage, tmp_path, threshold, verdict):
    save_model(local_storage, "here/train/baseline")
    code, out, _ = run(f"detect.input={folder / 'a.mp4'}", f"detect.threshold={threshold}")
    document, verdicts = verdicts_of(tmp_path)
    assert (code, verdicts["a.mp4"]["verdict"], document["counts"][verdict]) == (0, verdict, 1)
    assert "detect.threshold" in out
    assert run(f"detect.input={folder / 'dark.mp4'}")[0] == 0
    assert verdicts_of(tmp_path)[0]["counts"]["undecided"] == 1


def test_one_file_that_cannot_be_read_is_a_failure(run, folder, local_storage, tmp_path):
    save_model(local_storage, "here/train/baseline")
    code, _, err = run(f"detect.input={folder / 'damaged.mp4'}")
    assert code == 1 and "damaged.mp4 cannot be read: not a video" in err.splitlines()[-1]
    assert verdicts_of(tmp_path)[1]["damaged.mp4"]["verdict"] == "undecided"


def test_what_is_missing_is_said(run, folder, local_storage, tmp_path):
    code, _, err = run()
    assert code == 2 and "detect.input" in err
    code, _, err = run(f"detect.input={tmp_path / 'nowhere.mp4'}")
    assert code == 1 and "nowhere.mp4 does not exist" in err
    code, _, err = run(f"detect.input={folder}")
    assert code == 1 and "run jobs.train first" in err
    code, _, err = run(f"detect.input={folder}", f"detect.checkpoint={tmp_path / 'nothing'}")
    assert code == 1 and "no model.safetensors" in err
    assert run(f"detect.input={folder}", "detect.checkpoint=s3://bucket")[0] == 2
    (tmp_path / "void").mkdir()
    save_model(local_storage, "here/train/baseline")
    code, _, err = run(f"detect.input={tmp_path / 'void'}")
    assert code == 1 and "no video or image" in err
    assert not (tmp_path / "out").exists()


def test_the_defended_model_is_preferred_and_another_can_be_given(run, folder, local_storage, tmp_path):
    found = []
    for place in ("here/train/baseline", "here/train/defended", "elsewhere/mine"):
        card = save_model(local_storage, place, seed=len(found))
        given = [f"detect.checkpoint={local_storage.uri(place)}"] if place.startswith("elsewhere") else []
        assert run(f"detect.input={folder / 'a.mp4'}", *given)[0] == 0
        document, _ = verdicts_of(tmp_path)
        used = document["checkpoint"]
        assert (used["sha256"], used["uri"]) == (card["sha256"], local_storage.uri(place))
        found.append(document["verdicts"][0]["score"])
    assert len(set(found)) == 3


def test_its_own_pictures_are_not_judged(run, folder, local_storage, tmp_path):
    save_model(local_storage, "here/train/baseline")
    for _ in range(2):
        assert run(f"detect.input={folder}", f"detect.output={folder / 'out'}")[0] == 0
    document = json.loads((folder / "out/verdicts.json").read_text())
    assert len(document["verdicts"]) == 4
    assert {"name": "out/verdicts.json", "reason": "written by this job (detect.output)"} in document["skipped"]


def test_crops_unlike_those_of_training_are_warned_of(run, folder, local_storage, tmp_path):
    save_model(local_storage, "here/train/baseline", extract={"margin": 0.3})
    _, out, _ = run(f"detect.input={folder / 'a.mp4'}", "extract.margin=0.6")
    assert "warning: extract.margin is 0.6, the checkpoint was trained with 0.3" in out


def test_checkpoint_input_and_output_may_be_in_a_bucket(run, folder, s3, tmp_path):
    bucket = Storage.from_config(s3)
    card = save_model(bucket, "models/mine")
    bucket.upload(folder / "a.mp4", "videos/a.mp4")
    code, _, err = run(f"detect.input={s3.uri}/videos", f"detect.checkpoint={s3.uri}/models/mine",
                       f"detect.output={s3.uri}/verdicts")
    assert code == 0, err
    document = bucket.read_json("verdicts/verdicts.json")
    assert document["checkpoint"]["sha256"] == card["sha256"]
    assert document["verdicts"][0]["frames_with_face"] == 3
    assert bucket.read_bytes("verdicts/pictures/a.mp4.png").startswith(b"\x89PNG")


def test_a_real_face_is_found_by_the_real_detector_and_no_ray_is_needed(run, local_storage, tmp_path, monkeypatch):
    monkeypatch.setitem(faces.DETECTORS, "mtcnn", MTCNN)
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it would fail
    save_model(local_storage, "here/train/baseline")
    code, out, err = run(f"detect.input={clips.real_face()}", "detect.frames=2", "extract.detect_size=320")
    assert code == 0 and "single_face.mp4" in out, err
    (verdict,) = verdicts_of(tmp_path)[1].values()
    assert verdict["frames_with_face"] == 2 and verdict["verdict"] in ("fake", "real")
    for frame in verdict["frames"]:
        x0, y0, x1, y1 = frame["box"]
        assert x0 < 300 < x1 and y0 < 180 < y1  # the middle of the man's face
