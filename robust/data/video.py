"""Frames out of video files, whatever the file is like: sound, damaged, rotated, or no video at all.

H.264 in an mp4 or mov, nearly all there is, is decoded by PyAV as far as the wanted frames need it (robust/data/decode_needed.py). Of the rest decord
decodes what it can be trusted with, because it seeks; PyAV decodes what decord cannot open, AV1, and what it returns wrong frames
of without a word: MPEG-4 ASP / .avi, HEVC, edited files, damaged ones. A damaged file gives its good frames and says "partial". Nothing here
raises because of what is in a file.

A crafted file may do worse than raise: jobs call this through robust/data/decoder_process.py.
"""

from __future__ import annotations

import io
import os
import warnings

import cv2
import numpy as np
from PIL import Image

from robust.data.decode_av import Facts, probe, read_all
from robust.data.decode_av_seek import read_by_seeking
from robust.data.decode_decord import read_with_decord
from robust.data.decode_needed import CODEC, read_needed
from robust.data.decoded import DecodedVideo, FrameSink, UnreadableVideo, uniform_indices, unreadable

__all__ = ["DecodedVideo", "UnreadableVideo", "read_frames", "read_image", "uniform_indices", "unreadable"]

DECORD_CODECS = ("h264", "vp8", "vp9")
"""Not HEVC: of one whose groups of pictures are open, x265's default, decord 0.6 returns frames of other moments."""
DECORD_CONTAINERS = ("mp4", "mov", "matroska", "webm")
PROMISE = 0.9  # of the frames that a header tells of, sound files have at least so many
WHOLE_BYTES = 2**26
"""Larger files are visited where frames are wanted: decord and a decoding from start to end read every byte of them."""
MAX_PIXELS = 2**27  # of a photograph, 134 million; unpacked 400 MB


def read_frames(source, *, count: int, name: str, sink: FrameSink | None = None, decord: bool = True) -> DecodedVideo:
    """Decodes `count` frames spread evenly over a video, or all of them if it has fewer.

    Args:
        source: the file's content (bytes), its local path, or a seekable binary file.
        count: frames asked for.
        name: how to call the video in errors, where the source has no name.
        sink: where frames go as they come; None: into memory.
        decord: whether decord may be asked.
    Returns:
        A DecodedVideo; "unreadable" or "partial" instead of an exception for whatever is wrong with the file.
    """
    if count < 1:
        raise ValueError(f"{name}: count is {count}, must be at least 1")
    sink = sink or FrameSink()
    try:
        size = _require_content(source)
        facts = probe(source)
        large = size > WHOLE_BYTES
        if large and (facts.frames or facts.length_s):
            return _visited(source, facts, count, sink)
        if facts.missing:
            return _read_through(source, facts, count, sink)
        if facts.frames and facts.codec == CODEC and not large and isinstance(source, (bytes, str, os.PathLike)):
            try:
                end_s = read_needed(source, count, sink, frames=facts.frames)
            except UnreadableVideo:
                sink.restart()
                return _read_through(source, facts, count, sink)  # decord calls nearly all damaged files sound
            if end_s is not None:
                return sink.video(*_completeness(facts, end_s))
            sink.restart()
        if decord and not large and _is_for_decord(source, facts):
            end_s = read_with_decord(source, count, sink, frames=facts.frames)
            if end_s is not None:
                return sink.video(*_completeness(facts, end_s))
            sink.restart()  # PyAV then says what is wrong, and saves what is good
        if facts.frames:
            visited = _visited(source, facts, count, sink)
            if visited.status == "ok":
                return visited
            sink.restart()
        return _read_through(source, facts, count, sink)
    except UnreadableVideo as error:
        return unreadable(str(error))


def _is_for_decord(source, facts: Facts) -> bool:
    has_path = isinstance(source, (bytes, str, os.PathLike))
    return has_path and facts.codec in DECORD_CODECS and any(name in DECORD_CONTAINERS for name in facts.formats)


def _visited(source, facts: Facts, count: int, sink: FrameSink) -> DecodedVideo:
    try:
        scan = read_by_seeking(source, facts, count, sink)
    except UnreadableVideo as error:
        return unreadable(str(error))
    if scan.total == scan.promised and facts.missing:
        return sink.video("partial", f"cut off: {facts.missing} of {facts.frames} frames are not in the file")
    if scan.total == scan.promised:
        return sink.video("ok", "")
    return sink.video("partial", f"damaged: {scan.total} of {scan.promised} frames asked for are good ({scan.error})")


def _read_through(source, facts: Facts, count: int, sink: FrameSink) -> DecodedVideo:
    scan = read_all(source, count, sink)
    if scan.error:
        return sink.video("partial", f"damaged: {scan.total} of about {scan.promised} frames are good ({scan.error})")
    if facts.missing:
        return sink.video("partial", f"cut off: {facts.missing} of {scan.promised} frames are not in the file")
    if scan.total < PROMISE * scan.promised:
        return sink.video("partial", f"cut off: {scan.total} of about {scan.promised} frames are in the file")
    return sink.video(*_completeness(facts, scan.end_s))


def _completeness(facts: Facts, end_s: float) -> tuple[str, str]:
    if facts.length_s is None or end_s >= facts.length_s - facts.short_s:
        return "ok", ""
    return "partial", f"cut off: ends at {end_s:.1f} s of {facts.length_s:.1f} s"


def _require_content(source) -> int:
    """The size of a file, bytes."""
    try:
        if isinstance(source, bytes):
            size = len(source)
        else:
            size = os.path.getsize(source) if isinstance(source, (str, os.PathLike)) else source.seek(0, os.SEEK_END)
    except OSError as error:
        raise UnreadableVideo(f"cannot be read: {error.strerror}") from None
    if size == 0:
        raise UnreadableVideo("empty file (0 bytes)")
    return size


def read_image(source: bytes | str | os.PathLike) -> np.ndarray:
    """Reads a photograph as (H, W, 3) uint8 RGB, turned upright as its EXIF says.

    Raises:
        UnreadableVideo: it is not an image that can be decoded.
    """
    try:
        data = source if isinstance(source, bytes) else open(source, "rb").read()
    except OSError as error:
        raise UnreadableVideo(f"cannot be read: {error.strerror}") from None
    _require_few_pixels(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:  # more pixels than OpenCV's own limit; it says so by an error of its own
        image = None
    if image is None:
        raise UnreadableVideo("not an image" if data else "empty file (0 bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _require_few_pixels(data: bytes) -> None:
    """A file of some kilobytes can unpack to gigabytes; its header says so before.

    Raises: UnreadableVideo: more than MAX_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                width, height = picture.size
    except Image.DecompressionBombError:
        raise UnreadableVideo(f"an image of more than {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError):
        return  # no format that Pillow knows; OpenCV's own limit stands
    if width * height > MAX_PIXELS:
        raise UnreadableVideo(f"an image of {width} x {height} pixels, more than {MAX_PIXELS}")
