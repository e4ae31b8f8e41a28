"""MTCNN, the face detector of the reference recipe, out of facenet-pytorch, which carries its weights.

Source: Zhang et al. 2016, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks".
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from facenet_pytorch import MTCNN

from robust.data.faces import Face, frames_at_once, look_twice
from robust.data.mtcnn_cascade import WINDOW, Cascade


class MtcnnDetector:
    """All frames of a video at once, shrunk, on a GPU where there is one."""

    def __init__(self, *, min_score: float, min_face: int, detect_size: int, device: str | None = None):
        """Args:
        min_score: detections below this probability are dropped.
        min_face: smallest height of a face, pixels of the frame.
        detect_size: frames are shrunk to this longer side before detection.
        device: None: a GPU where there is one.
        """
        self.min_score, self.min_face, self.detect_size = min_score, min_face, detect_size
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with torch.random.fork_rng(devices=[]):  # it draws weights before it loads its own
            carried = MTCNN(device=self.device)
        self.cascade = Cascade(carried.pnet, carried.rnet, carried.onet, self.device)

    def detect(self, frames: np.ndarray) -> list[list[Face]]:
        """See FaceDetector. Frames without a face get a second look with a border around them."""
        return look_twice(self._look, frames, detect_size=self.detect_size)

    def _look(self, frames: np.ndarray, scale: float) -> list[list[Face]]:
        """Faces of shrunk frames, in pixels of the frames before they were shrunk by `scale`."""
        if min(frames.shape[1:3]) < WINDOW:
            return [[] for _ in frames]
        step = frames_at_once(frames, gpu=self.device.type == "cuda")
        found = []
        for start in range(0, len(frames), step):
            with _full_precision(self.device):
                answer = self.cascade.detect(frames[start:start + step], smallest=max(self.min_face / scale, WINDOW))
            found += [self._faces(*one, scale) for one in answer]
        return found

    def _faces(self, boxes, scores, landmarks, scale: float) -> list[Face]:
        faces = [Face(np.asarray(box, np.float32) * scale, float(score), np.asarray(points, np.float32) * scale)
                 for box, score, points in zip(boxes, scores, landmarks)]
        return [face for face in faces if face.score >= self.min_score and face.height >= self.min_face]


@contextlib.contextmanager
def _full_precision(device: torch.device):
    """On a GPU, convolutions in full float32, so that the same frames give the same faces on every machine."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
