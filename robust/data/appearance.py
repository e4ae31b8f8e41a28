"""What a face looks like, as a vector: tells a cut to another person from a move of the same one.

No face recognition: the brightness of the aligned face on a coarse grid. It compares faces that lie seconds apart in one
video, where light and hair are the same; between videos it says little.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from robust.data.align import aligned_crop
from robust.data.faces import Face

SIDE, GRID = 64, 16


def grey_grid(frame: np.ndarray, face: Face) -> np.ndarray | None:
    """(256,) float32 of mean 0 and length 1; the product of two is their correlation. None: the landmarks tell no pose."""
    try:
        crop = aligned_crop(frame, face.landmarks, side=SIDE, margin=0)
    except ValueError:
        return None
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grid = cv2.resize(grey, (GRID, GRID), interpolation=cv2.INTER_AREA).ravel()
    grid -= grid.mean()
    return grid / max(float(np.linalg.norm(grid)), 1e-6)


EMBEDDINGS = {"grey_grid": grey_grid}
"""By the name in extract.embedding; each gives vectors of length 1, of which two of one person have a large product."""


def embedded(frames: np.ndarray, detections: Sequence[Sequence[Face]], name: str) -> Sequence[Sequence[Face]]:
    """The faces of each of (N, H, W, 3) frames with the embedding of this name; "none": as they are."""
    if name == "none":
        return detections
    return [[dataclasses.replace(face, embedding=EMBEDDINGS[name](frame, face)) for face in faces]
            for frame, faces in zip(frames, detections, strict=True)]
