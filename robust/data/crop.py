"""The face crop: a square around the face box with a margin, cut from the frame to the pixel."""

from __future__ import annotations

import math

import cv2
import numpy as np


def crop_window(box, *, height: int, width: int, margin: float) -> tuple[int, int, int, int]:
    """The part of a frame that is cut out for a face box.

    A square around the box's centre, its side the box's longer side plus `margin` of it, rounded to whole pixels. Where
    it would leave the frame it is shifted inwards, so that the face keeps its proportions and nothing is padded; where
    the frame is smaller than the square, it ends at the frame.

    Args:
        box: x0, y0, x1, y1, pixels of the frame, not necessarily inside it.
        margin: share of the box's longer side, half of it on each side.
    Returns:
        (left, top, right, bottom), right and bottom exclusive; never empty, always inside the frame.
    Raises:
        ValueError: the box has no area, is not finite, or does not meet the frame.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
        raise ValueError(f"face box {(x0, y0, x1, y1)} has no area")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise ValueError(f"face box {(x0, y0, x1, y1)} lies outside the frame of {width} x {height}")
    side = max(1, round(max(x1 - x0, y1 - y0) * (1 + margin)))
    left, right = _interval((x0 + x1) / 2, side, width)
    top, bottom = _interval((y0 + y1) / 2, side, height)
    return left, top, right, bottom


def _interval(centre: float, side: int, limit: int) -> tuple[int, int]:
    """`side` pixels around the centre, shifted into [0, limit), or all of it."""
    side = min(side, limit)
    start = min(max(round(centre - side / 2), 0), limit - side)
    return start, start + side


def crop_face(frame: np.ndarray, box, *, margin: float) -> np.ndarray:
    """Cuts a face out of a frame; see `crop_window`. The pixels are the frame's, unscaled.

    Args:
        frame: (H, W, 3) uint8.
    """
    left, top, right, bottom = crop_window(box, height=frame.shape[0], width=frame.shape[1], margin=margin)
    return frame[top:bottom, left:right]


def shrink(image: np.ndarray, *, longer_side: int) -> np.ndarray:
    """(H, W, 3), or a stack of them, made no larger than `longer_side`; the aspect is kept, nothing is enlarged."""
    height, width = image.shape[-3:-1]
    scale = longer_side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if image.ndim == 3:
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.stack([cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in image])
