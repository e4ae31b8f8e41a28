"""What becomes of damaged videos? Files cut, flipped, spliced, zeroed and misnamed, through the decoding of the job.

Usage: python -m benchmarks.mutated_videos [COUNT] [--seed 24] [--keep FOLDER] [--csv outputs/benchmarks/mutated_videos.csv]

Each of COUNT (1000) files is a clip of tests/clips.py with one mutation, both drawn from the seed:

- truncate: only the first part is left;
- flip: 1 to 256 bits anywhere are turned;
- splice: a stretch of up to an eighth is overwritten by one of another clip, or of random bytes;
- zero: a stretch of up to a quarter is zeros, as a disk or a broken download leaves it;
- name: the file is called what it is not, and some are no video at all (text, a picture, a playlist, an archive).

They go through `decode_source`, as in jobs.extract. Printed are statuses and reasons; crashes and hangs of the decoding
process, exceptions (the bar: none gets out), and how many of the frames are not, byte for byte, frames of the unharmed
clip: damage that no decoder can see. The CSV has a line a file.
"""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import hashlib
import io
import re
import tempfile
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np

from robust.config import StorageConfig
from robust.data.decoder_process import DecodeLimits
from robust.data.extraction import decode_source
from robust.data.rows import VideoRow
from robust.data.video import read_frames
from tests import clips

FRAMES = 8  # asked of each video
LIMITS = DecodeLimits(timeout_s=60, memory_mb=512)
MUTATIONS = ("truncate", "flip", "splice", "zero", "name")
EXTENSIONS = ("mp4", "avi", "webm", "mkv", "mov", "jpg", "txt", "mp3", "h264", "")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A file and what became of it."""

    number: int
    clip: str
    mutation: str
    detail: str
    status: str
    frames: int
    changed: int  # of these, not a frame of the unharmed clip
    reason: str
    seconds: float


def base_clips() -> dict[str, tuple[str, bytes]]:
    """name -> (extension, content)."""
    made = {
        "h264": ("mp4", clips.noisy(40)),
        "h264-long-gop": ("mp4", clips.noisy(40, gop=300)),
        "h264-mkv": ("mkv", clips.noisy(40, container="mkv")),
        "h264-rotated": ("mp4", clips.rotated(clips.noisy(40), 90)),
        "h264-yuv444": ("mp4", clips.noisy(40, pixels="yuv444p")),
        "hevc": ("mp4", clips.noisy(40, codec="libx265")),
        "hevc-10-bit": ("mp4", clips.noisy(40, codec="libx265", pixels="yuv420p10le")),
        "vp8": ("webm", clips.noisy(40, container="webm", codec="libvpx")),
        "vp9": ("webm", clips.noisy(40, container="webm", codec="libvpx-vp9")),
        "av1": ("mp4", clips.noisy(40, codec="libsvtav1")),
        "mpeg4-avi": ("avi", clips.noisy(40, container="avi", codec="mpeg4")),
        "variable-rate": ("mp4", clips.variable_rate()[0]),
        "no-frames": ("mp4", clips.without_frames()),
        "song": ("mp4", clips.audio_only(cover=True)),
    }
    for path in (clips.real_face(), clips.cartoon()):
        made[path.stem] = (path.suffix[1:], path.read_bytes())
    return made


def no_videos() -> dict[str, bytes]:
    """Files that are something else."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("video.mp4", b"no" * 500)
    picture = clips.frame(3)
    return {
        "text": b"these are the videos of last year\n" * 40,
        "page": b"<!doctype html><html><body>Sign in to continue</body></html>",
        "jpeg": cv2.imencode(".jpg", picture)[1].tobytes(),
        "png": cv2.imencode(".png", picture)[1].tobytes(),
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        "concat": b"ffconcat version 1.0\nfile /etc/hostname\n",
        "archive": archive.getvalue(),
        "noise": np.random.default_rng(0).bytes(4000),
        "empty": b"",
    }


