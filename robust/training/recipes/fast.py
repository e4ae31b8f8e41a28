"""N-FGSM: one gradient step from a noisy image, and nothing is brought back into the ball (de Jorge et al. 2022).

    x' = x + n + alpha * sign(grad loss(x + n)),   n uniform in [-k epsilon, k epsilon], clipped to [0, 1] only

so an example is up to (k + 1) epsilon away. One step's attack can be fooled: a network may learn gradients that point
nowhere, and is then lost to any stronger attack within an epoch (catastrophic overfitting). The noise makes that rare, not
impossible, so the loop probes for it after every epoch, takes the weights from before back, and goes on with PGD
(robust/training/collapse.py).
Source: de Jorge et al. 2022 (arXiv 2202.01181), alg. 1, k = 2, alpha = epsilon; for L2 the same with an L2 ball and step.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.noise import ImageNoise
from robust.config import PIXEL, RecipeConfig
from robust.training.recipes.base import Recipe, ball, step_size_of


def attack(
    network: nn.Module, x: Tensor, y: Tensor, settings: RecipeConfig, *, epsilon: float, generator: torch.Generator
) -> Tensor:
    """Examples within (settings.noise + 1) * epsilon; attack.step_size is alpha, epsilon if not set."""
    of = settings.attack
    with attack_mode(network), torch.no_grad():
        noisy = ball(of, settings.noise * epsilon).random_start(x, ImageNoise.of(x, generator=generator))
        _, gradient = value_and_input_gradient(network, noisy, y.to(x.device))
        alpha = step_size_of(of, epsilon) or epsilon * PIXEL
        return ball(of, epsilon).step(noisy, gradient, alpha).clamp_(0, 1)


RECIPE = Recipe(attack, single_step=True)
