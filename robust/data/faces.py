"""What a detected face is, and the detectors behind one interface; a new one is a file and a line in DETECTORS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from robust.data.crop import shrink
from robust.errors import ConfigError

BORDER = 0.25
"""Share of the longer side. With so much black around it, a face that fills the frame or is cut by its edge is found
too: of 24 such frames MTCNN scores 12 at 0.9 or more without a border, 23 with it."""


@dataclasses.dataclass(frozen=True)
class Face:
    """A detected face.

    Args:
        box: (4,) float32, x0, y0, x1, y1 in pixels of the frame; may reach a little beyond it.
        score: probability that it is a face.
        landmarks: (5, 2) float32, x and y of left eye, right eye, nose, left and right mouth corner; "left" as seen.
        embedding: a vector of length 1 from robust/data/appearance.py that tells people apart, where one is asked for.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray
    embedding: np.ndarray | None = None

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


PIXELS_AT_ONCE = {"gpu": 8 * 640 * 640, "cpu": 2 * 640 * 640}
"""Detection takes so many pixels at a time, which bounds its memory whatever the video. Few on a CPU: malloc gives large feature maps back to the
kernel, which makes their pages anew for the next; 25 frames of 640 x 360 at once took 1.5 times as long as five at a time with MTCNN, 1.3 times
with RetinaFace (one core; as fast as five where malloc keeps its memory, cluster.local.KEEP_MEMORY)."""


def frames_at_once(frames: np.ndarray, *, gpu: bool) -> int:
    """How many of (N, H, W, 3) frames a detector is to take at a time, at least one."""
    return max(1, PIXELS_AT_ONCE["gpu" if gpu else "cpu"] // (frames.shape[1] * frames.shape[2]))


def look_twice(
    look: Callable[[np.ndarray, float], list[list[Face]]], frames: np.ndarray, *, detect_size: int
) -> list[list[Face]]:
    """The faces of (N, H, W, 3) frames, looked for in small; frames without one get a second look with a border.

    Args:
        look: takes shrunk frames and by what they were shrunk, gives the faces in pixels of the frames before.
        detect_size: longer side of the shrunk frames.
    """
    small = shrink(frames, longer_side=detect_size)
    scale = max(frames.shape[1:3]) / max(small.shape[1:3])
    found = look(small, scale)
    empty = [number for number, faces in enumerate(found) if not faces]
    if empty:
        border = round(BORDER * max(small.shape[1:3]))
        around = ((0, 0), (border, border), (border, border), (0, 0))
        for number, faces in zip(empty, look(np.pad(small[empty], around), scale)):
            found[number] = [_moved(face, -border * scale) for face in faces]
    return found


def _moved(face: Face, pixels: float) -> Face:
    return Face(face.box + np.float32(pixels), face.score, face.landmarks + np.float32(pixels))


def _mtcnn(*, threads: int | None = None, **settings) -> FaceDetector:
    from robust.data.mtcnn import MtcnnDetector  # loads torch, which decoding and writing do without

    return MtcnnDetector(**settings)  # its threads are torch's


def _retinaface(**settings) -> FaceDetector:
    from robust.data.retinaface import RetinaFaceDetector

    return RetinaFaceDetector(**settings)


DETECTORS: dict[str, Callable[..., FaceDetector]] = {"mtcnn": _mtcnn, "retinaface": _retinaface}


def build_detector(config, *, device: str | None = None, threads: int | None = None) -> FaceDetector:
    """The detector that an ExtractConfig names.

    Args:
        device: "cpu" or "cuda"; None: a GPU where there is one.
        threads: CPU threads of detectors that do not run in torch; None: as many as there are cores.
    Raises:
        ConfigError: there is none of that name.
        UserError: it cannot run here; the message tells what is missing.
    """
    if config.detector not in DETECTORS:
        known = ", ".join(sorted(DETECTORS))
        raise ConfigError(f"extract.detector: {config.detector!r} is not known; known are {known}")
    return DETECTORS[config.detector](
        min_score=config.min_score, min_face=config.min_face, detect_size=config.detect_size, device=device, threads=threads
    )
