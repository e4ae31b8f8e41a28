"""Aligned crops: the transform in closed form, the pixels against a direct computation."""

import numpy as np
import pytest

from robust.data.align import TEMPLATE, TEMPLATE_SIDE, aligned_crop, aligned_matrix, aligned_side, similarity


def moved(points, degrees, scale, shift):
    a = np.radians(degrees)
    return scale * points @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]).T + shift


def test_a_known_similarity_is_found_again():
    rng = np.random.default_rng(0)
    for _ in range(50):
        degrees, scale, shift = rng.uniform(-180, 180), rng.uniform(0.1, 10), rng.uniform(-100, 100, 2)
        points = rng.normal(size=(5, 2))
        matrix = similarity(points, moved(points, degrees, scale, shift))
        assert np.allclose(points @ matrix[:, :2].T + matrix[:, 2], moved(points, degrees, scale, shift))


def test_it_is_the_least_squares_one_and_never_a_mirroring():
    rng = np.random.default_rng(1)
    points, target = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    x, y = points.T
    # The four numbers (a, b, tx, ty) of x' = a x - b y + tx, y' = b x + a y + ty, by the normal equations.
    rows = np.concatenate([np.stack([x, -y, np.ones(5), np.zeros(5)], 1), np.stack([y, x, np.zeros(5), np.ones(5)], 1)])
    a, b, tx, ty = np.linalg.lstsq(rows, np.concatenate([target[:, 0], target[:, 1]]), rcond=None)[0]
    assert np.allclose(similarity(points, target), [[a, -b, tx], [b, a, ty]])
    mirrored = similarity(TEMPLATE, TEMPLATE * [-1, 1])
    assert np.linalg.det(mirrored[:, :2]) >= 0


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan)])
def test_landmarks_without_a_pose_are_refused(points):
    with pytest.raises(ValueError, match="landmarks"):
        similarity(points, TEMPLATE)


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("degrees", [0, 25, -70])
def test_the_crop_shows_each_point_of_the_frame_where_the_matrix_says(degrees, margin):
    height, width, side = 200, 260, 90
    y, x = np.mgrid[:height, :width]
    frame = np.stack([x * 255 / (width - 1), y * 255 / (height - 1), np.zeros_like(x)], -1).round().astype(np.uint8)
    landmarks = moved(TEMPLATE - 56, degrees, 0.9, [130, 100])
    crop = aligned_crop(frame, landmarks, side=side, margin=margin)
    matrix = np.vstack([aligned_matrix(landmarks, side=side, margin=margin), [0, 0, 1]])
    v, u = np.mgrid[:side, :side]
    from_x, from_y, _ = np.linalg.inv(matrix) @ np.stack([u.ravel(), v.ravel(), np.ones(side * side)])
    expected = np.stack([from_x.clip(0, width - 1) * 255 / (width - 1), from_y.clip(0, height - 1) * 255 / (height - 1)], -1)
    assert np.abs(crop[..., :2].reshape(-1, 2) - expected).max() < 1.6  # rounding of the frame, of the crop and of OpenCV's fixed point
    points = landmarks @ matrix[:2, :2].T + matrix[:2, 2]
    assert np.allclose(points, (TEMPLATE + 0.5 + TEMPLATE_SIDE * margin / 2) * side / (TEMPLATE_SIDE * (1 + margin)) - 0.5)


def test_a_crop_has_as_many_pixels_as_the_face():
    for scale in (0.5, 1, 2.5):
        assert aligned_side(moved(TEMPLATE, 40, scale, [30, -9]), margin=0) == round(scale * TEMPLATE_SIDE)
        assert aligned_side(moved(TEMPLATE, 40, scale, [30, -9]), margin=1) == round(2 * scale * TEMPLATE_SIDE)


def test_a_much_smaller_crop_is_averaged():
    checker = np.repeat((np.indices((400, 400)).sum(0) % 2 * 200)[..., None], 3, 2).astype(np.uint8)
    crop = aligned_crop(checker, moved(TEMPLATE - 56, 10, 3, [200, 200]), side=56, margin=0)  # 6 to 1
    assert np.abs(crop.astype(int) - 100).max() < 10
