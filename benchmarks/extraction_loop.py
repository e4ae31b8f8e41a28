"""What jobs.extract is measured against: the loop that people write, and the work alone that its stages do.

Each runs in a process of its own, which has neither Ray nor the other's threads.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path

from robust.config import Config


@dataclasses.dataclass(frozen=True)
class Floor:
    """Seconds a video of each half of the work, in one of two processes that run at once."""

    decode_s: float
    detect_s: float

    @property
    def rate(self) -> float:
        """Videos a second of two cores that do nothing else."""
        return 2 / (self.decode_s + self.detect_s)


def loop_seconds(paths: Sequence[Path], folder: Path, *, frames: int) -> float:
    """Seconds of the loop over these videos, the start of its process and its models left out."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_loop, ([str(path) for path in paths], str(folder), frames))


def loop_work(paths: Sequence[Path], folder: Path, *, frames: int) -> float:
    """Seconds of CPU of the loop over these videos in one thread."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_loop, ([str(path) for path in paths], str(folder), frames, 1))


def _loop(paths: Sequence[str], folder: str, frames: int, threads: int | None = None) -> float:
    """OpenCV frame by frame from the first to the last, MTCNN one frame at a time, a crop of the first face as PNG.

    Returns:
        Seconds; where `threads` are given, of CPU time.
    """
    import cv2
    import numpy as np
    import torch
    from facenet_pytorch import MTCNN

    clock = time.process_time if threads else time.perf_counter
    if threads:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    Path(folder).mkdir(parents=True, exist_ok=True)
    detector = MTCNN(keep_all=True)
    began = clock()
    for number, path in enumerate(paths):
        video = cv2.VideoCapture(path)
        wanted = set(np.linspace(0, video.get(cv2.CAP_PROP_FRAME_COUNT) - 1, frames).round().astype(int).tolist())
        index = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            if index in wanted:
                boxes, _ = detector.detect(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
                for left, top, right, bottom in (boxes if boxes is not None else [])[:1]:
                    face = frame[max(0, int(top)):int(bottom), max(0, int(left)):int(right)]
                    cv2.imwrite(f"{folder}/{number}_{index}.png", face)
            index += 1
        video.release()
    return clock() - began


def measure_floor(config: Config, paths: Sequence[Path]) -> Floor:
    """Two processes, each of one thread, decode all videos, then detect, crop and encode all; the mean of both."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        halves = pool.starmap(_halves, [(config.model_dump(mode="json"), [str(path) for path in paths], False)] * 2, chunksize=1)
    return Floor(*(sum(half[place] for half in halves) / 2 for place in (0, 1)))


def measure_work(config: Config, paths: Sequence[Path]) -> Floor:
    """The same in one process, in seconds of CPU, which depend little on what else runs on the machine."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return Floor(*pool.apply(_halves, (config.model_dump(mode="json"), [str(path) for path in paths], True)))


def cpu_s(other: int) -> float:
    """Seconds of CPU of this process and another one so far."""
    ticks = Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()[11:13]
    return time.process_time() + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _halves(config: dict, paths: Sequence[str], of_cpu: bool) -> tuple[float, float]:
    """Seconds a video of decoding, and of what follows."""
    import cv2
    import torch

    from robust.config_file import parse
    from robust.data.decoder_process import DecodeLimits, shared_decoder
    from robust.data.extraction import decode_source, faces_of
    from robust.data.faces import build_detector
    from robust.data.rows import VideoRow

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    parsed = parse(config)
    settings, limits = parsed.extract, DecodeLimits.of(parsed.extract)
    detector = build_detector(settings, threads=1)
    rows = [VideoRow(video_id=path, uri=path, label=0, dataset="own", method="real", identities=("own:a",), split="train")
            for path in paths]

    def decode(row: VideoRow):
        return decode_source(row, count=settings.frames_train, storage_config=parsed.storage, limits=limits)

    decoded, source = decode(rows[0])  # the decoding process starts with the first, and the detector warms up
    faces_of(rows[0], decoded, settings, detector, source=source, fingerprint="f")

    def clock() -> float:
        return cpu_s(shared_decoder(limits).pid) if of_cpu else time.perf_counter()

    began = clock()
    videos = [decode(row) for row in rows]
    middle = clock()
    for row, (decoded, source) in zip(rows, videos, strict=True):
        faces_of(row, decoded, settings, detector, source=source, fingerprint="f")
    ended = clock()
    return (middle - began) / len(rows), (ended - middle) / len(rows)
