"""When one attack counts as weaker than another on a small sample: by images that it loses, or by its loss."""

import math

import torch
from torch import Tensor

from robust.attacks.gates.evidence import Attacked

HALF_WIDTH = 0.98
"""Largest half width of a rate's 95 % interval over n images, times sqrt(n): 1.96 * sqrt(0.5 * 0.5)."""

MIN_EFFECT = 0.1
"""A tenth of what the other attack gains: less moves a rate by less than the sample can show."""

STANDARD_ERRORS = 3.0
"""How sure a difference of losses must be; chance alone reaches it once in 700 comparisons of equal attacks."""


def sampling_noise(images: int) -> int:
    """Half the widest 95 % interval of a rate over so many images, in images: 5 of 32, 15 of 256."""
    return max(1, math.floor(HALF_WIDTH * math.sqrt(images)))


def allowed(images: int) -> int:
    """How many images of a sample may contradict a gate that in theory has no exception: half its noise, at least one.

    32 images allow 2, 256 allow 7: attacks start at random, and one image is no evidence.
    """
    return max(1, sampling_noise(images) // 2)


def lost(attack: Attacked, reference: Attacked) -> int:
    """Images that the reference turns and the attack does not."""
    return int((reference.wrong & ~attack.wrong).sum())


def gains_less(attack: Tensor, reference: Tensor, start: Tensor) -> bool:
    """Whether the attack's loss is lower than the reference's, surely and by a share of its gain that matters.

    Only up to 0, where the image is turned: how far beyond it a model's logits go says nothing about the attack, and in
    a larger ball an honest model's may go less far.

    Args:
        attack, reference: (N,) margins of the same images.
        start: (N,) margins that both began with.
    """
    attack, reference, start = (margin.clamp_max(0) for margin in (attack, reference, start))
    difference = (reference - attack).double()
    error = difference.std() / math.sqrt(len(difference)) if len(difference) > 1 else torch.tensor(math.inf)
    sure = difference.mean() > STANDARD_ERRORS * error
    gain = (reference - start).double().mean()
    return bool(sure and difference.mean() > MIN_EFFECT * gain.clamp_min(0))
