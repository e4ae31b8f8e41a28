"""robust/data/self_blend.py: known answers of each step, and blends that differ inside the mask alone."""

import dataclasses

import cv2
import numpy as np
import pytest
from scipy.stats import norm

from robust.data import self_blend as module
from robust.data.blend_mask import face_mask, fit_face, soften
from robust.data.face_swap import TEMPLATE, mix, transform
from robust.data.self_blend import STRENGTHS, as_target, self_blend

LANDMARKS = TEMPLATE.astype(np.float32)
FACE, MIDDLE = fit_face(LANDMARKS), LANDMARKS.mean(axis=0)
NONE = dataclasses.replace(
    STRENGTHS["faint"], rgb=0, hue=0, saturation=0, value=0, contrast=0, move=0, zoom=0, least=1.0, ratios=(1.0,)
)


@pytest.fixture
def image():
    coarse = np.random.default_rng(0).integers(40, 210, (14, 14, 3)).astype(np.uint8)
    return cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC)


def test_a_mask_of_zero_leaves_the_target_and_of_one_the_source(image):
    other = 255 - image
    assert np.array_equal(mix(other, image, np.zeros((112, 112), np.float32)), image)
    assert np.array_equal(mix(other, image, np.ones((112, 112), np.float32)), other)
    half = mix(np.full_like(image, 100), np.full_like(image, 50), np.full((112, 112), 0.5, np.float32))
    assert (half == 75).all()


def test_identical_copies_give_the_image_back_whatever_the_mask(image, monkeypatch):
    assert np.array_equal(mix(image, image, np.random.default_rng(1).random((112, 112)).astype(np.float32)), image)
    monkeypatch.setattr(module, "CHANGES", ())
    assert all(
        np.array_equal(self_blend(image, LANDMARKS, np.random.default_rng(seed), strength=NONE), image)
        for seed in range(10)
    )


def test_the_same_generator_gives_the_same_blend_and_the_image_stays(image):
    before = image.copy()
    for strength in STRENGTHS.values():
        blends = [
            self_blend(image, LANDMARKS, np.random.default_rng(seed), strength=strength)
            for seed in (*range(12), *range(12))
        ]
        assert all(one.shape == image.shape and one.dtype == np.uint8 for one in blends)
        assert all(np.array_equal(*pair) for pair in zip(blends[:12], blends[12:]))
        assert len({one.tobytes() for one in blends}) == 12
    assert np.array_equal(image, before)


def test_what_is_outside_the_mask_is_the_target_to_the_bit(image, monkeypatch):
    seen = {}

    def noted(source, target, mask):
        seen.update(target=target, mask=mask)
        return mix(source, target, mask)

    monkeypatch.setattr(module, "mix", noted)
    changed = 0
    for seed in range(20):
        fake = self_blend(image, LANDMARKS, np.random.default_rng(seed), strength=STRENGTHS["strong"])
        outside = seen["mask"] == 0
        assert outside.any() and np.array_equal(fake[outside], seen["target"][outside])
        changed += np.abs(fake.astype(int) - seen["target"])[seen["mask"] > 0.5].mean() > 5
    assert changed >= 16


def test_masks_are_of_the_face_and_not_of_the_corners():
    masks = [face_mask(FACE, (112, 112), np.random.default_rng(seed), elastic=STRENGTHS["faint"].elastic) for seed in range(60)]
    assert all(set(np.unique(mask)) == {0.0, 1.0} for mask in masks)
    mean = np.mean(masks, axis=0)
    assert mean[72, 56] > 0.5 > 0.01 > mean[:8, :8].max() and mean[:, :6].max() < 0.01
    areas = [mask.mean() for mask in masks]
    assert max(areas) > 0.3 and min(areas) < 0.08  # whole faces and small parts


def test_two_blurs_move_the_edge_by_the_first_and_soften_it_by_the_second():
    # A half plane stays 1 where the first blur leaves 99 % of it, z(0.99) widths inside;
    # the second makes a normal curve of that edge.
    mask = np.zeros((9, 201), np.float32)
    mask[:, 100:] = 1

    class Widths:
        def random(self):
            return 1.0

        def uniform(self, low, high, count):
            return np.array([6.0, 4.0])

    soft = soften(mask, 1.0, Widths(), feather=NONE.feather, hard=0.0)[4]
    edge = 99.5 + norm.ppf(0.99) * 6
    assert np.abs(soft - norm.cdf((np.arange(201) - edge) / 4)).max() < 0.06
    assert np.array_equal(soften(mask, 1.0, Widths(), feather=NONE.feather, hard=1.1), mask)


