"""How good a detected face is to look at: its size, its sharpness, how far it is turned; and which faces a run refuses."""

from __future__ import annotations

import math

import cv2
import numpy as np

from robust.data.faces import Face

SHARPNESS_SIDE = 112
"""Faces are scaled to this height and width first: the variance of a Laplacian depends on the size it is taken at."""
NOSE_DEPTH = 1.0
"""How far the nose's tip lies before the plane of the eyes, in halves of the distance between the pupils. Faces differ
(about 0.8 to 1.2), so a yaw is right to some ten degrees."""
SMALL, BLURRED, TURNED, BRIEF = REASONS = ("small", "blurred", "turned", "brief")
"""Why a face is refused, in the order in which it is asked."""


def sharpness(frame: np.ndarray, box) -> float:
    """Variance of the Laplacian over the grey face box, 0-255 units squared; low is blurred, or has few pixels.

    Args:
        frame: (H, W, 3) uint8; the part of the box that lies inside it is used.
    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy".
    """
    height, width = frame.shape[:2]
    x0, y0 = (min(max(math.floor(value), 0), limit - 1) for value, limit in zip(box[:2], (width, height)))
    x1, y1 = (min(max(math.ceil(value), low + 1), limit) for value, low, limit in zip(box[2:], (x0, y0), (width, height)))
    grey = cv2.cvtColor(np.ascontiguousarray(frame[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY)
    way = cv2.INTER_AREA if max(grey.shape) > SHARPNESS_SIDE else cv2.INTER_LINEAR
    return float(cv2.Laplacian(cv2.resize(grey, (SHARPNESS_SIDE, SHARPNESS_SIDE), interpolation=way), cv2.CV_64F).var())


def yaw(landmarks: np.ndarray) -> float:
    """How far the head is turned, degrees in [-90, 90]; 0 faces the camera, above 0 it looks to the picture's right.

    From where the nose lies between the eyes, measured along their line, so that a tilted head counts as straight. Seen
    from afar, a head turned by a has its eyes at +-e cos(a) and its nose at n sin(a): nose / half eye distance = (n / e) tan(a).

    Args:
        landmarks: (5, 2) as in Face.
    """
    left, right, nose = (np.asarray(point, np.float64) for point in landmarks[:3])
    line, middle = (right - left) / 2, (left + right) / 2
    half = float(np.hypot(*line))
    if half == 0:
        return 90.0
    return math.degrees(math.atan(float((nose - middle) @ line) / half**2 / NOSE_DEPTH))


def refusal(face: Face, frame: np.ndarray, bounds) -> str | None:
    """Why `bounds` (FilterConfig) refuse a face: SMALL, BLURRED or TURNED; None: they do not."""
    if face.size < bounds.min_size:
        return SMALL
    if bounds.min_sharpness > 0 and sharpness(frame, face.box) < bounds.min_sharpness:
        return BLURRED
    return TURNED if abs(yaw(face.landmarks)) > bounds.max_yaw else None
