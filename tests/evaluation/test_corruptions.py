"""The 12 corruptions: what they are in closed form, stronger with severity, the same however the crops are cut into blocks."""

import cv2
import numpy as np
import pytest

from robust.evaluation.corruptions import CLEAN, KINDS, SEVERITIES, Corruption, corrupt, grid


def of(name, severity=3):
    return Corruption(name, severity, KINDS[name].amounts[severity - 1])


def picture(seed=0, height=96, width=90):
    """A colourful picture with detail at every scale, away from black and white."""
    rng = np.random.default_rng(seed)
    scales = [cv2.resize(rng.normal(0, 16, (count, count, 3)), (width, height), interpolation=cv2.INTER_CUBIC) for count in (5, 11, 23, 47)]
    return np.clip(120 + sum(scales), 45, 200).astype(np.uint8)


def run(corruption, images, videos=None, frames=None, seed=1):
    videos = videos or [f"d/m/{place}" for place in range(len(images))]
    return corrupt(images, videos, frames or [0] * len(images), corruption, seed=seed)


def distance(a, b):
    return float(np.mean((a.astype(float) - b.astype(float)) ** 2))


def test_the_grid_is_12_corruptions_at_5_severities_and_the_clean_crops():
    cells = grid(SEVERITIES)
    assert cells[0] == CLEAN and len(cells) == 1 + 12 * 5 and len(set(cells)) == 61
    assert [cell.severity for cell in grid([5, 1, 5])[1:3]] == [1, 5]


@pytest.mark.parametrize("name", KINDS)
def test_every_severity_changes_the_picture_more_than_the_one_before(name):
    images = [picture(seed) for seed in range(6)]
    damage = [np.mean([distance(a, b) for a, b in zip(images, run(of(name, severity), images))]) for severity in SEVERITIES]
    assert damage[0] > 1 and all(after > before for before, after in zip(damage, damage[1:])), damage


@pytest.mark.parametrize("name", ["clean", *KINDS])
def test_a_crop_is_corrupted_the_same_whatever_stands_beside_it(name):
    images, corruption = [picture(0), picture(1, 81, 64), picture(2, 20, 33)], CLEAN if name == "clean" else of(name)
    videos = ["d/a/0", "d/b/0", "d/c/0"]
    together = run(corruption, images, videos)
    alone = [run(corruption, images[place:place + 1], videos[place:place + 1])[0] for place in range(3)]
    for before, first, second in zip(images, together, alone):
        assert first.shape == before.shape and first.dtype == np.uint8
        np.testing.assert_array_equal(first, second)


def test_chance_differs_from_crop_to_crop_and_from_seed_to_seed():
    image = picture()
    first, second = run(of("noise"), [image, image], ["d/a/0"] * 2, [0, 5])
    (other_seed,), (again,) = run(of("noise"), [image], ["d/a/0"], seed=2), run(of("noise"), [image], ["d/a/0"])
    assert distance(first, second) > 1 and distance(first, other_seed) > 1 and distance(first, again) == 0


def test_noise_has_the_variance_of_the_table():
    image = np.full((300, 300, 3), 128, np.uint8)
    for severity in (1, 4):
        noise = run(of("noise", severity), [image])[0] / 255 - 128 / 255
        assert noise.var() == pytest.approx(KINDS["noise"].amounts[severity - 1], rel=0.03) and abs(noise.mean()) < 1e-3


