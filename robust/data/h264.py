"""H.264 videos in MP4, the same bytes for the same frames (one encoder thread, nothing of date or version inside)."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
from av.codec.context import Flags

# x264's macroblock tree in its assembler form gave two results for one input now and then; without it, and with only
# assembler that does as the C code does, a thousand encodes in threads gave one (tests/data/test_demo.py).
REPEATABLE = "mbtree=0:cpu-independent=1"


def encode_h264(frames: np.ndarray, *, fps: int, crf: int) -> bytes:
    """An MP4 file.

    Args:
        frames: (N, H, W, 3) uint8 RGB, H and W even.
        fps: frames a second.
        crf: constant rate factor of x264; lower is better, 18 is nearly without loss, 23 the encoder's default.
    """
    sink = io.BytesIO()
    options = {"fflags": "+bitexact"}
    with av.open(sink, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "fast", "threads": "1", "x264-params": REPEATABLE}
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= Flags.bitexact
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


def decode_h264(video: bytes) -> np.ndarray:
    """(N, H, W, 3) uint8 RGB, all frames of a video that encode_h264 made."""
    with av.open(io.BytesIO(video)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
