"""Adversarial training: the loss on PGD examples of the augmented crops (Madry et al. 2018), mixed with clean loss if asked.

Fakes only: somebody who has a forgery wants it called real; hardly anybody wants his real video called fake. The detector then needs a
margin of epsilon instead of two (a fake may move towards real, a real one stays), and the attack costs half as much.
With epsilon 0 the perturbation is nothing, and the same code trains the baseline.
"""
from __future__ import annotations

import torch
from torch import nn

from robust.attacks.pgd import pgd
from robust.attacks.subset import attack_chosen
from robust.attacks.threat import THREATS
from robust.config import PIXEL, AttackConfig


def perturb(
    network: nn.Module, x: torch.Tensor, y: torch.Tensor, attack: AttackConfig, *, epsilon: float, generator: torch.Generator
) -> torch.Tensor:
    """Training examples inside the ball.

    Args:
        network: the bare detector (not its DDP wrapper: the attack needs no reduction of gradients).
        epsilon: today's radius in 0-255 units (during the warm-up below attack.epsilon).
    Returns:
        `x` itself where epsilon is 0, else perturbed images of x's shape and dtype.
    """
    if epsilon == 0:
        return x
    threat = THREATS[attack.norm](epsilon * PIXEL)
    step_size = None if attack.step_size is None else attack.step_size * PIXEL * epsilon / attack.epsilon

    def attacked(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return pgd(
            network, x, y, threat, steps=attack.steps, step_size=step_size, generator=generator,
            random_start=attack.random_start, keep_best=False, checked=False,
        )

    return attack_chosen(attacked, x, y, y == 1) if attack.targets == "fake" else attacked(x, y)
