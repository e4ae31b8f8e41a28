"""Frames by PyAV: the header of every file, and the frames of those that decord cannot or must not decode.

Where the container lists its frames, or the file is large, each frame asked for is visited: decoded from the key frame
before it. Decoding from the start to the end is for the rest, and for damaged files: it finds all that is good.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator

import av
import numpy as np

from robust.data.decoded import FrameSink, UnreadableVideo, uniform_indices

AV_OPTIONS = {"protocol_whitelist": "none"}
"""A file is one file: playlists and the like must not make the decoder open another one, or an address."""
BUFFER_BYTES = 2**17
EXACT_INDEX = "mov"
"""Containers of this family list every frame in their header."""
PICTURES = ("image2", "_pipe")
MISSING_VIDEO = "no video stream"
SHORT_BY_S, SHORT_BY_FRAMES = 0.5, 3  # a stream that ends more than the lesser before the length in its header was cut off


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a file's header says.

    Args:
        codec: FFmpeg's name of it.
        formats: the container's names.
        length_s: None where it does not tell the video's own length.
        frames: as many as its index lists, less what edits hide; None where it has no index of all frames.
        missing: of these, beyond the end of the file: it was cut off.
        short_s: a stream that ends more than this before length_s was cut off.
    """

    codec: str
    formats: tuple[str, ...]
    length_s: float | None
    frames: int | None
    missing: int
    short_s: float


class ByContent:
    """A file without its name: what a video is, is decided by its content, wherever it lies and whatever it is called."""

    def __init__(self, file):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def probe(source) -> Facts:
    """Raises UnreadableVideo: it is no video."""
    with open_container(source) as container:
        formats = tuple(container.format.name.split(","))
        if any(name.endswith(PICTURES) for name in formats):
            raise UnreadableVideo("a picture, not a video")
        stream = video_stream(container)
        length_s = _length_s(container, stream)
        frames, missing = _index(stream, container.size, length_s) if EXACT_INDEX in formats else (None, 0)
        short_s = min(SHORT_BY_S, SHORT_BY_FRAMES / float(stream.average_rate)) if stream.average_rate else SHORT_BY_S
        return Facts(stream.codec_context.name, formats, length_s, frames, missing, short_s)


def _index(stream, size: int, length_s: float | None) -> tuple[int | None, int]:
    """(frames shown, frames stored beyond the end of the file) by the container's index; None if it is cut itself."""
    shown = missing = latest = 0
    for entry in stream.index_entries:
        shown += not entry.is_discard
        missing += entry.pos + entry.size > size > 0
        latest = max(latest, entry.timestamp)
    cut = length_s is not None and float(latest * stream.time_base) < length_s - SHORT_BY_S
    return (None if cut else shown or None), missing


class open_container:
    """The file as an av container, closed at the end."""

    def __init__(self, source):
        self.source = source

    def __enter__(self) -> av.container.InputContainer:
        source = self.source
        try:
            if isinstance(source, bytes):
                self.file = io.BytesIO(source)
            elif isinstance(source, (str, os.PathLike)):
                self.file = open(source, "rb", buffering=0)
            else:
                self.file = source
                self.file.seek(0)
            # Titles in some other encoding are no reason to refuse a video.
            self.container = av.open(ByContent(self.file), options=AV_OPTIONS, metadata_errors="ignore",
                                     buffer_size=BUFFER_BYTES)
        except av.PermissionError:
            raise UnreadableVideo("not a video, but a list that names other files") from None
        except (av.FFmpegError, OSError, ValueError) as error:
            raise UnreadableVideo(f"not a video, or its header is lost ({plain(error)})") from None
        return self.container

    def __exit__(self, *_) -> None:
        self.container.close()
        if self.file is not self.source:
            self.file.close()


