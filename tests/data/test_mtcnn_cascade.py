"""MTCNN's cascade against facenet-pytorch's own."""

import cv2
import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils.detect_face import batched_nms_numpy
from torch.nn.functional import interpolate

from robust.data import mtcnn_cascade
from robust.data.mtcnn_cascade import WINDOW, Cascade
from robust.data.video import read_frames
from tests import clips

SMALLEST = 15


@pytest.fixture(scope="module")
def frames():
    """One face, two in the place of one, and none."""
    torch.set_num_threads(1)
    real = read_frames(clips.real_face(), count=2, name="real face").frames
    small = np.stack([cv2.resize(frame, (320, 180), interpolation=cv2.INTER_AREA) for frame in real])
    two = np.concatenate([cv2.resize(small[0], (160, 180), interpolation=cv2.INTER_AREA), small[1][:, 80:240]], axis=1)
    return np.stack([*small, two, np.full_like(two, 90)])


@pytest.fixture(scope="module")
def theirs(frames):
    """What facenet-pytorch finds: boxes, probabilities and landmarks of each frame."""
    boxes, scores, points = MTCNN(keep_all=True, select_largest=False, min_face_size=SMALLEST, device="cpu").detect(frames, landmarks=True)
    return [([], [], []) if box is None else (box.astype(float), score, point) for box, score, point in zip(boxes, scores, points)]


def cascade():
    carried = MTCNN(device="cpu")
    return Cascade(carried.pnet, carried.rnet, carried.onet, torch.device("cpu"))


def farthest(frames, theirs):
    """The largest distance of a side or a landmark from theirs, as a share of the face's height; and of a probability."""
    far, unlike = 0.0, 0.0
    for (boxes, scores, points), (own_boxes, own_scores, own_points) in zip(theirs, cascade().detect(frames, smallest=SMALLEST)):
        assert len(own_boxes) == len(boxes)
        for box, score, point in zip(boxes, scores, points):
            near = np.abs(own_boxes - box).sum(1).argmin()
            height = box[3] - box[1]
            far = max(far, np.abs(own_boxes[near] - box).max() / height, np.abs(own_points[near] - point).max() / height)
            unlike = max(unlike, abs(own_scores[near] - score))
    return far, unlike


def area(frames, pixels, height, width):
    return interpolate(pixels.float(), size=(height, width), mode="area")


def area_crop(frame, side):
    return interpolate(torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float(), size=(side, side), mode="area")[0]


def test_shrunk_as_theirs_the_cascade_finds_what_theirs_finds(frames, theirs, monkeypatch):
    assert [len(boxes) for boxes, _, _ in theirs] == [1, 1, 2, 0]
    monkeypatch.setattr(mtcnn_cascade, "_level", area)
    monkeypatch.setattr(mtcnn_cascade, "_crop", area_crop)
    far, unlike = farthest(frames, theirs)
    assert far < 1e-4 and unlike < 1e-4


def test_shrunk_our_way_it_finds_the_same_faces_nearby(frames, theirs):
    far, unlike = farthest(frames, theirs)
    assert far < 0.1 and unlike < 0.05


def test_frames_smaller_than_the_smallest_face_have_none():
    frames = np.random.default_rng(0).integers(0, 255, (2, WINDOW + 1, 40, 3)).astype(np.uint8)
    assert [len(found[0]) for found in cascade().detect(frames, smallest=30)] == [0, 0]


def test_faces_inside_surer_ones_go_as_they_do_there():
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 60, (200, 2)), rng.uniform(10, 40, (200, 2))
    boxes, scores = torch.tensor(np.hstack([corners, corners + sides])).float(), torch.tensor(rng.uniform(0.7, 1, 200)).float()
    owners = torch.tensor(rng.integers(0, 3, 200))
    kept = mtcnn_cascade._not_inside(boxes, scores, owners)
    assert 3 < len(kept) < 200 and kept.tolist() == batched_nms_numpy(boxes, scores, owners, 0.7, "Min").tolist()
