"""robust/data/self_blended_crops.py: one blend a real crop, drawn by the place's seed, whoever draws it."""

import numpy as np
import pytest

from robust.data.crops import CropSet
from robust.data.face_swap import TEMPLATE
from robust.data.order import draw_seeds
from robust.data.self_blend import METHOD, STRENGTHS, self_blend
from robust.data.self_blended_crops import _DRAW, SelfBlendedCrops
from robust.errors import UserError

SIZE = 32


def crops(labels=(0, 1, 0, 0), **changes):
    rng = np.random.default_rng(0)
    facts = dict(
        labels=np.array(labels), video_ids=np.array([f"v{i}" for i in range(len(labels))], object),
        methods=np.array(["fine" if label else "real" for label in labels], object), size=SIZE,
        pixels=rng.integers(60, 190, (len(labels), SIZE, SIZE, 3)).astype(np.uint8),
        landmarks=np.tile(TEMPLATE * SIZE / 112, (len(labels), 1, 1)).astype(np.float32),
    )  # fmt: skip
    return CropSet(**{**facts, **changes})


def test_every_real_crop_has_one_blend_of_its_own():
    stored = crops()
    blended = SelfBlendedCrops.of(stored, "strong")
    assert blended.labels.tolist() == [0, 1, 0, 0, 1, 1, 1] and blended.methods.tolist()[4:] == [METHOD] * 3
    assert len(blended) == 7 and blended.video_ids.tolist()[4:] == ["v0 blended", "v2 blended", "v3 blended"]
    rng = np.random.default_rng([7, _DRAW])
    rng.integers(1)
    expected = self_blend(stored.pixels[2], stored.landmarks[2], rng, strength=STRENGTHS["strong"])
    assert np.array_equal(blended.batch(np.array([5]), np.array([7], np.uint64))[0], expected)


def test_a_place_has_the_same_blend_whichever_worker_draws_it():
    blended = SelfBlendedCrops.of(crops(), "mixed")
    indices = np.array([4, 0, 6, 1, 5, 2, 4, 3])
    seeds = draw_seeds(1, 3, np.arange(8), seed=24, batch_size=8)
    whole = blended.batch(indices, seeds)
    for rank in (0, 1):
        part = blended.batch(indices[rank::2], draw_seeds(1, 3, np.arange(rank, 8, 2), seed=24, batch_size=8))
        assert np.array_equal(part, whole[rank::2])
    assert not np.array_equal(whole[0], whole[6])  # the same blend drawn twice


def test_augmentation_comes_after_with_the_same_seed():
    blended, seen = SelfBlendedCrops.of(crops(), "faint"), []
    blended.batch(np.array([5, 0]), np.array([7, 9], np.uint64), lambda image, seed: seen.append(seed) or image)
    assert seen == [7, 9]
    with pytest.raises(ValueError, match="needs a seed"):
        blended.batch(np.array([0]))


def test_a_fixed_set_keeps_the_crops_and_one_draw():
    blended = SelfBlendedCrops.of(crops(), "mixed")
    fixed = blended.fixed(3)
    assert type(fixed) is CropSet and np.array_equal(fixed.pixels[:4], crops().pixels) and len(fixed) == 7
    assert np.array_equal(fixed.pixels, blended.fixed(3).pixels) and not np.array_equal(
        fixed.pixels, blended.fixed(4).pixels
    )


def test_what_cannot_be_blended_is_told():
    with pytest.raises(UserError, match="no real face crops"):
        SelfBlendedCrops.of(crops(labels=(1, 1)), "faint")
    unknown = crops().landmarks
    for value in (np.nan, 0.0):
        unknown[2] = value
        with pytest.raises(UserError, match="landmarks of v2 are not known"):
            SelfBlendedCrops.of(crops(landmarks=unknown), "faint")
    with pytest.raises(UserError, match="landmarks of v0"):
        SelfBlendedCrops.of(crops(landmarks=None), "faint")
