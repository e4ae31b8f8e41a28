"""The masks of self-blended fakes: outlines drawn from five landmarks, bent out of shape and feathered.

Source: Shiraishi & Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022, section 3, mask generator. Ours:
outlines from five landmarks instead of 68 or 81, and masks of single parts.
"""

from __future__ import annotations

import cv2
import numpy as np

from robust.data.align import similarity
from robust.data.face_swap import TEMPLATE, draw_outline, transform

CORNERS = 32  # of an outline's polygon
PART_ELLIPSES = {  # centre x, y and half axes in the units of TEMPLATE, in which the eyes are 35 apart
    "left eye": (38.3, 50.0, 14.0, 10.0),
    "right eye": (73.5, 50.0, 14.0, 10.0),
    "both eyes": (56.0, 49.0, 33.0, 13.0),
    "nose": (56.0, 65.0, 12.0, 19.0),
    "mouth": (56.0, 92.0, 24.0, 14.0),
}


def face_mask(to_picture: np.ndarray, size: tuple[int, int], rng: np.random.Generator, *, elastic: float) -> np.ndarray:
    """(H, W) float32, 0 or 1: the face, a half of it, or some of its parts, bent out of shape.

    Args:
        to_picture: (2, 3), see `fit_face`.
        elastic: displacement of the outline, units of TEMPLATE.
    """
    kind = rng.random()
    mask = np.zeros(size, np.uint8)
    outlines = _parts(rng) if kind < 0.35 else [_face(rng)]
    for outline in outlines:
        mask |= draw_outline(transform(to_picture, outline), size)
    if kind > 0.85:
        mask = np.where(_half_plane(transform(to_picture, _near_middle(rng))[0], size, rng), mask, 0)
    return bend(mask.astype(np.float32) / 255, elastic * unit_of(to_picture), rng)


def fit_face(landmarks: np.ndarray) -> np.ndarray:
    """(2, 3) map from the units of TEMPLATE to the picture: the nearest similarity, narrowed where the head is turned.

    An affine fit would collapse in a profile, where both eyes and the nose come to lie on one line.
    """
    template, points = TEMPLATE.astype(np.float64), landmarks.astype(np.float64)
    linear = similarity(template, points)[:, :2]
    size = max(np.hypot(*linear[:, 0]), 1e-6)
    eyes = np.linalg.norm(points[1] - points[0]) / (np.linalg.norm(template[1] - template[0]) * size)
    linear = linear @ np.diag([np.clip(eyes, 0.5, 1.0), 1.0])
    return np.hstack([linear, (points.mean(axis=0) - linear @ template.mean(axis=0))[:, None]])


def unit_of(to_picture: np.ndarray) -> float:
    """Pixels of one unit of TEMPLATE, whatever the turn of the head."""
    return float(max(np.linalg.norm(to_picture[:, 1]), 1e-6))


def _face(rng: np.random.Generator) -> np.ndarray:
    """A convex outline: from the forehead or the eyebrows to below the mouth or the chin, rounder or more square."""
    top, bottom = rng.uniform(14, 42), rng.uniform(100, 118)
    return _superellipse(
        56 + rng.uniform(-4, 4), (top + bottom) / 2, rng.uniform(27, 42), (bottom - top) / 2, rng.uniform(1.8, 3.2)
    )


def _parts(rng: np.random.Generator) -> list[np.ndarray]:
    names = rng.choice(list(PART_ELLIPSES), rng.integers(1, 4), replace=False)
    return [
        _superellipse(x, y, *(rng.uniform(0.8, 1.4, 2) * (a, b)), 2.0)
        for x, y, a, b in (PART_ELLIPSES[name] for name in names)
    ]


def _superellipse(x: float, y: float, a: float, b: float, power: float) -> np.ndarray:
    """(CORNERS, 2): |u / a|^power + |v / b|^power = 1 about (x, y)."""
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack(
        [x + a * np.sign(cos) * np.abs(cos) ** (2 / power), y + b * np.sign(sin) * np.abs(sin) ** (2 / power)], axis=1
    )


def _near_middle(rng: np.random.Generator) -> np.ndarray:
    return np.array([[56.0, 70.0]]) + rng.uniform(-10, 10, (1, 2))


def _half_plane(point: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool: one side of a line through the point."""
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[: size[0], : size[1]]
    return (xs - point[0]) * np.cos(angle) + (ys - point[1]) * np.sin(angle) > 0


def bend(mask: np.ndarray, pixels: float, rng: np.random.Generator) -> np.ndarray:
    """Elastic deformation: smooth noise displaces the mask by about `pixels`.

    Source: Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks", ICDAR 2003.
    """
    height, width = mask.shape
    field = rng.normal(0, 1, (2, 6, 6)).astype(np.float32)
    dx, dy = (pixels * cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in field)
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    return cv2.remap(mask, xs + dx, ys + dy, interpolation=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def soften(mask: np.ndarray, unit: float, rng: np.random.Generator, *, feather: float, hard: float) -> np.ndarray:
    """Two blurs with a cut between them: where the first is wider the mask shrinks, else it grows. (H, W) in [0, 1].

    Args:
        unit: pixels of one unit of TEMPLATE.
        feather: widest blur, units of TEMPLATE.
        hard: share of masks that keep a sharp edge.
    """
    if rng.random() < hard or not mask.any():
        return mask
    first, second = rng.uniform(0.5, max(0.5, feather / 2), 2) * unit
    core = cv2.GaussianBlur(mask, (0, 0), first)
    core = np.where(core >= 0.99 * core.max(), 1, 0).astype(np.float32)
    soft = cv2.GaussianBlur(core, (0, 0), second)
    return np.clip(soft / soft.max(), 0, 1)
