"""Checks of what an attack is given, in one place and with one wait for the device."""

import torch
from torch import Tensor


def check_inputs(x: Tensor, y: Tensor) -> None:
    """Refuse images and labels on which an attack's figures would mean nothing.

    Costs one pass over x and one wait for the device; attacks skip it with checked=False. The shape of the logits is
    checked by the loss, at no cost.

    Raises:
        TypeError: x is not floating point.
        ValueError: x has no batch dimension, holds NaN or values outside [0, 1], or y is not (N,) of 0 and 1.
    """
    if not x.is_floating_point():
        raise TypeError(f"images are {x.dtype}; attacks need floating-point RGB in [0, 1] (uint8 / 255)")
    if x.ndim < 2:
        raise ValueError(f"images have shape {tuple(x.shape)}; a batch (N, 3, H, W) is needed")
    if y.shape != (len(x),):
        raise ValueError(f"labels have shape {tuple(y.shape)}; one label per image, shape ({len(x)},), is needed")
    if x.numel() == 0:
        return
    low, high = x.detach().aminmax()  # both are NaN if any value is
    labels_bad = ((y != 0) & (y != 1)).any()
    low, high, labels_bad = torch.stack([low.double(), high.double(), labels_bad.to(x.device).double()]).tolist()
    if not (low >= 0 and high <= 1):
        raise ValueError(_bad_image_message(x.detach()))
    if labels_bad:
        raise ValueError(f"labels must be 0 (real) or 1 (fake), not {y[(y != 0) & (y != 1)][0].item()}")


def require_logits(best_loss: Tensor) -> None:
    """Refuse a model whose logit was NaN wherever an attack looked; waits for the device.

    Args:
        best_loss: (N,) the largest loss seen per image, -inf or NaN where there was none.
    Raises:
        ValueError: naming the first such image.
    """
    lost = ~(best_loss > -torch.inf)
    if lost.any():
        raise ValueError(f"the model's logit is NaN for image {int(lost.nonzero()[0])} of the batch and all near it")


def _bad_image_message(x: Tensor) -> str:
    images = x.reshape(len(x), -1)
    not_finite = ~images.isfinite().all(dim=1)
    if not_finite.any():
        return f"image {int(not_finite.nonzero()[0])} of the batch holds NaN or Inf"
    first = int(((images < 0) | (images > 1)).any(dim=1).nonzero()[0])
    low, high = images[first].aminmax()
    return (
        f"image {first} of the batch has values in [{low.item():.4g}, {high.item():.4g}]; attacks need pixels in "
        "[0, 1], before normalisation (which is the model's first layer)"
    )
