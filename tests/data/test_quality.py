"""Sharpness, yaw and what the filter refuses."""

import cv2
import numpy as np
import pytest

from robust.config import ExtractConfig, FilterConfig
from robust.data.faces import Face, build_detector
from robust.data.quality import refusal, sharpness, yaw
from robust.data.video import read_frames
from tests import clips

BOX = (10, 10, 122, 122)
HEAD = np.array([[-1, 0, 0], [1, 0, 0], [0, 0.6, 1], [-0.8, 1.3, 0.2], [0.8, 1.3, 0.2]])
"""(5, 3) right, down and to the front of eyes, nose and mouth, in halves of the distance between the pupils."""


def seen(degrees, *, roll=0.0, scale=30.0):
    """(5, 2) landmarks of a head turned to the picture's right, from afar."""
    a, b = np.radians(degrees), np.radians(roll)
    flat = np.stack([HEAD[:, 0] * np.cos(a) + HEAD[:, 2] * np.sin(a), HEAD[:, 1]], 1)
    return scale * flat @ np.array([[np.cos(b), -np.sin(b)], [np.sin(b), np.cos(b)]]).T + [100, 80]


@pytest.mark.parametrize("roll", [0, 20, -35])
@pytest.mark.parametrize("degrees", [-80, -30, 0, 12, 45, 75])
def test_the_yaw_of_a_turned_head_is_found_whatever_its_tilt_and_size(degrees, roll):
    # The nose lies below the eyes: only along the eyes' own line does it tell the yaw of a tilted head.
    assert yaw(seen(degrees, roll=roll, scale=20 + abs(degrees))) == pytest.approx(degrees, abs=1e-6)


def test_eyes_in_one_place_are_a_profile():
    assert abs(yaw(np.zeros((5, 2)))) == 90


def test_sharpness_in_closed_form_and_falling_with_blur():
    frame = np.zeros((140, 140, 3), np.uint8)
    frame[:, ::2] = 200  # Laplacian -400 or 400 everywhere, by OpenCV's reflected border at the edges too
    assert sharpness(frame, BOX) == pytest.approx(400**2, rel=0.02)
    assert sharpness(np.full_like(frame, 90), BOX) == 0
    noise = np.random.default_rng(0).integers(0, 255, (140, 140, 3)).astype(np.uint8)
    values = [sharpness(cv2.GaussianBlur(noise, (0, 0), sigma), BOX) for sigma in (0.5, 1, 2, 4)]
    assert values == sorted(values, reverse=True) and values[0] > 20 * values[-1]


@pytest.mark.parametrize("box", [(-50, -50, 30, 30), (130, 120, 300, 300), (5, 5, 5.4, 5.4)])
def test_boxes_at_and_beyond_the_border_have_a_sharpness(box):
    noise = np.random.default_rng(0).integers(0, 255, (140, 140, 3)).astype(np.uint8)
    assert np.isfinite(sharpness(noise, box))


def test_each_bound_refuses_what_it_is_for_and_the_default_nothing():
    noise = np.random.default_rng(0).integers(0, 255, (140, 140, 3)).astype(np.uint8)
    face = Face(np.array([40, 40, 100, 100], np.float32), 0.9, seen(50))
    flat = np.full_like(noise, 80)
    assert refusal(face, flat, FilterConfig()) is None
    assert refusal(face, noise, FilterConfig(min_size=60)) is None
    assert refusal(face, noise, FilterConfig(min_size=61)) == "small"
    assert refusal(face, noise, FilterConfig(min_sharpness=5)) is None
    assert refusal(face, flat, FilterConfig(min_sharpness=5)) == "blurred"
    assert refusal(face, noise, FilterConfig(max_yaw=51)) is None
    assert refusal(face, noise, FilterConfig(max_yaw=49)) == "turned"


def test_a_real_face_blurred_mirrored_and_as_it_is():
    frame = read_frames(clips.real_face(), count=1, name="real face").frames
    detector = build_detector(ExtractConfig(detector="retinaface"), device="cpu", threads=1)
    face, mirrored = detector.detect(frame)[0][0], detector.detect(np.ascontiguousarray(frame[:, :, ::-1]))[0][0]
    assert abs(yaw(face.landmarks)) < 25  # he looks at the camera
    assert yaw(mirrored.landmarks) == pytest.approx(-yaw(face.landmarks), abs=4)
    assert sharpness(frame[0], face.box) > 10 * sharpness(cv2.GaussianBlur(frame[0], (0, 0), 5), face.box)
