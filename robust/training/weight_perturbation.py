"""Adversarial weight perturbation: the loss is minimised where the weights are worst, not where they are (Wu et al. 2020).

    v_l = gamma * ||w_l|| * g_l / ||g_l||  for each weight tensor w_l with gradient g_l of the loss

then the gradient is taken at w + v and applied to w. Vectors (biases, scales and shifts of normalisations) stay as they are.
Source: Wu et al. 2020 (arXiv 2004.05884), eqs. 7 to 10, one step from v = 0, where the projection to ||v_l|| <= gamma ||w_l||
is met with equality.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def worst_weights(network: nn.Module, gamma: float) -> Iterator[None]:
    """The network with its weights moved up the gradients that they hold; the weights come back to the bit."""
    moved = [parameter for parameter in network.parameters() if parameter.ndim > 1 and parameter.grad is not None]
    kept = [parameter.detach().clone() for parameter in moved]
    with torch.no_grad():
        for parameter in moved:
            length = parameter.norm() / parameter.grad.norm().clamp_min(1e-12)
            parameter.add_(parameter.grad * (gamma * length))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(moved, kept, strict=True):
                parameter.copy_(value)


@contextmanager
def statistics_held(network: nn.Module) -> Iterator[None]:
    """Batch norms that are training use the batch's statistics all the same and leave their running ones alone."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    moving = [module for module in norms if module.training and module.track_running_stats]
    for module in moving:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in moving:
            module.track_running_stats = True
