"""Poisson blending by a sparse direct solver: exact, and the same for any OpenCV."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu


def poisson_blend(face: np.ndarray, frame: np.ndarray, mask: np.ndarray, *, max_step: float = 255) -> np.ndarray:
    """The face's gradients inside the mask, the frame's values on its edge.

    The result is face + h, where h is harmonic inside the mask (the 5-point Laplacian is zero) and equals frame - face
    on its edge.

    Args:
        face, frame: (H, W, 3) uint8.
        mask: (H, W) uint8, non-zero inside; must not touch the border of the image.
        max_step: the edge's frame - face is clipped to this, of 255: where hair or background meets skin, a bigger step
            is no difference in light, and would bleed into the face.
    Returns:
        (H, W, 3) float32, not clipped; the frame outside the mask.
    Source: Perez, Gangnet & Blake, "Poisson Image Editing", SIGGRAPH 2003, eq. 7.
    """
    ys, xs = np.nonzero(mask)
    result = frame.astype(np.float32)
    if len(ys) == 0:
        return result
    gap = np.clip(frame.astype(np.float64) - face, -max_step, max_step)
    number = np.full(mask.shape, -1)
    number[ys, xs] = np.arange(len(ys))
    rows, columns, right = [np.arange(len(ys))], [np.arange(len(ys))], np.zeros((len(ys), 3))
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        neighbour = number[ys + dy, xs + dx]
        inside = neighbour >= 0
        rows.append(np.flatnonzero(inside))
        columns.append(neighbour[inside])
        right[~inside] += gap[ys[~inside] + dy, xs[~inside] + dx]
    values = np.concatenate([np.full(len(ys), 4.0), np.full(sum(map(len, rows[1:])), -1.0)])
    laplacian = csc_matrix((values, (np.concatenate(rows), np.concatenate(columns))), shape=(len(ys), len(ys)))
    correction = splu(laplacian, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(right)
    result[ys, xs] = face[ys, xs] + correction
    return result
