"""Cheap epochs first, strong ones last: `fast`, then `finish` (TRADES or PGD) with the finite-difference Lipschitz term.

The first `fast_share` of the epochs finds the features at the cost of two steps, the others make them hold against the
attack that is met later. Epsilon's warm-up, the clean share, AWP and averaged weights (`train.ema_decay`) are those of the
configuration.
"""
from __future__ import annotations

from robust.config import RecipeConfig
from robust.training.recipes.base import Recipe


def stage(settings: RecipeConfig, epoch: int) -> RecipeConfig:
    """fast without the term in the first epochs, `finish` with it afterwards."""
    cheap = epoch < round(settings.fast_share * settings.epochs)
    term = {"weight": 0.0} if cheap else {"kind": "finite_difference"}
    lipschitz = settings.lipschitz.model_copy(update=term)
    return settings.model_copy(update={"recipe": "fast" if cheap else settings.finish, "lipschitz": lipschitz})


RECIPE = Recipe(stage=stage)
