"""From a stored face crop to the model's input: the one definition that training, evaluation and detection share."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor


def to_input(images: Sequence[np.ndarray], size: int) -> Tensor:
    """(N, 3, size, size) float32 in [0, 1] from N uint8 (H, W, 3) RGB crops of any sizes."""
    return to_tensor(resize(images, size))


def to_tensor(images: np.ndarray) -> Tensor:
    """(N, 3, H, W) float32 in [0, 1] from (N, H, W, 3) uint8."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255


def resize(images: Sequence[np.ndarray], size: int) -> np.ndarray:
    """(N, size, size, 3) uint8 from N uint8 (H, W, 3) crops of any sizes.

    Raises:
        ValueError: an image is empty, or not uint8 (H, W, 3).
    """
    if len(images) == 0:
        return np.zeros((0, size, size, 3), np.uint8)
    return np.stack([resize_one(image, size) for image in images])


def resize_one(image: np.ndarray, size: int) -> np.ndarray:
    """One crop as (size, size, 3): area average when it shrinks, linear when it grows; its aspect is kept.

    A crop that is not square is first made so by repeating its edge pixels on both sides, because stretching a face
    changes the very scale of the traces that a detector looks for.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"a crop must be uint8 (H, W, 3) and not empty, got {image.dtype} {image.shape}")
    image = _square(image)
    if image.shape[0] == size:
        return np.ascontiguousarray(image)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if image.shape[0] > size else cv2.INTER_LINEAR)


def points_to_input(points: np.ndarray, *, height: int, width: int, size: int) -> np.ndarray:
    """(K, 2) points x, y of a (height, width) crop, where `resize_one` puts them; pixel centres are whole numbers."""
    side = max(height, width)
    before = np.array([(side - width) // 2, (side - height) // 2])
    return (points + before + 0.5) * (size / side) - 0.5


def _square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    missing = abs(height - width)
    if missing == 0:
        return image
    before, after = missing // 2, missing - missing // 2
    edges = (0, 0, before, after) if height > width else (before, after, 0, 0)
    return cv2.copyMakeBorder(image, *edges, borderType=cv2.BORDER_REPLICATE)
