"""Adversarial training: the loss on PGD examples of the augmented crops (Madry et al. 2018), mixed with clean loss if asked.

With epsilon 0 the perturbation is nothing, and the same code trains the baseline.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from robust.attacks.pgd import pgd
from robust.config import RecipeConfig
from robust.training.recipes.base import Recipe, ball, of_chosen, step_size_of


def perturb(
    network: nn.Module, x: Tensor, y: Tensor, settings: RecipeConfig, *, epsilon: float, generator: torch.Generator
) -> Tensor:
    """PGD examples inside the ball; `x` itself where epsilon is 0."""
    attack = settings.attack
    if epsilon == 0:
        return x

    def attacked(x: Tensor, y: Tensor) -> Tensor:
        return pgd(
            network, x, y, ball(attack, epsilon), steps=attack.steps, step_size=step_size_of(attack, epsilon),
            random_start=attack.random_start, generator=generator, keep_best=False, checked=False,
        )

    return of_chosen(attacked, x, y, attack)


RECIPE = Recipe(perturb)
