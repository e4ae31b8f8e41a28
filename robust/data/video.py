"""Frames out of video files, whatever the file is like: sound, damaged, rotated, or no video at all.

decord decodes where it can be trusted, because it seeks and is the fastest; PyAV decodes the rest: what decord cannot
open, AV1, and MPEG-4 ASP / .avi, of which decord returns wrong frames without a word. A damaged file gives its good
frames and says "partial". Nothing here raises because of what is in a file.
"""

from __future__ import annotations

import dataclasses
import io
import os
import warnings
from collections.abc import Iterator

import av
import cv2
import decord
import numpy as np
from PIL import Image

DECORD_CODECS = ("h264", "hevc", "vp8", "vp9")
DECORD_CONTAINERS = ("mp4", "mov", "matroska", "webm")
AV_OPTIONS = {"metadata_errors": "ignore"}  # titles in some other encoding are no reason to refuse a video
SHORT_BY_S = 0.5  # a stream that ends more than this before the length its header tells was cut off
MAX_PIXELS = 2**27  # of a photograph, 134 million; unpacked 400 MB
MISSING_VIDEO = "no video stream"


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


def uniform_indices(total: int, count: int) -> np.ndarray:
    """The frames shown at the centres of `count` equal parts of a video: floor((2 i + 1) total / (2 count)).

    All frames, once each, if the video has no more than `count`.
    """
    parts = min(total, count)
    return np.array([(2 * i + 1) * total // (2 * parts) for i in range(parts)], np.int64)


def read_frames(source: bytes | str | os.PathLike, *, count: int, name: str) -> DecodedVideo:
    """Decodes `count` frames spread evenly over a video, or all of them if it has fewer.

    Args:
        source: the file's content, or its local path.
        count: frames asked for.
        name: how to call the video in reasons, where the source has no name.
    Returns:
        A DecodedVideo; "unreadable" or "partial" instead of an exception for whatever is wrong with the file.
    """
    if count < 1:
        raise ValueError(f"{name}: count is {count}, must be at least 1")
    try:
        _require_content(source)
        facts = _probe(source)
        decoded = _read_with_decord(source, facts, count) if facts.decord else None
        return decoded or _read_with_av(source, facts, count)
    except UnreadableVideo as error:
        return unreadable(str(error))


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


def unreadable(reason: str) -> DecodedVideo:
    """A video without frames."""
    nothing = np.zeros((0, 0, 0, 3), np.uint8)
    return DecodedVideo(nothing, np.zeros(0, np.int64), np.zeros(0), "unreadable", reason)


def _require_content(source) -> None:
    try:
        size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
    except OSError as error:
        raise UnreadableVideo(f"cannot be read: {error.strerror}") from None
    if size == 0:
        raise UnreadableVideo("empty file (0 bytes)")


# ---------------------------------------------------------------------------------------------------- the header


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What a file's header says. `length_s` is None where it does not tell the video's own length."""

    decord: bool
    length_s: float | None


def _probe(source) -> _Facts:
    with _open(source) as container:
        stream = _video_stream(container)
        codec, formats = stream.codec_context.name, container.format.name.split(",")
        trusted = codec in DECORD_CODECS and any(name in DECORD_CONTAINERS for name in formats)
        return _Facts(decord=trusted, length_s=_length_s(container, stream))


def _open(source) -> av.container.InputContainer:
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)
        return av.open(file, **AV_OPTIONS)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableVideo(f"not a video, or its header is lost ({_plain(error)})") from None


def _video_stream(container) -> av.VideoStream:
    """The first stream that moves; the cover picture of a song is no video."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if streams and streams[0].codec_context is not None:
        return streams[0]
    if streams:
        raise UnreadableVideo("its codec is not known")
    kinds = sorted({stream.type for stream in container.streams})
    if kinds == ["audio"]:
        raise UnreadableVideo(f"{MISSING_VIDEO}: audio only")
    raise UnreadableVideo(f"{MISSING_VIDEO}: only {', '.join(kinds)}" if kinds else MISSING_VIDEO)


def _length_s(container, stream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / av.time_base
    return None


# ---------------------------------------------------------------------------------------------------- decord


def _read_with_decord(source, facts: _Facts, count: int) -> DecodedVideo | None:
    """None where decord fails: PyAV then says what is wrong, and saves what is good."""
    file = io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)
    decord.logging.set_level(decord.logging.QUIET)  # what is wrong is told in the reason
    try:
        reader = decord.VideoReader(file, ctx=decord.cpu(0), num_threads=1)
        indices = uniform_indices(len(reader), count)
        if not len(indices):
            return None
        frames = reader.get_batch(indices.tolist()).asnumpy()
        timestamps = reader.get_frame_timestamp(np.arange(len(reader)))
    except (decord.DECORDError, RuntimeError):  # the first is no RuntimeError
        return None
    if frames.ndim != 4 or frames.shape[0] != len(indices) or frames.dtype != np.uint8:
        return None
    status, reason = _completeness(facts, float(timestamps[-1, 1]))
    return DecodedVideo(frames, indices, timestamps[indices, 0].astype(np.float64), status, reason)


def _completeness(facts: _Facts, end_s: float) -> tuple[str, str]:
    if facts.length_s is None or end_s >= facts.length_s - SHORT_BY_S:
        return "ok", ""
    return "partial", f"cut off: ends at {end_s:.1f} s of {facts.length_s:.1f} s"


# ---------------------------------------------------------------------------------------------------- PyAV


def _read_with_av(source, facts: _Facts, count: int) -> DecodedVideo:
    """Decodes from the start to the end, once if the count of packets was right, else once more."""
    packets, promised = _count_packets(source)
    scan = _scan(source, uniform_indices(packets, count))
    if scan.total == 0:
        raise UnreadableVideo(f"no frame can be decoded{f' ({scan.error})' if scan.error else ''}")
    if scan.total != packets:
        scan = _scan(source, uniform_indices(scan.total, count))
    frames, indices, timestamps = _of_one_size(scan)
    if scan.error:
        status, reason = "partial", f"damaged: {scan.total} of about {promised} frames are good ({scan.error})"
    else:
        status, reason = _completeness(facts, scan.end_s)
    return DecodedVideo(frames, indices, timestamps, status, reason)


@dataclasses.dataclass
class _Scan:
    picked: list[tuple[int, float, np.ndarray]]  # number, seconds, image
    total: int  # good frames
    end_s: float  # when the last of them ends
    error: str  # "" if nothing was wrong


def _count_packets(source) -> tuple[int, int]:
    """(packets in the file, frames there should be by its header): an index is read, no frame decoded."""
    total = 0
    with _open(source) as container:
        stream = _video_stream(container)
        try:
            for packet in container.demux(stream):
                total += packet.size > 0
        except (av.FFmpegError, OSError):
            pass
        return total, max(total, stream.frames)


def _scan(source, wanted: np.ndarray) -> _Scan:
    """Decodes everything, keeps the wanted ones of the good frames (numbered without the bad ones)."""
    scan, wanted = _Scan([], 0, 0.0, ""), set(wanted.tolist())
    with _open(source) as container:
        stream = _video_stream(container)
        frame_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
        for frame in _good_frames(container, stream, scan):
            time_s = frame.time if frame.time is not None else scan.total * frame_s
            if scan.total in wanted:
                scan.picked.append((scan.total, float(time_s), _upright(frame)))
            scan.total += 1
            scan.end_s = max(scan.end_s, float(time_s) + frame_s)
    return scan


def _good_frames(container, stream, scan: _Scan) -> Iterator[av.VideoFrame]:
    """Frames that decode without an error; after one, none before the next key frame, which depends on no other.

    Frames leave the decoder later than their packets enter it, so the key frame must be one shown after the bad packet.
    """
    waiting, bad_pts = False, -1
    packets, packet = container.demux(stream), None
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            if packet.is_corrupt:
                waiting, bad_pts = True, _pts(packet)
            decoded = packet.decode()
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, av.EOFError):
                return
            scan.error = scan.error or _plain(error)
            waiting, bad_pts = True, _pts(packet)
            if not _goes_on(error):
                return
            continue
        for frame in decoded:
            if frame.is_corrupt:
                waiting, bad_pts = True, _pts(frame)
            elif frame.key_frame and _pts(frame) > bad_pts:
                waiting = False
            if waiting:
                scan.error = scan.error or "corrupt frames"
            else:
                yield frame


def _pts(item: av.Packet | av.VideoFrame | None) -> int:
    """When a packet or frame is shown, in its stream's time base; 0 where it does not tell."""
    return next((time for time in (getattr(item, "pts", None), getattr(item, "dts", None)) if time is not None), 0)


def _goes_on(error: Exception) -> bool:
    """Bad data in one packet says nothing about the next; a failing disk does."""
    return isinstance(error, av.InvalidDataError)


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as the file's display matrix says."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def _of_one_size(scan: _Scan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stacks the frames; where the size changes on the way, all get the size of the first."""
    height, width = scan.picked[0][2].shape[:2]
    images = [image if image.shape[:2] == (height, width) else
              cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for _, _, image in scan.picked]
    indices = np.array([index for index, _, _ in scan.picked], np.int64)
    return np.stack(images), indices, np.array([time_s for _, time_s, _ in scan.picked], np.float64)


def _plain(error: Exception) -> str:
    """An error's own words, without the path or the number that the library puts around them."""
    return (getattr(error, "strerror", None) or str(error)).strip()[:200]
