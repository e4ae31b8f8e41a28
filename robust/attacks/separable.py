"""Blur, resizing and padding as matrices, one for each image: rows @ image @ columns^T, differentiable and batched."""

import torch
from torch import Tensor


def apply_separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, C, h, w) from (N, C, H, W) images, (N, h, H) matrices for their rows and (N, w, W) for their columns."""
    return rows.to(x.dtype)[:, None] @ x @ columns.to(x.dtype)[:, None].mT


def blur_matrix(size: int, sigma: Tensor) -> Tensor:
    """(N, size, size) Gaussian blur; at the border the weights inside the image are made to sum to 1.

    Args:
        sigma: (N,) standard deviations in pixels; 0 is the identity.
    """
    places = torch.arange(size, device=sigma.device, dtype=sigma.dtype)
    distance = (places[:, None] - places) / sigma.clamp_min(1e-3)[:, None, None]
    return _rows_of_one(torch.exp(-distance**2 / 2))


def resize_matrix(size: int, out: int, length: Tensor, first: Tensor | None = None) -> Tensor:
    """(N, out, size): linear resizing of `size` pixels to length[n] of the `out` ones; the other rows are zero.

    Smoothed before it shrinks (antialias), as F.interpolate(mode="bilinear", antialias=True) does.

    Args:
        length: (N,) whole numbers, at most `out`.
        first: (N,) where the resized pixels begin; None: at 0.
    """
    length = length[:, None]
    begin = torch.zeros_like(length) if first is None else first[:, None]
    scale = size / length
    target = torch.arange(out, device=length.device, dtype=length.dtype) - begin
    source = (target + 0.5) * scale - 0.5
    places = torch.arange(size, device=length.device, dtype=length.dtype)
    distance = (source[:, :, None] - places).abs() / scale.clamp_min(1)[:, :, None]
    inside = (target >= 0) & (target < length)
    return _rows_of_one((1 - distance).clamp_min(0)) * inside[:, :, None]


def down_up_matrix(size: int, length: Tensor) -> Tensor:
    """(N, size, size): down to length[n] pixels, with smoothing, and up again."""
    down = resize_matrix(size, size, length)
    source = ((torch.arange(size, device=length.device, dtype=length.dtype) + 0.5) * length[:, None] / size - 0.5)
    source = source.clamp_min(0).minimum(length[:, None] - 1)
    places = torch.arange(size, device=length.device, dtype=length.dtype)
    return (1 - (source[:, :, None] - places).abs()).clamp_min(0) @ down


def _rows_of_one(weights: Tensor) -> Tensor:
    total = weights.sum(dim=2, keepdim=True)
    return weights / torch.where(total > 0, total, 1)
