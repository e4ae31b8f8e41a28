"""robust/data/augment.py: each crop's own seed decides, and the units are those of 0-255 pixels."""

import numpy as np
import pytest

from robust.config import AugmentConfig
from robust.data.augment import build_augmentation

OFF = {f"{name}_probability": 0 for name in ("jpeg", "blur", "noise", "flip")}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(60, 190, (24, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize("level", ["weak", "strong", "heavy"])
def test_a_seed_gives_the_same_crop_whatever_came_before(image, level):
    augment, other = (build_augmentation(AugmentConfig(level=level)) for _ in range(2))
    first = [augment(image, seed) for seed in range(12)]
    assert all(out.shape == image.shape and out.dtype == np.uint8 for out in first)
    assert all(np.array_equal(other(image, seed), first[seed]) for seed in reversed(range(12)))
    assert len({out.tobytes() for out in first}) > 6


def test_a_seed_of_64_bits_is_taken(image):
    augment = build_augmentation(AugmentConfig())
    assert np.array_equal(augment(image, 2**63 + 5), augment(image, 2**63 + 5))


def test_the_image_is_left_as_it_was(image):
    before = image.copy()
    for seed in range(8):
        build_augmentation(AugmentConfig(level="heavy"))(image, seed)
    assert np.array_equal(image, before)


def test_none_is_none_and_all_off_changes_nothing(image):
    assert build_augmentation(AugmentConfig(level="none")) is None
    assert np.array_equal(build_augmentation(AugmentConfig(**OFF))(image, 1), image)


def test_noise_is_in_0_255_units():
    grey = np.full((64, 64, 3), 128, np.uint8)
    augment = build_augmentation(AugmentConfig(**{**OFF, "noise_probability": 1}, noise_std=(5, 5)))
    assert 4.5 < (augment(grey, 1).astype(float) - 128).std() < 5.5


def test_a_flip_mirrors_left_and_right(image):
    augment = build_augmentation(AugmentConfig(**{**OFF, "flip_probability": 1}))
    assert np.array_equal(augment(image, 1), image[:, ::-1])


def test_jpeg_and_blur_do_something(image):
    for settings in ({"jpeg_probability": 1, "jpeg_quality": (60, 60)}, {"blur_probability": 1}):
        out = build_augmentation(AugmentConfig(**{**OFF, **settings}))(image, 1).astype(float)
        assert 0 < np.abs(out - image).mean() < 40
