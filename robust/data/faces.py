"""What a detected face is, and the detectors behind one interface; a new one is a file and a line in DETECTORS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from robust.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Face:
    """A detected face.

    Args:
        box: (4,) float32, x0, y0, x1, y1 in pixels of the frame; may reach a little beyond it.
        score: probability that it is a face.
        landmarks: (5, 2) float32, x and y of left eye, right eye, nose, left and right mouth corner.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray

    @property
    def height(self) -> float:
        return float(self.box[3] - self.box[1])

    @property
    def size(self) -> float:
        """Length of the square of the box's area, pixels."""
        width = float(self.box[2] - self.box[0])
        return max(width * self.height, 0.0) ** 0.5


class FaceDetector(Protocol):
    def detect(self, frames: np.ndarray) -> list[list[Face]]:
        """The faces of each of (N, H, W, 3) uint8 RGB frames of one video."""


def _mtcnn(**settings) -> FaceDetector:
    from robust.data.mtcnn import MtcnnDetector  # loads torch, which decoding and writing do without

    return MtcnnDetector(**settings)


DETECTORS: dict[str, Callable[..., FaceDetector]] = {"mtcnn": _mtcnn}


def build_detector(config, *, device: str | None = None) -> FaceDetector:
    """The detector that an ExtractConfig names.

    Raises:
        ConfigError: there is none of that name.
    """
    if config.detector not in DETECTORS:
        known = ", ".join(sorted(DETECTORS))
        raise ConfigError(f"extract.detector: {config.detector!r} is not known; known are {known}")
    return DETECTORS[config.detector](
        min_score=config.min_score, min_face=config.min_face, detect_size=config.detect_size, device=device
    )
