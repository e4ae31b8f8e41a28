"""Adversarial training: the loss on PGD examples of the augmented crops (Madry et al. 2018), mixed with clean loss if asked.

With epsilon 0 the perturbation is nothing, and the same code trains the baseline.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from robust.attacks.pgd import pgd
from robust.config import RecipeConfig
from robust.training.recipes.base import Recipe, ball, step_size_of


def attack(
    network: nn.Module, x: Tensor, y: Tensor, settings: RecipeConfig, *, epsilon: float, generator: torch.Generator
) -> Tensor:
    """PGD examples inside the ball."""
    of = settings.attack
    return pgd(
        network, x, y, ball(of, epsilon), steps=of.steps, step_size=step_size_of(of, epsilon), random_start=of.random_start,
        generator=generator, keep_best=False, checked=False,
    )


RECIPE = Recipe(attack)
