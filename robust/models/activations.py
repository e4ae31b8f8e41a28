"""Smooth activations in place of ReLU.

The Lipschitz term is a penalty on a first derivative, so its gradient is a second derivative: with ReLU that is zero almost
everywhere, and training cannot lower it where it matters. Source: Rodriguez-Munoz et al. 2024 (arXiv 2409.20139), where a
network fits a gradient-norm penalty with GELU and fails to with ReLU.
"""
from __future__ import annotations

from torch import nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": lambda: nn.Softplus(beta=10),  # beta 10 stays within 0.07 of ReLU
}
_KINKED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.Hardtanh)


def swap_activations(model: nn.Module, name: str) -> int:
    """Replaces every ReLU-like module in place; returns how many."""
    swapped = 0
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):  # named_children() skips a module that it has seen before
            if isinstance(child, _KINKED) or (name == "relu" and isinstance(child, (nn.SiLU, nn.GELU))):
                setattr(parent, child_name, ACTIVATIONS[name]())
                swapped += 1
            elif hasattr(child, "act") and isinstance(child.act, _KINKED):
                child.act = ACTIVATIONS[name]()
                swapped += 1
    return swapped
