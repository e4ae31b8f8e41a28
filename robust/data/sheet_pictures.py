"""Crops and frames made small enough for a page of hundreds."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from robust.data.crop import shrink
from robust.data.crops import landmarks_in_crop
from robust.data.images import decode_image

PICTURE_SIDE, PICTURE_BYTES = 128, 6000


@dataclasses.dataclass(frozen=True)
class Picture:
    """A crop made small: WebP, None if the stored image is damaged; height and width as stored; the five landmarks in
    shares of width and height, empty if not known."""

    webp: bytes | None
    height: int
    width: int
    points: tuple[tuple[float, float], ...]


def picture_of(row: dict) -> Picture:
    """Of a row of FACE_SCHEMA with image, landmarks and what places them."""
    points = landmarks_in_crop(row)
    shares = () if points is None else tuple(
        (float(x + 0.5) / row["width"], float(y + 0.5) / row["height"]) for x, y in points if math.isfinite(x + y))
    try:
        webp = small_webp(decode_image(row["image"]), side=PICTURE_SIDE, most_bytes=PICTURE_BYTES)
    except ValueError:
        webp = None
    return Picture(webp, row["height"], row["width"], shares)


def small_webp(image: np.ndarray, *, side: int, most_bytes: int) -> bytes:
    """(H, W, 3) uint8 RGB as a WebP of at most this longer side and so many bytes, as good as these allow."""
    while True:
        small = cv2.cvtColor(shrink(image, longer_side=side), cv2.COLOR_RGB2BGR)
        for quality in (85, 65, 40, 15):
            encoded, data = cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, quality])
            if encoded and len(data) <= most_bytes:
                return data.tobytes()
        if side <= 8:
            raise ValueError(f"no picture of {image.shape} has {most_bytes} bytes")
        side //= 2