def video_stream(container) -> av.VideoStream:
    """The first stream that moves, to be decoded by one thread; the cover picture of a song is no video."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if streams and streams[0].codec_context is not None:
        streams[0].codec_context.thread_count = 1
        return streams[0]
    if streams:
        raise UnreadableVideo("its codec is not known")
    kinds = sorted({stream.type for stream in container.streams})
    if container.streams.video:
        raise UnreadableVideo(f"{MISSING_VIDEO}: {'audio and' if 'audio' in kinds else 'only'} a cover picture")
    if kinds == ["audio"]:
        raise UnreadableVideo(f"{MISSING_VIDEO}: audio only")
    raise UnreadableVideo(f"{MISSING_VIDEO}: only {', '.join(kinds)}" if kinds else MISSING_VIDEO)


def _length_s(container, stream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / av.time_base
    return None


def plain(error: Exception) -> str:
    """An error's own words, without the path or the number that the library puts around them.

    Raises:
        MemoryError: it is one: that is not what is wrong with the file.
    """
    if isinstance(error, MemoryError):
        raise MemoryError from error
    return (getattr(error, "strerror", None) or str(error)).strip()[:200]


def upright(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as the file's display matrix says."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


# ---------------------------------------------------------------------------------------------------- start to end


@dataclasses.dataclass
class Scan:
    """A look at every frame."""

    total: int = 0  # good frames
    promised: int = 0  # frames there should be
    end_s: float = 0.0  # when the last good one ends
    error: str = ""  # "" if nothing was wrong


def read_all(source, count: int, sink: FrameSink) -> Scan:
    """Decodes from the start to the end, once if the count of packets was right, else once more.

    Raises:
        UnreadableVideo: no frame is good.
    """
    packets, promised = _count_packets(source)
    if packets == 0:
        raise UnreadableVideo("the video stream has no frames")
    scan = _scan(source, uniform_indices(packets, count), sink)
    if scan.total == 0:
        raise UnreadableVideo(f"no frame can be decoded{f' ({scan.error})' if scan.error else ''}")
    if scan.total != packets:
        sink.restart()
        scan = _scan(source, uniform_indices(scan.total, count), sink)
    scan.promised = promised
    return scan


def _count_packets(source) -> tuple[int, int]:
    """(packets in the file, frames there should be by its header): an index is read, no frame decoded."""
    total = 0
    with open_container(source) as container:
        stream = video_stream(container)
        try:
            for packet in container.demux(stream):
                total += packet.size > 0
        except (av.FFmpegError, OSError):
            pass
        return total, max(total, stream.frames)


def _scan(source, wanted: np.ndarray, sink: FrameSink) -> Scan:
    """Decodes everything, keeps the wanted ones of the good frames (numbered without the bad ones)."""
    scan, wanted = Scan(), set(wanted.tolist())
    with open_container(source) as container:
        stream = video_stream(container)
        frame_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
        for frame in _good_frames(container, stream, scan):
            time_s = frame.time if frame.time is not None else scan.total * frame_s
            if scan.total in wanted:
                sink.add(scan.total, time_s, upright(frame))
            scan.total += 1
            scan.end_s = max(scan.end_s, float(time_s) + frame_s)
    return scan


def _good_frames(container, stream, scan: Scan) -> Iterator[av.VideoFrame]:
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
                waiting, bad_pts = True, pts_of(packet)
            decoded = packet.decode()
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, av.EOFError):
                return
            scan.error = scan.error or plain(error)
            waiting, bad_pts = True, pts_of(packet)
            if not _goes_on(error):
                return
            continue
        for frame in decoded:
            if frame.is_corrupt:
                waiting, bad_pts = True, pts_of(frame)
            elif frame.key_frame and pts_of(frame) > bad_pts:
                waiting = False
            if waiting:
                scan.error = scan.error or "corrupt frames"
            else:
                yield frame


def pts_of(item: av.Packet | av.VideoFrame | None) -> int:
    """When a packet or frame is shown, in its stream's time base; 0 where it does not tell."""
    return next((time for time in (getattr(item, "pts", None), getattr(item, "dts", None)) if time is not None), 0)


def _goes_on(error: Exception) -> bool:
    """Bad data in one packet says nothing about the next; a failing disk does."""
    return isinstance(error, av.InvalidDataError)
