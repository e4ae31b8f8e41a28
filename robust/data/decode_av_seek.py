"""Frames by PyAV, each decoded from the key frame before it: a large file is read in small part."""

from __future__ import annotations

import bisect

import av

from robust.data.decode_av import Facts, Scan, open_container, plain, pts_of, upright, video_stream
from robust.data.decoded import FrameSink, UnreadableVideo, uniform_indices


def read_by_seeking(source, facts: Facts, count: int, sink: FrameSink) -> Scan:
    """Decodes only from the key frame before each wanted frame to it: a large file is read in small part.

    Frames are wanted by number where the container lists them all, else by time; their numbers are then those of a
    constant frame rate. `Scan.total` and `promised` count the wanted ones.

    Raises:
        UnreadableVideo: no wanted frame is good.
    """
    with open_container(source) as container:
        stream = video_stream(container)
        places = _ByNumber(stream, count) if facts.frames else _ByTime(stream, facts.length_s, count)
        scan, run = Scan(promised=len(places.wanted)), None
        for wanted in places.wanted:
            key = places.key_before(wanted)
            if run is None or run.error or key > run.last_key:
                run = _Run(container, stream, places, key)
            found = run.advance_to(wanted)
            while found is None and run.too_late and key > 0:  # a picture shown before its own key frame
                key = places.key_before(key - 1)
                run = _Run(container, stream, places, key)
                found = run.advance_to(wanted)
            if found is None:
                scan.error = scan.error or run.error
            elif not sink.indices or places.number(found) > sink.indices[-1]:  # else one long frame at both times
                sink.add(places.number(found), float(found.time or 0.0), upright(found))
                scan.total += 1
            else:
                scan.promised -= 1
    if scan.total == 0:
        raise UnreadableVideo(f"no frame can be decoded{f' ({scan.error})' if scan.error else ''}")
    return scan


class _Run:
    """Decoding from a key frame on, without a gap, until something is wrong."""

    def __init__(self, container, stream, places: _ByNumber | _ByTime, key: float):
        self.places, self.last_key = places, key  # the last key frame that went into the decoder
        self.error, self.too_late = "", False
        self.frames: list[av.VideoFrame] = []
        self.first_pts, self.any_out, self.at_start = None, False, key <= 0
        places.begin()
        try:
            container.seek(places.timestamp(key), stream=stream)
            self.packets = container.demux(stream)
        except (av.FFmpegError, OSError) as error:
            self.error = plain(error) or "cannot seek"

    def advance_to(self, wanted: float) -> av.VideoFrame | None:
        """The frame shown at this position; None if something is wrong, or the run began after it (too_late)."""
        while not self.error:
            while self.frames:
                frame = self.frames.pop(0)
                if frame.is_corrupt:
                    self.error = "corrupt frames"
                    return None
                if pts_of(frame) < self.first_pts:
                    continue  # shown before the key frame, and made of frames in front of it
                if self.places.reached(frame, wanted):
                    self.too_late = not (self.any_out or self.at_start) and self.places.passed(frame, wanted)
                    self.any_out = True
                    return None if self.too_late else frame
                self.any_out = True
            self._decode_more()
        return None

    def _decode_more(self) -> None:
        try:
            packet = next(self.packets, None)
            if packet is None or packet.is_corrupt:
                self.error = "a cut or damaged packet" if packet else "the file ends before"
            elif self.first_pts is not None or packet.is_keyframe or not packet.size:
                self.first_pts = pts_of(packet) if self.first_pts is None else self.first_pts
                if packet.size and packet.is_keyframe:
                    self.last_key = max(self.last_key, self.places.place(packet))
                self.places.goes_in(packet)
                self.frames = packet.decode()
        except (av.FFmpegError, OSError) as error:
            self.error = "the file ends before" if isinstance(error, av.EOFError) else plain(error)


class _ByNumber:
    """Positions are frame numbers in the order of showing, by the container's own index, less what its edits hide."""

    def __init__(self, stream, count: int):
        self.places, self.times, self.keys, total = {}, {}, [], 0  # by byte, by number
        for entry in stream.index_entries:
            self.places[entry.pos] = total
            if entry.is_keyframe:
                self.keys.append(total)
                self.times.setdefault(total, entry.timestamp)
            total += not entry.is_discard
        self.wanted = uniform_indices(total, count).tolist()

    def key_before(self, wanted: int) -> int:
        after = bisect.bisect_right(self.keys, wanted)
        return self.keys[after - 1] if after > 0 else 0

    def timestamp(self, key: int) -> int:
        return self.times.get(key, 0)

    def begin(self) -> None:
        self.before, self.shown = None, []  # frames in front of the run, times of those that went in

    def place(self, packet) -> int:
        return self.places.get(packet.pos, 0)

    def goes_in(self, packet) -> None:
        if packet.size:
            self.before = self.place(packet) if self.before is None else self.before
            if not packet.is_discard:
                bisect.insort(self.shown, pts_of(packet))

    def number(self, frame) -> int:
        """All frames shown before this one went in before it came out: those in front of the run, and some of it."""
        return (self.before or 0) + bisect.bisect_left(self.shown, pts_of(frame))

    def reached(self, frame, wanted: int) -> bool:
        return self.number(frame) >= wanted

    def passed(self, frame, wanted: int) -> bool:
        return self.number(frame) > wanted


class _ByTime:
    """Positions are seconds; for containers that list key frames only, or nothing. Numbers are by the mean rate."""

    def __init__(self, stream, length_s: float, count: int):
        self.stream, self.rate = stream, float(stream.average_rate or 25)
        self.zero = stream.start_time or 0
        total = max(1, round(length_s * self.rate))
        self.wanted = [(index + 0.5) / self.rate for index in uniform_indices(total, count).tolist()]

    def key_before(self, wanted: float) -> float:
        """As far as the index is known; the demuxer itself looks further."""
        entry = self.stream.index_entries.search_timestamp(self.timestamp(wanted), backward=True)
        return wanted if entry < 0 else self._seconds(self.stream.index_entries[entry].timestamp)

    def timestamp(self, key: float) -> int:
        return self.zero + int(key / self.stream.time_base)

    def begin(self) -> None:
        pass

    def place(self, packet) -> float:
        return self._seconds(pts_of(packet))

    def goes_in(self, packet) -> None:
        pass

    def _seconds(self, pts: int) -> float:
        return float((pts - self.zero) * self.stream.time_base)

    def number(self, frame) -> int:
        return round(self._seconds(pts_of(frame)) * self.rate)

    def reached(self, frame, wanted: float) -> bool:
        return self._seconds(pts_of(frame)) + 1 / self.rate > wanted

    def passed(self, frame, wanted: float) -> bool:
        return False
