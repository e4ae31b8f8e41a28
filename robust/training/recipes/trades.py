"""TRADES: clean loss, and the divergence between what is said of the clean and of the attacked image (Zhang et al. 2019).

    BCE(z, y) + beta * KL(p || p'),   p = sigmoid(z), p' = sigmoid(z'), x' the image in the ball with the largest KL

With one logit the divergence is that of two Bernoulli distributions. beta trades clean against robust accuracy.
Source: Zhang et al. 2019 (arXiv 1901.08573), eq. 5 and alg. 1. The start is uniform in the ball: at x itself the gradient is 0.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust.attacks.gradients import attack_mode
from robust.attacks.pgd import pgd
from robust.config import RecipeConfig
from robust.training.recipes.base import Recipe, ball, bernoulli_kl, step_size_of


def attack(
    network: nn.Module, x: Tensor, y: Tensor, settings: RecipeConfig, *, epsilon: float, generator: torch.Generator
) -> Tensor:
    """PGD on the divergence; the labels play no part in it."""
    of = settings.attack
    with attack_mode(network), torch.no_grad():
        said = network(x).float()
    return pgd(
        network, x, said, ball(of, epsilon), steps=of.steps, step_size=step_size_of(of, epsilon), random_start=True,
        loss=lambda logits, said: bernoulli_kl(said, logits), generator=generator, keep_best=False, checked=False,
    )


def loss(clean: Tensor, adversarial: Tensor | None, targets: Tensor, settings: RecipeConfig) -> dict[str, Tensor]:
    """Means over the batch; kl is 0 where nothing was attacked."""
    on_clean = F.binary_cross_entropy_with_logits(clean, targets)
    kl = targets.new_zeros(()) if adversarial is None else bernoulli_kl(clean, adversarial).mean()
    return {"total": on_clean + settings.beta * kl, "clean": on_clean, "kl": kl}


RECIPE = Recipe(attack, loss, looks_at=lambda settings: ("clean", "adversarial"))
