"""The Lipschitz term: a penalty on the gradient of the logit for the input, per image, in [0, 1] pixel units.

    l2: mean_b ||dz_b/dx_b||_2^2        l1: mean_b ||dz_b/dx_b||_1

and the same of the cross-entropy in place of the logit, dl/dx = (sigmoid(z) - y) dz/dx, which asks less of images that are far
on their side (Rodriguez-Munoz et al. 2024). ||.||_1 is the slope of the logit inside an Linf ball: to first order the worst
logit within epsilon is z - epsilon ||g||_1.
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
import torch.nn.functional as F
from torch import nn

KINDS = ("exact", "finite_difference")


def lipschitz_term(
    model: nn.Module, x: torch.Tensor, *, kind: str, norm: str, h: float = 1 / 255, labels: torch.Tensor | None = None,
    logits: torch.Tensor | None = None,
) -> torch.Tensor:
    """The term, differentiable for the model's parameters.

    Args:
        model: maps (N, 3, H, W) in [0, 1] to (N,) logits; in `evaluation_mode`.
        x: (N, 3, H, W) points at which the slope is taken.
        kind: exact or finite_difference.
        norm: l2 (squared) or l1.
        labels: (N,) 1 = fake: the slope is that of each image's cross-entropy; None: of its logit.
        logits: (N,) of x, if there already: computed from this very x, which then requires a gradient.
        h: length of the finite difference, [0, 1] units, in the norm of its direction (L2 length; largest change for l1).
    Returns:
        a scalar.
    """
    with torch.enable_grad():
        if logits is None:
            x = x.detach().requires_grad_(True)
            logits = model(x)
        value = _value(logits, labels)
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=kind == "exact", retain_graph=True)
        if kind == "exact":
            flat = gradient.flatten(1)
            return (flat.square().sum(1) if norm == "l2" else flat.abs().sum(1)).mean()
        direction = _steepest(gradient, norm)
        slope = (_value(model(x.detach() + h * direction), labels) - value) / h
        return (slope.square() if norm == "l2" else slope.abs()).mean()


def _value(logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    return logits if labels is None else F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")


def _steepest(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    if norm == "l1":
        return gradient.sign()
    length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return gradient / length
