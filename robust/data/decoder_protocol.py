"""What a decoding process says of a video, read as data and checked; see robust/data/decoder_process.py."""

from __future__ import annotations

import json
import math
import mmap

import numpy as np

from robust.data.decoded import DecodedVideo, unreadable

MESSAGE_BYTES = 4096
BLOCK_BYTES = 2**21  # the largest piece a child may ask for
LARGEST_SIDE = 2**16
NONSENSE = "the decoder answered with something that is no answer"


class Ended(Exception):
    """The child did not finish; the message is the reason for the video's status."""


class Answer:
    """What the child has said of a video. Nothing in it is believed that could not be true."""

    def __init__(self, memory: int, capacity: int, count: int):
        self.memory, self.capacity, self.count = memory, capacity, count
        self.frames: list[tuple[int, float]] = []  # number, seconds
        self.size = (0, 0)
        self.done, self.status, self.reason = False, "", ""

    def take(self, data: bytes) -> tuple[int, int] | None:
        """Reads a message; returns (offset, size) if the child asks for a piece of the file.

        Raises:
            Ended: it is no message.
        """
        try:
            message = json.loads(data)
            return self._take(message["kind"], message)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise Ended(NONSENSE) from None

    def _take(self, kind: str, message: dict) -> tuple[int, int] | None:
        if kind == "read":
            return _whole(message["offset"], 0, 2**62), _whole(message["size"], 1, BLOCK_BYTES)
        if kind == "restart":
            self.frames, self.size = [], (0, 0)
        elif kind == "size" and not self.frames:
            self.size = _whole(message["height"], 1, LARGEST_SIDE), _whole(message["width"], 1, LARGEST_SIDE)
        elif kind == "frame" and len(self.frames) < self.count:
            after = self.frames[-1][0] + 1 if self.frames else 0
            frame = _whole(message["index"], after, 2**53), float(message["time_s"])
            used = (len(self.frames) + 1) * self.size[0] * self.size[1] * 3
            if not math.isfinite(frame[1]) or not 0 < used <= self.capacity:
                raise ValueError
            self.frames.append(frame)
        elif kind == "done" and message["status"] in ("ok", "partial", "unreadable") and isinstance(message["reason"], str):
            self.done, self.status = True, message["status"]
            self.reason = "".join(letter for letter in message["reason"][:300] if letter.isprintable())
            if self.status != "unreadable" and not self.frames:
                raise ValueError
        else:
            raise ValueError
        return None

    def video(self) -> DecodedVideo:
        if self.status == "unreadable":
            return unreadable(self.reason)
        height, width = self.size
        shape = (len(self.frames), height, width, 3)
        pixels = mmap.mmap(self.memory, math.prod(shape), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        indices, times = zip(*self.frames)
        return DecodedVideo(np.frombuffer(pixels, np.uint8).reshape(shape), np.array(indices, np.int64),
                            np.array(times, np.float64), self.status, self.reason)

    def so_far(self, reason: str) -> DecodedVideo:
        """The frames of a child that did not finish."""
        if not self.frames:
            return unreadable(reason)
        self.status, self.reason = "partial", f"{reason}; {len(self.frames)} frames are good"
        return self.video()


def _whole(value, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError
    return value
