"""Decoding only what the wanted frames are made of, against decoding everything."""

import io

import av
import numpy as np
import pytest

from robust.data import decode_needed
from robust.data.decode_av import read_all
from robust.data.decode_needed import read_needed
from robust.data.decoded import FrameSink, UnreadableVideo
from robust.data.video import read_frames
from tests import clips

KINDS = {
    "pyramid of B": {"x264-params": "keyint=30:bframes=5:b-pyramid=normal:scenecut=0"},
    "open groups": {"x264-params": "keyint=12:open-gop=1:bframes=3:scenecut=0"},
    "no B": {"x264-params": "keyint=30:bframes=0"},
    "only I": {"x264-params": "keyint=1"},
    "slices": {"x264-params": "keyint=20:bframes=3:slices=4"},
    "fields": {"x264-params": "keyint=20:bframes=3:interlaced=1"},
    "intra refresh": {"x264-params": "keyint=20:intra-refresh=1:bframes=2"},
}


def encoded(options, *, count=97, container="mp4"):
    """Blobs that wander, so that motion is predicted both ways."""
    file, rng = io.BytesIO(), np.random.default_rng(0)
    y, x = np.mgrid[:96, :128]
    base = rng.integers(0, 60, (96, 128, 3))
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "20", **options})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(count):
            blob = 150 * np.exp(-((x - 20 - number) ** 2 + (y - 48 - 30 * np.sin(number / 9)) ** 2) / 200)
            image = np.clip(base + blob[..., None], 0, 255).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    return file.getvalue()


def both(data, count, *, frames=97):
    fewer, all_ = FrameSink(), FrameSink()
    end_s = read_needed(data, count, fewer, frames=frames)
    scan = read_all(data, count, all_)
    return fewer, all_, end_s, scan


@pytest.mark.parametrize("count", [1, 3, 10, 97, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_the_frames_are_those_of_a_whole_decoding_to_the_bit(kind, count):
    fewer, all_, end_s, scan = both(encoded(KINDS[kind]), count)
    assert fewer.indices == all_.indices and len(fewer.indices) == min(count, 97)
    assert fewer.timestamps_s == all_.timestamps_s and end_s == pytest.approx(scan.end_s, abs=0.001)
    assert np.array_equal(np.stack(fewer._images), np.stack(all_._images))


def test_what_no_wanted_frame_is_made_of_is_left_out(monkeypatch):
    asked = []
    real = decode_needed._needed
    monkeypatch.setattr(decode_needed, "_needed", lambda *given: asked.append((len(given[0]), real(*given))) or asked[-1][1])
    data = encoded(KINDS["pyramid of B"])
    assert read_needed(data, 3, FrameSink(), frames=97) is not None
    (packets, needed), = asked
    assert packets == 97 and 3 <= len(needed) < 40


def test_a_video_is_read_so():
    data = encoded(KINDS["pyramid of B"])
    video = read_frames(data, count=5, name="x", decord=False)
    expected = FrameSink()
    assert read_needed(data, 5, expected, frames=97) is not None
    assert video.status == "ok" and np.array_equal(video.frames, np.stack(expected._images))


def test_out_of_the_ordinary_is_left_to_others():
    data = encoded(KINDS["no B"])
    assert read_needed(data, 5, FrameSink(), frames=96) is None  # the index tells otherwise
    assert read_needed(encoded(KINDS["no B"], container="mpegts"), 5, FrameSink(), frames=97) is None  # start codes, no lengths
    assert read_needed(clips.counting(40, codec="mpeg4"), 5, FrameSink(), frames=40) is None


def test_a_damaged_picture_that_is_needed_is_not_passed_off_as_good():
    data = bytearray(encoded(KINDS["no B"]))
    middle = data.index(b"mdat") + len(data) // 2
    data[middle : middle + 400] = bytes(400)
    with pytest.raises(UnreadableVideo):
        read_needed(bytes(data), 5, FrameSink(), frames=97)
    video = read_frames(bytes(data), count=5, name="x")
    assert video.status == "partial" and "damaged" in video.reason
