"""What decoding gives: frames of a video, and what is wrong with its file."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np


class UnreadableVideo(Exception):
    """No frame can be had; the message says why in a person's words."""


@dataclasses.dataclass(frozen=True)
class DecodedVideo:
    """Frames of a video.

    Args:
        frames: (N, H, W, 3) uint8 RGB, upright; N = 0 if unreadable.
        indices: (N,) int64, the frames' numbers in the video from 0, rising.
        timestamps_s: (N,) float64, when they are shown, seconds.
        status: "ok", "partial" (damaged: the frames are those that are good) or "unreadable".
        reason: "" if ok, else what is wrong with the file.
    """

    frames: np.ndarray
    indices: np.ndarray
    timestamps_s: np.ndarray
    status: str
    reason: str


NOT_OPENED = "cannot be read: "
"""Begins the reason of a file that could not be opened: that may be mended without changing the file."""


def unreadable(reason: str) -> DecodedVideo:
    """A video without frames."""
    nothing = np.zeros((0, 0, 0, 3), np.uint8)
    return DecodedVideo(nothing, np.zeros(0, np.int64), np.zeros(0), "unreadable", reason)


def uniform_indices(total: int, count: int) -> np.ndarray:
    """The frames shown at the centres of `count` equal parts of a video: floor((2 i + 1) total / (2 count)).

    All frames, once each, if the video has no more than `count`.
    """
    parts = min(total, count)
    return np.array([(2 * i + 1) * total // (2 * parts) for i in range(parts)], np.int64)


class FrameSink:
    """Takes the good frames of a video in rising order, here into memory; a decoder that begins again restarts it."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Forgets every frame."""
        self.size: tuple[int, int] | None = None  # height, width
        self.indices: list[int] = []
        self.timestamps_s: list[float] = []
        self._images: list[np.ndarray] = []

    def add(self, index: int, time_s: float, image: np.ndarray) -> None:
        """Keeps (H, W, 3) uint8 RGB; where the size changes on the way, all frames get the size of the first."""
        if self.size is None:
            self.size = image.shape[:2]
        if image.shape[:2] != self.size:
            image = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_AREA)
        self._keep(int(index), float(time_s), image)
        self.indices.append(int(index))
        self.timestamps_s.append(float(time_s))

    def _keep(self, index: int, time_s: float, image: np.ndarray) -> None:
        self._images.append(image)

    def video(self, status: str, reason: str) -> DecodedVideo:
        """The frames kept here."""
        indices, times = np.array(self.indices, np.int64), np.array(self.timestamps_s, np.float64)
        return DecodedVideo(np.stack(self._images), indices, times, status, reason)
