"""Memory of a training worker while it loads its crops, over the bytes that these have in storage.

    python -m benchmarks.crops_memory [--megabytes 200 400] [--out FILE]

Made-up crops of 30 kB (random bytes, which nobody decodes), 25 a video, in shards of the real writer on the local disk; loaded as
training loads a set that is too large to be kept decoded, in a process of its own for each size. What is told is the most that
the process had resident, less what it had before.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.noop_stage import crops_and_status
from robust.config_file import parse
from robust.data.rows import VideoRow
from robust.data.shards import shard_key, write_shard
from robust.storage import Storage

RUN, CROP_BYTES, FRAMES, OF_A_SHARD = "memory", 30_000, 25, 16


def write_crops(storage: Storage, megabytes: int) -> int:
    """Shards of about so many MB; returns the bytes of their images."""
    random = np.random.default_rng(0)
    videos = max(OF_A_SHARD, round(megabytes * 1e6 / CROP_BYTES / FRAMES))
    for first in range(0, videos, OF_A_SHARD):
        faces, statuses = [], []
        for number in range(first, min(videos, first + OF_A_SHARD)):
            method = "fake" if number % 2 else "real"
            row = VideoRow(f"own/{method}/{number:07d}", "none", number % 2, "own", method, (f"own:{number}",), "train")
            face, status = crops_and_status(row, "f")
            faces += [{**face, "frame_index": index, "image": random.bytes(CROP_BYTES)} for index in range(FRAMES)]
            statuses.append({**status, "frames_found": FRAMES, "frames_asked": FRAMES, "frames_decoded": FRAMES})
        write_shard(storage, RUN, shard_key("own", [row["video_id"] for row in statuses], "f"), faces, statuses)
    return videos * FRAMES * CROP_BYTES


def _loaded(uri: str) -> int:
    """Bytes that loading takes at most; in a process of its own."""
    from robust.data import crops
    from robust.training.session import _load_split

    config = parse({"run": {"name": RUN}, "storage": {"uri": uri}})
    before = _told("VmRSS")
    with mock.patch.object(crops, "MEMORY_LIMIT", 0):
        loaded = _load_split(config, Storage.from_config(config.storage), "train", everybody=True)
    return _told("VmHWM") - before if len(loaded) else 0


def _told(name: str) -> int:
    """Bytes that the kernel tells of this process."""
    return 1024 * next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(name))


def measure(megabytes: int) -> dict:
    with tempfile.TemporaryDirectory(prefix="crops-") as folder:
        size = write_crops(Storage.from_config(parse({"storage": {"uri": folder}}).storage), megabytes)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            taken = pool.apply(_loaded, (folder,))
    return {"image_bytes": size, "taken_bytes": taken}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crops_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", nargs="+", type=int, default=[200, 400], help="of the crops")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args(argv)
    figures = [measure(size) for size in arguments.megabytes]
    for one in figures:
        print(f"{one['image_bytes'] / 1e6:.0f} MB of crops: {one['taken_bytes'] / 1e6:.0f} MB while they are loaded, "
              f"{one['taken_bytes'] / one['image_bytes']:.2f} times")
    if len(figures) > 1:
        first, last = figures[0], figures[-1]
        each = (last["taken_bytes"] - first["taken_bytes"]) / (last["image_bytes"] - first["image_bytes"])
        print(f"a further MB of crops takes {each:.2f} MB")
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
