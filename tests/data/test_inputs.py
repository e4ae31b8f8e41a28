"""From a crop to the model's input."""

import numpy as np
import pytest

from robust.data.inputs import resize, resize_one, to_input


def test_shrinking_averages_areas_exactly():
    blocks = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10
    image = np.kron(blocks, np.ones((8, 8), np.uint8))[..., None].repeat(3, 2)
    assert (resize_one(image, 4) == blocks[..., None]).all()
    checkerboard = np.indices((8, 8)).sum(0)[..., None].repeat(3, 2) % 2 * 200
    assert (resize_one(checkerboard.astype(np.uint8), 4) == 100).all()


def test_same_size_is_unchanged_and_channels_stay_in_order():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    x = to_input([image], 16)
    assert x.shape == (1, 3, 16, 16)
    assert (x[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8).tolist() == image.tolist()
    assert x.min() >= 0 and x.max() <= 1


def test_a_crop_that_is_not_square_keeps_its_aspect():
    image = np.zeros((40, 20, 3), np.uint8)
    image[10:30, 6:16] = 255  # a box twice as high as wide
    small = resize_one(image, 20)[..., 0] > 127
    assert small.any(axis=1).sum() == 10 and small.any(axis=0).sum() == 5


def test_crops_of_any_sizes_make_one_batch():
    images = [np.full((side, side + 3, 3), side, np.uint8) for side in (10, 64, 200)]
    assert resize(images, 32).shape == (3, 32, 32, 3)
    assert to_input([], 32).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("bad", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_crop_is_an_error(bad):
    with pytest.raises(ValueError, match="a crop must be uint8"):
        resize_one(bad, 8)
