"""Fakes made on the fly out of real face crops, so that a detector learns the trace of a blend and not who is who.

A drawn fake is, with probability `share`, replaced by a real crop into which a face was blended: its own, changed in colour,
sharpness and place (a self-blended image), or another real person's. Every real crop so occurs as real and as fake, and
knowing the person no longer tells the label.

Sources: Shiraishi & Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022; Li et al., "Face X-ray for More
General Face Forgery Detection", CVPR 2020 (blends of two people).
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from robust.data.face_swap import METHODS, FaceShape, align_face, face_unit, sharpness_ratio, to_uint8

METHOD_NAMES = tuple(METHODS)
SELF_SHARE = 0.5  # of the blends; the others take another person's face


def blend_fake(
    target: np.ndarray, landmarks: np.ndarray, donor: np.ndarray, donor_landmarks: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A fake from two real crops; the same for the same state of `rng`.

    Args:
        target: (H, W, 3) uint8 RGB, keeps its surroundings.
        landmarks: (5, 2) pixels x, y of the target.
        donor: (h, w, 3) uint8 RGB, gives its face; may be the target.
        donor_landmarks: (5, 2).
    Returns:
        (H, W, 3) uint8.
    """
    unit = face_unit(landmarks)
    moved = landmarks + rng.normal(0, 0.8 * unit, 2) + rng.normal(0, 0.5 * unit, (5, 2))
    if donor is target or rng.random() < 0.3:
        donor = changed_copy(donor, rng)
    aligned = align_face(target, moved, donor, donor_landmarks, FaceShape.jittered(rng))
    method = METHOD_NAMES[int(rng.integers(len(METHOD_NAMES)))]
    if method == "fine":
        aligned = replace(aligned, sharpness=sharpness_ratio(aligned))
    return METHODS[method](aligned)


def changed_copy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image in other light and sharpness: what differs between two pictures of a face."""
    gain, offset = rng.uniform(0.8, 1.25, 3) * rng.uniform(0.8, 1.25), rng.uniform(-15, 15, 3)
    changed = to_uint8(image * gain + offset)
    kind = rng.integers(3)
    if kind == 0:  # seen from further away
        size = image.shape[1], image.shape[0]
        scale = rng.uniform(0.35, 0.9)
        small = cv2.resize(changed, (max(8, round(size[0] * scale)), max(8, round(size[1] * scale))), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
    if kind == 1:
        smooth = cv2.GaussianBlur(changed, (0, 0), 1.0)
        return to_uint8(changed + rng.uniform(0, 1.0) * (changed.astype(np.float32) - smooth))
    return changed
