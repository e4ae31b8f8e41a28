"""The Lipschitz term: a penalty on the gradient of the logit for the input, per image, in [0, 1] pixel units.

    l2: mean_b ||dz_b/dx_b||_2^2        l1: mean_b ||dz_b/dx_b||_1

||.||_1 is the slope of the logit inside an Linf ball: to first order the worst logit within epsilon is z - epsilon ||g||_1.
Each image's term is its own: the network is in evaluation mode while it is computed, since batch statistics would couple the
images, so that d(sum z)/dx_b would no longer be dz_b/dx_b, and dropout would differ between the two passes of a finite
difference. A sum over pixels, not a mean: for l1 the same function at another
resolution has the same norm, so the weight carries over.

`exact` differentiates twice. `finite_difference` takes the slope along the (detached) steepest direction d,
    (z(x + h d) - z(x)) / h,   d = g / ||g||_2 for l2, sign(g) for l1,
which has the same value and the same gradient to first order in h, needs no second derivative, and sees the curvature over
the distance h that the exact derivative does not.
Source: Gandhi & Jain 2020 (the penalty on the logit); Moosavi-Dezfooli et al. 2019 for the finite difference.
"""
from __future__ import annotations

import torch
from torch import nn

KINDS = ("exact", "finite_difference")


def lipschitz_term(model: nn.Module, x: torch.Tensor, *, kind: str, norm: str, h: float = 1 / 255) -> torch.Tensor:
    """The term, differentiable for the model's parameters.

    Args:
        model: maps (N, 3, H, W) in [0, 1] to (N,) logits; in `evaluation_mode`.
        x: (N, 3, H, W) points at which the slope is taken.
        kind: exact or finite_difference.
        norm: l2 (squared) or l1.
        h: length of the finite difference, [0, 1] units, in the norm of its direction (L2 length; largest change for l1).
    Returns:
        a scalar.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        logits = model(x)
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=kind == "exact", retain_graph=True)
        if kind == "exact":
            flat = gradient.flatten(1)
            return (flat.square().sum(1) if norm == "l2" else flat.abs().sum(1)).mean()
        direction = _steepest(gradient, norm)
        slope = (model(x.detach() + h * direction) - logits) / h
        return (slope.square() if norm == "l2" else slope.abs()).mean()


def _steepest(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    if norm == "l1":
        return gradient.sign()
    length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return gradient / length
