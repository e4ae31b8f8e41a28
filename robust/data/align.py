"""Faces brought into one pose: turned, scaled and shifted so that eyes, nose and mouth lie where the template has them.

Source: Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns"; the template
is that of ArcFace (Deng et al. 2019) for crops of 112 pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
"""(5, 2) x and y of left eye, right eye, nose, left and right mouth corner in a square of TEMPLATE_SIDE pixels."""
TEMPLATE_SIDE = 112


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) rotation, scale and shift that bring `points` closest to `target`, both (N, 2); never a mirroring.

    Raises:
        ValueError: the points are all one point, or not finite.
    """
    points, target = np.asarray(points, np.float64), np.asarray(target, np.float64)
    if not np.isfinite(points).all():
        raise ValueError("landmarks are not finite")
    centre, target_centre = points.mean(0), target.mean(0)
    a, b = points - centre, target - target_centre
    power = float((a**2).sum())
    if power <= 1e-9:
        raise ValueError("landmarks are all in one place")
    # As complex numbers the best similarity is a division: sum(conj(a) b) / sum(conj(a) a).
    cosine = float((a * b).sum()) / power
    sine = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / power
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.concatenate([turn, (target_centre - turn @ centre)[:, None]], 1)


def aligned_matrix(landmarks: np.ndarray, *, side: int, margin: float) -> np.ndarray:
    """(2, 3): from pixels of the frame to those of an aligned crop of `side`.

    Args:
        landmarks: (5, 2) pixels of the frame.
        margin: how much of the template's side is added around it, half on each side.
    """
    scale = side / (TEMPLATE_SIDE * (1 + margin))
    inside = (TEMPLATE + 0.5 + TEMPLATE_SIDE * margin / 2) * scale - 0.5
    return similarity(landmarks, inside)


def aligned_side(landmarks: np.ndarray, *, margin: float) -> int:
    """The side at which an aligned crop has as many pixels as the face has in its frame."""
    scale = float(np.hypot(*aligned_matrix(landmarks, side=TEMPLATE_SIDE, margin=0)[0, :2]))
    return max(1, round(TEMPLATE_SIDE * (1 + margin) / max(scale, 1e-3)))


def aligned_crop(frame: np.ndarray, landmarks: np.ndarray, *, side: int, margin: float) -> np.ndarray:
    """(side, side, 3): the face of a (H, W, 3) frame, aligned; beyond the frame its edge pixels go on.

    A crop much smaller than the face is averaged, not sampled: the frame is shrunk first as far as the crop allows.
    """
    matrix = aligned_matrix(landmarks, side=side, margin=margin)
    shrunk = int(1 / max(float(np.hypot(*matrix[0, :2])), 1e-6))
    if shrunk > 1:
        size = (max(1, frame.shape[1] // shrunk), max(1, frame.shape[0] // shrunk))
        x, y = frame.shape[1] / size[0], frame.shape[0] / size[1]
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        matrix = matrix @ np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])
    return cv2.warpAffine(frame, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
