"""Frames by decord: it seeks to each frame, and is the fastest decoder where it can be trusted."""

from __future__ import annotations

import io
import os

import av  # noqa: F401  decord's old libraries take the place of theirs in what is loaded after it: it comes last
import cv2  # noqa: F401
import decord
import numpy as np

from robust.data.decoded import FrameSink, uniform_indices

CHUNK_BYTES = 2**26  # frames fetched at once: beyond a few megabytes more at once is no faster, only larger
LONGEST_S = 10**7  # of some cut files it tells times of millions of years


def read_with_decord(source: bytes | str | os.PathLike, count: int, sink: FrameSink, *, frames: int | None) -> float | None:
    """Gives the sink `count` frames spread evenly.

    Args:
        frames: as many as the video has, where its header says so.
    Returns:
        When the last frame of the video ends, seconds; None where decord fails or counts frames that an edit list
        hides, whatever the sink has by then.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)
    decord.logging.set_level(decord.logging.QUIET)  # what is wrong is told in the reason
    try:
        reader = decord.VideoReader(file, ctx=decord.cpu(0), num_threads=1)
        indices = uniform_indices(len(reader), count)
        if not len(indices) or len(reader) != (frames or len(reader)):
            return None
        timestamps = reader.get_frame_timestamp(np.arange(len(reader)))
        if timestamps.shape != (len(reader), 2) or not 0 <= timestamps[-1, 1] < LONGEST_S:
            return None
        start = 0
        while start < len(indices):
            height, width = sink.size or (0, 0)
            step = max(1, CHUNK_BYTES // (height * width * 3)) if height else 1  # the first tells the size
            chunk = indices[start:start + step]
            images = reader.get_batch(chunk.tolist()).asnumpy()
            if images.ndim != 4 or len(images) != len(chunk) or images.shape[3] != 3 or images.dtype != np.uint8:
                return None
            for index, frame in zip(chunk, images):
                sink.add(index, timestamps[index, 0], frame)
            start += step
    except (decord.DECORDError, RuntimeError):  # the first is no RuntimeError
        return None
    return float(timestamps[-1, 1])