def mutate(data: bytes, mutation: str, others: list[bytes], rng: np.random.Generator) -> tuple[bytes, str]:
    """(content, what was done to it)."""
    size = len(data)
    if mutation == "truncate":
        left = int(rng.integers(0, size))
        return data[:left], f"first {left} of {size} bytes"
    changed = np.frombuffer(data, np.uint8).copy()
    if mutation == "flip":
        bits = 2 ** int(rng.integers(0, 9))
        places = rng.integers(0, size, bits)
        np.bitwise_xor.at(changed, places, (1 << rng.integers(0, 8, bits)).astype(np.uint8))
        return changed.tobytes(), f"{bits} bits of {size} bytes, the first at {places.min()}"
    length = int(rng.integers(1, max(2, size // (8 if mutation == "splice" else 4))))
    start = int(rng.integers(0, size - length + 1))
    if mutation == "zero":
        changed[start:start + length] = 0
        return changed.tobytes(), f"zeros at {start} + {length} of {size}"
    other = rng.bytes(length) if rng.random() < 0.3 else others[rng.integers(len(others))]
    place = int(rng.integers(0, max(1, len(other) - length)))
    piece = np.frombuffer(other[place:place + length], np.uint8)
    changed[start:start + len(piece)] = piece
    return changed.tobytes(), f"foreign bytes at {start} + {len(piece)} of {size}"


def files(count: int, seed: int):
    """Yields (clip's name, mutation, what was done, extension, content), the same for a seed."""
    rng, bases, others = np.random.default_rng(seed), base_clips(), no_videos()
    contents = [data for _, data in bases.values()]
    for number in range(count):
        mutation, name = MUTATIONS[number % len(MUTATIONS)], list(bases)[rng.integers(len(bases))]
        extension, data = bases[name]
        if mutation != "name":
            data, detail = mutate(data, mutation, contents, rng)
        else:
            if rng.random() < 0.3:
                name = list(others)[rng.integers(len(others))]
                data = others[name]
            extension = EXTENSIONS[rng.integers(len(EXTENSIONS))]
            detail = f"called .{extension}"
        yield name, mutation, detail, extension, data


def measure(count: int, seed: int, folder: Path, *, decoder: str = "decord") -> list[Outcome]:
    """Makes the files in a folder and decodes each."""
    unharmed = {name: _hashes(read_frames(data, count=10**6, name=name).frames) for name, (_, data) in base_clips().items()}
    outcomes, limits = [], dataclasses.replace(LIMITS, decord=decoder == "decord")
    for number, (name, mutation, detail, extension, data) in enumerate(files(count, seed)):
        path = folder / f"{number:05d}-{name}-{mutation}{f'.{extension}' if extension else ''}"
        path.write_bytes(data)
        row = VideoRow(f"mutated/{mutation}/{number}", str(path), 0, "mutated", mutation, (f"mutated:{name}",), "train")
        start = time.perf_counter()
        try:
            decoded, _ = decode_source(row, count=FRAMES, storage_config=StorageConfig(), limits=limits)
            status, reason, frames = decoded.status, decoded.reason, decoded.frames
        except Exception as error:  # this is what must not be: it is counted
            status, reason, frames = "exception", f"{type(error).__name__}: {error}", np.zeros((0, 0, 0, 3), np.uint8)
        seconds = time.perf_counter() - start
        changed = sum(frame not in unharmed.get(name, ()) for frame in _hashes(frames, every=True))
        outcomes.append(Outcome(number, name, mutation, detail, status, len(frames), changed, reason, round(seconds, 3)))
    return outcomes


def _hashes(frames: np.ndarray, every: bool = False):
    found = [hashlib.sha256(frame.tobytes()).digest() for frame in frames]
    return found if every else set(found)


def crashes(outcomes: list[Outcome]) -> int:
    """Files that ended their decoding process."""
    return sum("decoder crashed" in outcome.reason for outcome in outcomes)


def hangs(outcomes: list[Outcome]) -> int:
    return sum("took longer" in outcome.reason for outcome in outcomes)


def kind_of(reason: str) -> str:
    """A reason without its numbers."""
    return re.sub(r"\d+(\.\d+)?", "N", reason)


def summary(outcomes: list[Outcome]) -> str:
    lines = [f"{len(outcomes)} files, {len(outcomes)} status rows: {crashes(outcomes)} crashes of the decoding process, "
             f"{hangs(outcomes)} hangs, {sum(outcome.status == 'exception' for outcome in outcomes)} exceptions, "
             f"slowest {max(outcome.seconds for outcome in outcomes):.1f} s", ""]
    statuses = ("ok", "partial", "unreadable", "exception")
    lines.append(f"{'':<10}" + "".join(f"{status:>12}" for status in statuses))
    for mutation in MUTATIONS:
        row = collections.Counter(outcome.status for outcome in outcomes if outcome.mutation == mutation)
        lines.append(f"{mutation:<10}" + "".join(f"{row[status]:>12}" for status in statuses))
    lines.append("")
    others = no_videos()
    for status in ("ok", "partial"):
        chosen = [outcome for outcome in outcomes if outcome.status == status and outcome.clip not in others]
        lines.append(f"{status}: {sum(outcome.changed for outcome in chosen)} of {sum(outcome.frames for outcome in chosen)} "
                     f"frames are not those of the unharmed clip, in {sum(outcome.changed > 0 for outcome in chosen)} files")
    lines.append("")
    reasons = collections.Counter((outcome.status, kind_of(outcome.reason)) for outcome in outcomes)
    lines += [f"{number:>5}  {status:<11}{reason}" for (status, reason), number in reasons.most_common()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> list[Outcome]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=1000, help="files")
    parser.add_argument("--seed", type=int, default=24)
    parser.add_argument("--decoder", choices=["decord", "av"], default="decord", help="as extract.decoder")
    parser.add_argument("--keep", type=Path, help="a folder for the files; without it they are deleted")
    parser.add_argument("--csv", type=Path, default=Path("outputs/benchmarks/mutated_videos.csv"), help="where the lines go")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = measure(options.count, options.seed, folder, decoder=options.decoder)
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    with options.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Outcome)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(outcome) for outcome in outcomes)
    print(summary(outcomes))
    print(f"\nwritten to {options.csv}")
    return outcomes


if __name__ == "__main__":
    main()