def test_colours_in_closed_form():
    image = np.full((8, 8, 3), (160, 120, 80), np.uint8)
    after = {name: run(of(name, 1), [image])[0][0, 0].astype(int) for name in KINDS}
    np.testing.assert_allclose(after["brightness"], np.array([160, 120, 80]) * (160 + 25.5) / 160, atol=1)  # V of HSV is the maximum
    np.testing.assert_array_equal(after["contrast"], [160, 120, 80])  # a flat picture is its own mean
    grey = 0.299 * 160 + 0.587 * 120 + 0.114 * 80
    np.testing.assert_allclose(after["saturation"], grey + 0.4 * (np.array([160, 120, 80]) - grey), atol=1)
    gamma = [255 * (np.array([160, 120, 80]) / 255) ** exponent for exponent in (1.2, 1 / 1.2)]
    assert min(np.abs(after["gamma"] - one).max() for one in gamma) <= 1
    assert sorted(after["colour_cast"] / [160, 120, 80]) == pytest.approx([0.95, 1, 1.05], abs=0.01)
    for name in ("blur", "motion_blur", "resize", "pixelation"):
        np.testing.assert_allclose(after[name], [160, 120, 80], atol=1)


def test_contrast_pulls_towards_the_mean_of_each_channel():
    image = picture()
    mean = image.mean(axis=(0, 1))
    np.testing.assert_allclose(run(of("contrast", 2), [image])[0], mean + 0.3 * (image - mean), atol=1)


@pytest.mark.parametrize("name", ["gamma", "colour_cast"])
def test_a_video_has_one_direction_and_videos_have_both(name):
    image = np.full((4, 4, 3), 100, np.uint8)
    frames = [run(of(name, severity), [image] * 3, ["d/a/0"] * 3, [0, 4, 9]) for severity in (1, 5)]
    assert all(np.array_equal(one[0], other) for one in frames for other in one)
    assert len({np.sign(int(one[0][0, 0, 0]) - 100) for one in frames}) == 1
    red = [int(run(of(name), [image], [f"d/a/{video}"])[0][0, 0, 0]) for video in range(20)]
    assert min(red) < 100 < max(red)


def test_blur_scales_with_the_crop_and_spreads_an_edge_by_its_sigma():
    for side in (112, 224):
        image = np.zeros((side, side, 3), np.uint8)
        image[:, side // 2:] = 255
        spread = np.diff(run(of("blur", 4), [image])[0][0, :, 0].astype(float))
        sigma = np.sqrt((spread * (np.arange(side - 1) - side // 2 + 1) ** 2).sum() / spread.sum())
        assert sigma == pytest.approx(4 * side / 224, rel=0.05)


def test_motion_blur_moves_a_point_along_one_line_and_keeps_its_light():
    image = np.zeros((225, 225, 3), np.uint8)
    image[110:115, 110:115] = 250
    (after,) = run(of("motion_blur"), [image])
    assert int(after.sum()) == pytest.approx(int(image.sum()), rel=0.06)
    y, x = np.nonzero(after[..., 0])
    across, along = np.sort(np.linalg.eigvalsh(np.cov(np.stack([x, y]), aweights=after[y, x, 0])))
    assert along > 4 * across
    assert 5 <= np.hypot(x - 112, y - 112).max() <= 15 + 4


def test_resize_and_pixelation_keep_as_many_values_as_they_say():
    image = picture(height=100, width=100)
    (coarse,) = run(of("pixelation", 5), [image])
    np.testing.assert_array_equal(coarse, np.repeat(np.repeat(coarse[::4, ::4], 4, 0), 4, 1))
    (smooth,) = run(of("resize", 2), [image])
    small = cv2.resize(image, (50, 50), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(smooth, cv2.resize(small, (100, 100), interpolation=cv2.INTER_CUBIC))


def test_h264_is_one_clip_a_video_whatever_the_sizes_of_its_crops():
    images = [picture(0, 81, 64), picture(0, 84, 66), picture(1, 40, 41)]
    videos = ["d/a/0", "d/a/0", "d/b/0"]
    after = run(of("h264", 1), images, videos, [0, 5, 0])
    assert [image.shape for image in after] == [image.shape for image in images]
    assert all(distance(a, b) < 0.5 * a.var() for a, b in zip(images, after))  # it is the picture, not another
    alone = run(of("h264", 1), images[1:2], videos[1:2], [5])
    assert distance(alone[0], after[1]) > 0  # the second frame was predicted from the first
