"""Crop geometry against a direct computation, to the pixel."""

import numpy as np
import pytest

from robust.data.crop import crop_face, crop_window, shrink


def direct(box, height, width, margin):
    """The same by trial: of all squares inside the frame, the one whose centre is nearest to the face's."""
    x0, y0, x1, y1 = box
    side = max(1, round(max(x1 - x0, y1 - y0) * (1 + margin)))

    def place(low, high, limit):
        length = min(side, limit)
        wanted = round((low + high) / 2 - length / 2)
        start = min(range(limit - length + 1), key=lambda position: abs(position - wanted))
        return start, start + length

    (left, right), (top, bottom) = place(x0, x1, width), place(y0, y1, height)
    return left, top, right, bottom


def test_a_thousand_random_boxes_match_a_direct_computation():
    rng = np.random.default_rng(5)
    at_border = 0
    for _ in range(1000):
        height, width = rng.integers(20, 120, 2)
        centre = rng.uniform([0, 0], [width, height])
        size = rng.uniform(1, 90, 2)
        box = np.concatenate([centre - size / 2, centre + size / 2]).astype(np.float32)
        margin = float(rng.choice([0, 0.3, 1.0]))
        window = crop_window(box, height=height, width=width, margin=margin)
        assert window == direct([float(value) for value in box], height, width, margin)
        left, top, right, bottom = window
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        side = max(1, round(float(max(box[2] - box[0], box[3] - box[1])) * (1 + margin)))
        assert right - left == min(side, width) and bottom - top == min(side, height)
        at_border += left == 0 or top == 0 or right == width or bottom == height
    assert at_border > 200


def test_a_face_in_the_middle_keeps_its_margin_on_every_side():
    assert crop_window((40, 30, 60, 50), height=100, width=100, margin=0.5) == (35, 25, 65, 55)
    assert crop_window((40, 30, 50, 50), height=100, width=100, margin=0.0) == (35, 30, 55, 50)  # square, not stretched


def test_near_a_border_the_window_moves_inwards_with_the_face_in_it():
    left, top, right, bottom = crop_window((-5, 90, 15, 110), height=100, width=200, margin=0.3)
    assert (left, bottom) == (0, 100) and right - left == bottom - top == 26


def test_the_crop_is_the_frames_own_pixels():
    frame = np.random.default_rng(0).integers(0, 255, (50, 60, 3)).astype(np.uint8)
    left, top, right, bottom = crop_window((50, 5, 70, 20), height=50, width=60, margin=0.3)
    assert np.array_equal(crop_face(frame, (50, 5, 70, 20), margin=0.3), frame[top:bottom, left:right])


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9), (0, 0, np.nan, 5), (-20, 0, -1, 10), (60, 0, 80, 10)])
def test_boxes_without_a_face_are_refused(box):
    with pytest.raises(ValueError, match="face box"):
        crop_window(box, height=50, width=60, margin=0.3)


def test_shrink_keeps_the_aspect_and_never_enlarges():
    assert shrink(np.zeros((100, 200, 3), np.uint8), longer_side=50).shape == (25, 50, 3)
    assert shrink(np.zeros((4, 300, 30, 3), np.uint8), longer_side=100).shape == (4, 100, 10, 3)
    small = np.zeros((40, 50, 3), np.uint8)
    assert shrink(small, longer_side=50) is small
    checker = np.kron(np.indices((50, 50)).sum(0) % 2 * 200, np.ones((1, 1))).astype(np.uint8)
    averaged = shrink(np.repeat(checker[..., None], 3, 2), longer_side=25)
    assert np.all(averaged == 100)  # the mean of each 2 x 2, not one of its pixels
