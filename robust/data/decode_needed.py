"""Frames of H.264 by PyAV, where only what they are made of is decoded.

A picture that no other is predicted from (nal_ref_idc 0, Rec. ITU-T H.264, 7.4.1) needs not go into the decoder unless it is asked for, and
of what lies between two IDR pictures nothing behind the last one asked for. What comes out is the same to the bit.
"""

from __future__ import annotations

import io
import os

import av

from robust.data.decode_av import open_container, plain, pts_of, upright, video_stream
from robust.data.decoded import FrameSink, UnreadableVideo, uniform_indices

CODEC = "h264"
SLICE, IDR = (1, 2), 5
"""Types of NAL units with a picture in them; in 3 and 4 are other parts of it, which come after a 2."""


def read_needed(source: bytes | str | os.PathLike, count: int, sink: FrameSink, *, frames: int) -> float | None:
    """Gives the sink `count` frames spread evenly.

    Args:
        frames: as many as the container's index lists.
    Returns:
        When the last frame of the video ends, seconds; None where something is out of the ordinary (units stored without their
        length, edits, times that repeat).
    Raises:
        UnreadableVideo: something that the frames are made of is damaged, whatever the sink has by then.
    """
    try:
        with open_container(io.BytesIO(source) if isinstance(source, bytes) else source) as container:
            stream = video_stream(container)
            prefix = _prefix_bytes(stream.codec_context.extradata)
            packets = [packet for packet in container.demux(stream) if packet.size]
            order = sorted(pts_of(packet) for packet in packets)
            odd = any(packet.is_discard or packet.pts is None for packet in packets)
            if not prefix or odd or len(packets) != frames or len(set(order)) != frames:
                return None
            indices = {order[number]: number for number in uniform_indices(frames, count).tolist()}
            context, given = stream.codec_context, 0
            for packet in [*_needed(packets, set(indices), prefix), None]:
                for frame in context.decode(packet):
                    if frame.is_corrupt:
                        raise UnreadableVideo("corrupt frames")
                    if frame.pts in indices:
                        sink.add(indices[frame.pts], float(frame.pts * stream.time_base), upright(frame))
                        given += 1
            if given < len(indices):
                raise UnreadableVideo("frames do not come out")
            last = max(packets, key=pts_of)
            return float((last.pts + (last.duration or 0)) * stream.time_base)
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(plain(error)) from None


def _prefix_bytes(extradata: bytes | None) -> int:
    """Bytes of the length before each NAL unit, ISO/IEC 14496-15; 0 where the stream is not stored so."""
    return (extradata[4] & 3) + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else 0


def _needed(packets: list, wanted: set[int], prefix: int) -> list:
    """Of packets in the order of decoding, those that pictures shown at these times are made of."""
    needed, since_idr = [], []
    for packet in packets:
        referred, idr = _kind(bytes(packet), prefix)
        if idr:
            needed, since_idr = needed + _up_to_last(since_idr, wanted), []
        if referred or packet.pts in wanted:
            since_idr.append(packet)
    return needed + _up_to_last(since_idr, wanted)


def _up_to_last(packets: list, wanted: set[int]) -> list:
    last = max((number for number, packet in enumerate(packets) if packet.pts in wanted), default=-1)
    return packets[:last + 1]


def _kind(data: bytes, prefix: int) -> tuple[bool, bool]:
    """(whether other pictures may be made of this one, whether none after it is made of one before it).

    Raises:
        UnreadableVideo: these are not whole units with a picture in them.
    """
    start, found = 0, None
    while start + prefix < len(data):
        size, head = int.from_bytes(data[start:start + prefix], "big"), data[start + prefix]
        if head & 31 in (*SLICE, IDR) and found is None:
            found = bool(head >> 5 & 3), head & 31 == IDR
        if size == 0 or head >> 7:
            break
        start += prefix + size
    if found is None or start != len(data):
        raise UnreadableVideo("a damaged packet")
    return found
