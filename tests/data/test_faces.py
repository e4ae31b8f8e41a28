"""The face detectors on real faces, and what they must not do to the process around them."""

import numpy as np
import pytest
import torch

from robust.config import ExtractConfig
from robust.data.crop import shrink
from robust.data.faces import DETECTORS, build_detector
from robust.data.video import read_frames
from robust.errors import ConfigError
from tests import clips

BOX = (226, 72, 376, 288)  # by hand, of the first frame of the clip: hairline to chin, ear to ear


@pytest.fixture(scope="module", params=sorted(DETECTORS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def build(kind):
    """Builds the detector with settings of its own."""
    torch.set_num_threads(1)
    return lambda **settings: build_detector(ExtractConfig(detector=kind, **settings), device="cpu", threads=1)


@pytest.fixture(scope="module")
def detector(build):
    return build()


@pytest.fixture(scope="module")
def frames():
    return read_frames(clips.real_face(), count=3, name="real face").frames


def overlap(a, b):
    inside = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = max(inside[0], 0) * max(inside[1], 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_the_face_is_found_in_every_frame_with_its_landmarks(detector, frames):
    for faces in detector.detect(frames):
        assert len(faces) == 1
        (face,) = faces
        assert face.score > 0.99 and overlap(face.box, np.array(BOX, float)) > 0.6
        left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
        assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        assert np.all(face.landmarks > face.box[:2]) and np.all(face.landmarks < face.box[2:])


def test_boxes_are_in_pixels_of_the_frame_whatever_size_is_looked_at(build, frames):
    large = np.stack([np.kron(frame, np.ones((2, 2, 1), np.uint8)) for frame in frames[:1]])
    small = build(detect_size=320).detect(large)[0][0]
    plain = build().detect(frames[:1])[0][0]
    assert overlap(small.box / 2, plain.box) > 0.85
    assert np.abs(small.landmarks / 2 - plain.landmarks).max() < 12


def test_a_face_cut_by_the_edge_of_the_frame_is_found_in_its_place(kind, detector):
    whole = read_frames(clips.large_face(), count=12, name="large face").frames
    cut = whole[:, :, 140:500]  # the face reaches from about 330 to 550
    alone = detector._look(cut, 1.0)
    missed = [number for number, faces in enumerate(alone) if not faces]
    if kind == "mtcnn":
        assert len(missed) >= 4  # else the border is not needed any more
    missed = missed or list(range(0, len(cut), 2))
    found = detector.detect(cut[missed])
    expected = detector.detect(whole[missed])
    pairs = [(faces[0].box + [140, 0, 140, 0], one[0].box) for faces, one in zip(found, expected) if faces]
    right = [np.abs(box - true_box).max() < 30 for box, true_box in pairs]
    assert sum(right) >= len(missed) - 1


def test_a_frame_is_judged_alike_alone_and_in_a_batch(detector, frames):
    together = detector.detect(frames)
    for frame, faces in zip(frames, together):
        alone = detector.detect(frame[None])[0]
        assert len(alone) == len(faces) and np.abs(alone[0].box - faces[0].box).max() < 0.5


def test_settings_drop_small_and_doubtful_faces(build, frames):
    height = build().detect(frames[:1])[0][0].height
    assert build(min_face=int(height) + 20).detect(frames[:1]) == [[]]
    assert build(min_score=1.0).detect(frames[:1]) == [[]]


def test_no_face_where_there_is_none(detector):
    cartoon = read_frames(clips.cartoon(), count=2, name="cartoon").frames
    assert detector.detect(shrink(cartoon, longer_side=320)) == [[], []]
    assert detector.detect(np.zeros((2, 100, 100, 3), np.uint8)) == [[], []]
    assert detector.detect(np.zeros((1, 5, 200, 3), np.uint8)) == [[]]


def test_gradients_and_random_numbers_stay_as_they_were(build, frames):
    # T18: detectors of the reference switch gradients off for the whole process.
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            state = torch.get_rng_state()
            build().detect(frames[:1])
            assert torch.is_grad_enabled() is enabled and torch.equal(torch.get_rng_state(), state)
    x = torch.ones(2, requires_grad=True)
    (x * 3).sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_both_detectors_give_the_same_points_in_the_same_order(frames):
    looks = [build_detector(ExtractConfig(detector=kind), device="cpu", threads=1).detect(frames) for kind in DETECTORS]
    for (a,), (b,) in zip(*looks, strict=True):
        assert np.abs(a.landmarks - b.landmarks).max() < 0.1 * a.size  # nearest other point: 0.3 of it


def test_an_unknown_detector_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match=f"'haar' is not known; known are {', '.join(DETECTORS)}"):
        build_detector(ExtractConfig(detector="haar"))
