"""Checks that an attack's figures can be believed. Each is a named function that says what is wrong and what to do.

One that fails raises UserError, so that no figure is printed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust.errors import UserError

MIN_STD = 0.02
"""Standard deviation over a batch of face crops in [0, 1]; real ones have 0.15-0.3, one divided by 255 twice 0.001."""

MIN_MEAN = 0.02
MAX_MEAN = 0.98


def require_plausible_inputs(x: Tensor, *, where: str) -> None:
    """Images must be in [0, 1] and look like pictures: neither constant, nor all black, nor all white.

    Catches a normalisation applied twice, the fault that made a published evaluation score black images.

    Args:
        x: (N, 3, H, W) float images, a batch as the model is about to get it.
        where: for the message, e.g. a video id.
    Raises:
        UserError: they do not.
    """
    if x.numel() == 0:
        raise UserError(f"{where}: no images to evaluate")
    if not x.is_floating_point() or not torch.isfinite(x).all():
        raise UserError(f"{where}: images must be finite floats in [0, 1], got {x.dtype} with values that are not")
    low, high, mean = x.min().item(), x.max().item(), x.mean().item()
    if low < 0 or high > 1:
        raise UserError(f"{where}: images reach from {low:.3g} to {high:.3g}; they must be in [0, 1], not yet normalised")
    per_image = x.flatten(1).std(dim=1, correction=0)
    if per_image.median().item() < MIN_STD or not MIN_MEAN <= mean <= MAX_MEAN:
        raise UserError(
            f"{where}: images are nearly constant (mean {mean:.4f}, standard deviation {per_image.median().item():.4f}); "
            "were they divided by 255 twice, or are the face crops blank? Look at the crops of this video."
        )


def require_eval_mode(model: nn.Module) -> None:
    """No module may be in training mode: batch normalisation and dropout would make the attacked function another.

    Raises:
        UserError: names the first such module.
    """
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise UserError(f"{len(training)} modules of the model are in training mode, the first is {training[0]}; call eval()")