def test_hue_turns_red_into_green_or_blue_and_channels_shift_by_the_units_of_255():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    turned = {
        tuple(module.shift_hsv(red, np.random.default_rng(seed), dataclasses.replace(NONE, hue=120))[0, 0])
        for seed in range(8)
    }
    assert turned == {(0, 200, 0), (0, 0, 200)}
    grey = np.full((8, 8, 3), 100, np.uint8)
    shifted = module.shift_rgb(grey, np.random.default_rng(0), dataclasses.replace(NONE, rgb=20))
    assert set(np.unique(shifted)) <= {80, 120} and (shifted == shifted[0, 0]).all()
    assert set(
        np.unique(module.change_contrast(grey, np.random.default_rng(0), dataclasses.replace(NONE, contrast=0.2)))
    ) <= {74, 75, 125, 126}


def test_detail_is_lost_or_added(image):
    rough = (image.astype(int) + np.random.default_rng(2).integers(-9, 10, image.shape)).clip(0, 255).astype(np.uint8)
    sharpness = [
        cv2.Laplacian(module.change_detail(rough, np.random.default_rng(seed), STRENGTHS["faint"]), cv2.CV_32F).std()
        for seed in range(20)
    ]
    now = cv2.Laplacian(rough, cv2.CV_32F).std()
    assert min(sharpness) < 0.8 * now and max(sharpness) > 1.1 * now
    assert (
        0 < np.abs(module.compress(rough, np.random.default_rng(0), STRENGTHS["faint"]).astype(int) - rough).mean() < 20
    )


def test_the_source_is_moved_by_a_share_of_the_face(image):
    moved = module.move(
        image, MIDDLE, np.random.default_rng(0), dataclasses.replace(NONE, move=0.1), unit=1.0
    )  # of a face 70 pixels wide
    assert any(
        np.array_equal(moved[20:90, 20:90], image[20 + dy : 90 + dy, 20 + dx : 90 + dx])
        for dy in (-7, 7)
        for dx in (-7, 7)
    )


def test_a_zoomed_and_turned_source_keeps_the_middle_of_the_face():
    dot = np.zeros((112, 112, 3), np.uint8)
    x, y = LANDMARKS.mean(axis=0)
    cv2.circle(dot, (round(float(x)), round(float(y))), 3, (255, 255, 255), -1)
    for seed in range(4):
        moved = module.move(
            dot, MIDDLE, np.random.default_rng(seed), dataclasses.replace(NONE, turn=30, zoom=0.2, stretch=0.1), unit=1.0
        )
        ys, xs = np.nonzero(moved[..., 0] > 127)
        assert abs(xs.mean() - x) < 1 and abs(ys.mean() - y) < 1


def test_the_face_frame_is_exact_for_a_turned_and_scaled_face_and_finite_in_a_profile():
    angle, scale = 0.4, 1.7
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = TEMPLATE @ matrix.T + (30, -5)
    assert np.abs(transform(fit_face(points), TEMPLATE.astype(np.float64)) - points).max() < 1e-3
    profile = TEMPLATE.astype(np.float64) * (0, 1) + (20, 0)
    linear = fit_face(profile)[:, :2]
    across, along = np.linalg.norm(linear, axis=0)
    assert along > 0.3 and across == pytest.approx(along / 2)


def test_a_mirrored_face_has_the_mirrored_frame():
    points = LANDMARKS.astype(np.float64) @ np.array([[0.9, 0.1], [-0.1, 0.9]]) + (3, 4)
    mirrored = (np.array([111, 0]) + points * (-1, 1))[[1, 0, 2, 4, 3]]
    face = np.array([[56.0, 20.0], [30.0, 70.0]])
    opposite = (2 * 56 - face[:, 0])[:, None] * (1, 0) + face * (0, 1)
    expected = np.array([111, 0]) + transform(fit_face(points), face) * (-1, 1)
    assert (
        np.abs(transform(fit_face(mirrored), opposite) - expected).max() < 0.8
    )  # the template itself is not quite even


def test_real_crops_are_changed_as_often_as_targets(image):
    kept = [
        np.array_equal(as_target(image, np.random.default_rng(seed), strength=STRENGTHS["strong"]), image)
        for seed in range(80)
    ]
    assert 32 <= sum(kept) <= 56  # half, and the few whose every change was left out
