"""What jobs.extract costs beside its work: all of its wiring on made-up videos, with a stage that decodes and detects nothing.

    python -m benchmarks.noop_pipeline [--rows 1000 10000 100000] [--nodes 4] [--actors 8] [--simulated 100] [--out FILE]
    python -m benchmarks.noop_pipeline --parts alone requests [--rows ...]    # without Ray

alone: CPU seconds of what the driver does itself, part by part (benchmarks/driver_parts.py).
requests: the same through an S3 server (SeaweedFS) and a proxy that counts, on 1 000 and 5 000 videos; by part, a video.
ray: `extract` of jobs/extract.py as it is, with its data set, plan, Ray Data pipeline, commit protocol and contact sheet; in the place
of the stage that decodes and detects, each actor answers at once with one made-up crop a video. Tasks are cut as for `--simulated` nodes
of one CPU; the Ray below has `--nodes` raylets on this machine, which share `--actors` processes. CPU seconds of the driver and of the
GCS are theirs alone, however busy the workers keep the machine; wall seconds are not the driver's.
work: seconds that a video of ten seconds at 1280 x 720 takes in the real stage (25 frames, MTCNN), one thread, on the clock: measure it on a
machine that does nothing else, or give it with --work-s.

The bars: the driver's seconds are at most 5 % of the work's, and a further video costs no more with 100 000 than with 10 000.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import ray  # noqa: F401  makes psutil importable: it must come first

# isort: split
import psutil

from benchmarks import crops_memory, driver_parts, extraction
from benchmarks.driver_parts import COMMITS, RUN, Meter, config_of, write_bucket, write_folder
from benchmarks.extraction_again import CountingProxy
from benchmarks.extraction_loop import measure_floor
from benchmarks.noop_stage import Nothing
from cluster.environment import environment
from cluster.guardian import session_processes
from cluster.local import SESSION_MARK, LocalCluster
from cluster.s3_server import S3Server
from jobs import extract as job
from robust.config import Config
from robust.data.extraction import read_source
from robust.data.face_table import read_faces
from robust.storage import Storage
from robust.training.session import COLUMNS

BARS = {"overhead": 0.05, "growth": 1.2}
"""The driver's CPU seconds over the work's, and a further video's cost with most videos over that with fewer."""
COUNTED = (1000, 5000)
"""Videos whose requests are counted: each is an object in the server."""
WARM_UP = 200
LOOK_S = 0.5


# ---------------------------------------------------------------------------------------------------- without Ray


def alone(rows: Sequence[int], *, simulated: int) -> list[dict]:
    figures = []
    for count in rows:
        with tempfile.TemporaryDirectory(prefix="noop-") as folder:
            write_folder(Path(folder, "videos"), count)
            config = config_of(Path(folder, "out"), videos=f"{folder}/videos", storage=f"{folder}/storage")
            figures.append(driver_parts.measure(config, Meter(), cpus=simulated))
    return figures


@contextmanager
def counted_bucket(folder: Path, videos: int = 0) -> Iterator[tuple[Config, Callable[[], Counter]]]:
    """A configuration with made-up videos and storage on an S3 server, and a function that tells what it has been asked so far."""
    with S3Server(folder / "s3", bucket="noop") as server, environment(server.environment), CountingProxy(server.port) as proxy:
        config = config_of(folder / "out", videos="s3://noop/videos", storage="s3://noop/runs")
        write_bucket(Storage.from_config(config.storage.model_copy(update={"uri": "s3://noop"})), "videos", videos)
        url = f"http://127.0.0.1:{proxy.port}"
        with environment({"AWS_ENDPOINT_URL": url, "AWS_ENDPOINT_URL_S3": url}):
            yield config, lambda: Counter(proxy.counts)


def requests(*, simulated: int) -> list[dict]:
    figures = []
    for count in COUNTED:
        with tempfile.TemporaryDirectory(prefix="noop-") as folder, counted_bucket(Path(folder), count) as (config, sent):
            figures.append(driver_parts.measure(config, Meter(sent), cpus=simulated))
    return figures


def other_requests() -> dict:
    """Of a worker that fetches a video, and of a training that reads its crops out of shards of 12 MB."""
    with tempfile.TemporaryDirectory(prefix="noop-") as folder, counted_bucket(Path(folder)) as (config, sent):
        storage, videos = Storage.from_config(config.storage), config.storage.model_copy(update={"uri": "s3://noop"})
        Storage.from_config(videos).write_bytes("videos/a.mp4", b"x")
        size = crops_memory.write_crops(storage, 48)
        shards = len(storage.list(f"{crops_memory.RUN}/faces")) // 2
        before = sent()
        read_source("s3://noop/videos/a.mp4", config.storage)
        between = sent()
        read_faces(storage, crops_memory.RUN, split="train", columns=COLUMNS)
        return {"video": dict(between - before), "crops": dict(sent() - between), "crop_bytes": size, "crop_shards": shards}


# ---------------------------------------------------------------------------------------------------- through Ray


@contextmanager
def cluster(folder: Path, *, nodes: int, actors: int) -> Iterator[None]:
    """A Ray of so many nodes on this machine, with room for the actors and the writing tasks beside them."""
    each = -(-actors // nodes)
    with LocalCluster(config_of(folder, videos="none", storage=str(folder), cpus=each)):
        from ray.cluster_utils import Cluster

        more = Cluster(shutdown_at_exit=False)
        more.head_node = ray._private.worker._global_node
        others = []
        try:
            for _ in range(nodes - 1):
                others.append(more.add_node(num_cpus=each, object_store_memory=150 * 2**20))
            until = time.monotonic() + 120
            while sum(node["Alive"] for node in ray.nodes()) < nodes:
                if time.monotonic() > until:
                    raise SystemExit(f"only {sum(node['Alive'] for node in ray.nodes())} of {nodes} nodes came up")
                time.sleep(0.2)
            yield
        finally:
            for node in others:
                more.remove_node(node)


class Watch:
    """CPU seconds and most memory of the driver and of Ray's own processes: `with Watch() as watch: ...; watch.told()`."""

    def __enter__(self) -> Watch:
        self._done, self._most = threading.Event(), Counter()
        self._before = self._seconds()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.wall_s = time.monotonic() - self._began
        self._done.set()
        self._thread.join()
        after = self._seconds()
        self.cpu_s = {name: after[name] - self._before[name] for name in after}
        self.most_mib = dict(self._most)

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        yield "driver", psutil.Process()
        for process in session_processes(psutil, SESSION_MARK, os.environ[SESSION_MARK]):
            name = process.name()
            if name in ("gcs_server", "raylet"):
                yield name, process

    def _seconds(self) -> Counter:
        seconds = Counter()
        for name, process in self._processes():
            times = process.cpu_times()
            seconds[name] += times.user + times.system
        return seconds

    def _look(self) -> None:
        processes = list(self._processes())
        while not self._done.wait(LOOK_S):
            for name, process in processes:
                self._most[name] = max(self._most[name], process.memory_info().rss / 2**20)


def through_ray(rows: Sequence[int], *, nodes: int, actors: int, simulated: int) -> list[dict]:
    figures = []
    with tempfile.TemporaryDirectory(prefix="noop-") as top, ExitStack() as undo:
        undo.enter_context(cluster(Path(top, "cluster"), nodes=nodes, actors=actors))
        undo.enter_context(mock.patch.object(job, "DecodeAndDetect", Nothing))
        undo.enter_context(mock.patch.object(job, "require_room", lambda config, stage: [(1, 0)] * simulated))
        for count in (WARM_UP, *rows):
            folder = Path(top, str(count))
            write_folder(folder / "videos", count)
            config = config_of(folder, videos=str(folder / "videos"), storage=str(folder / "storage"), actors=actors)
            with Watch() as watch:
                result = job.extract(config, Storage.from_config(config.storage))
            if result["extracted_now"] != result["videos"] or result["not_ok"]:
                raise SystemExit(f"not all was extracted: {result['summary']}")
            shards = len(list((folder / "storage" / RUN / "faces").rglob("*.status.parquet")))
            if count != WARM_UP:
                figures.append({"rows": result["videos"], "shards": shards, "wall_s": watch.wall_s, "cpu_s": watch.cpu_s, "most_mib": watch.most_mib})
                print(told_ray(figures[-1]), flush=True)
            shutil.rmtree(folder)
    return figures


# ---------------------------------------------------------------------------------------------------- the figures


def work_seconds() -> float:
    """Seconds of the real stage on one video, one thread, two at once; on the clock, so true on an idle machine alone."""
    with tempfile.TemporaryDirectory(prefix="noop-") as folder:
        content = extraction.clip()
        paths = extraction.write_videos(Path(folder, "videos"), (content for _ in range(2)))
        floor = measure_floor(extraction.config_of(Path(folder), Path(folder, "videos")), paths)
    return floor.decode_s + floor.detect_s


def driver_seconds(figure: dict) -> float:
    """Of a figure of `alone` or `through_ray`."""
    if "cpu_s" in figure:
        return figure["cpu_s"]["driver"]
    return sum(seconds for part, seconds in figure["seconds"].items() if part != COMMITS)


def slope(figures: Sequence[dict]) -> tuple[float, float, float]:
    """(seconds of a further video, of none, growth): least squares; growth is the last two sizes' slope over the first two's."""
    rows, seconds = [np.array([get(one) for one in figures]) for get in (lambda one: one["rows"], driver_seconds)]
    each, fixed = np.polyfit(rows, seconds, 1)
    steps = np.diff(seconds) / np.diff(rows)
    return float(each), float(fixed), float(steps[-1] / steps[0]) if len(steps) > 1 else 1.0


def told_alone(figures: Sequence[dict]) -> str:
    names = list(figures[0]["seconds"])
    lines = [f"{'videos':>8}{'shards':>8}{'tasks':>8}" + "".join(f"{name:>9}" for name in names) + f"{'driver, us a video':>20}   CPU seconds of each part"]
    lines += [f"{one['rows']:>8}{one['shards']:>8}{one['tasks']:>8}" + "".join(f"{one['seconds'][name]:>9.2f}" for name in names)
              + f"{1e6 * driver_seconds(one) / one['rows']:>20.0f}" for one in figures]
    return "\n".join(lines)


def kinds(sent: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(sent.items()))


def told_requests(figures: Sequence[dict], others: dict) -> str:
    lines = []
    for one in figures:
        total = sum(number for sent in one["requests"].values() for number in sent.values())
        parts = "; ".join(f"{part}: {kinds(sent)}" for part, sent in one["requests"].items() if sent)
        lines.append(f"{one['rows']} videos, {one['shards']} shards: {total} requests, {total / one['rows']:.3f} a video ({parts})")
    lines += [f"a worker fetches a video: {kinds(others['video'])}",
              f"training reads {others['crop_bytes'] / 1e6:.0f} MB of crops in {others['crop_shards']} shards: {kinds(others['crops'])}"]
    return "\n".join(lines)


def told_ray(one: dict) -> str:
    of_each = {name: 1e3 * seconds / one["rows"] for name, seconds in one["cpu_s"].items()}
    return (f"{one['rows']:>8} videos, {one['shards']} shards: driver {one['cpu_s']['driver']:.1f} s of CPU, {of_each['driver']:.2f} ms a video, at most "
            f"{one['most_mib']['driver']:.0f} MiB; GCS {of_each['gcs_server']:.2f} ms a video, {one['most_mib']['gcs_server']:.0f} MiB; raylets "
            f"{of_each['raylet']:.2f} ms; {one['wall_s']:.0f} s on the clock, {one['rows'] / one['wall_s']:.0f} videos/s")


def told_bars(figures: Sequence[dict], work_s: float, simulated: int) -> tuple[str, list[str]]:
    """What the bars are of, and those that are missed."""
    each, fixed, growth = slope(figures)
    overhead = {one["rows"]: driver_seconds(one) / (one["rows"] * work_s) for one in figures}
    most = max(overhead)
    lines = [f"driver: {1e3 * each:.3f} ms a further video and {fixed:.1f} s once (slope of {len(figures)} sizes); a further video costs {growth:.2f} times "
             f"as much between the largest two as between the smallest two",
             f"work: {work_s:.2f} s of CPU a video; the driver takes " + ", ".join(f"{share:.2%} of it with {rows}" for rows, share in overhead.items()),
             f"so one driver keeps {work_s / each:.0f} CPUs busy; with {simulated} it is busy {simulated * each / work_s:.0%} of the time"]
    missed = [f"overhead {overhead[most]:.2%}, bar {BARS['overhead']:.0%}"] if overhead[most] > BARS["overhead"] else []
    return "\n".join(lines), missed + ([f"growth {growth:.2f}, bar {BARS['growth']}"] if growth > BARS["growth"] else [])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noop_pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=("alone", "requests", "ray"), default=["alone", "requests", "ray"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 10_000, 100_000], help="videos, the fewest first")
    parser.add_argument("--nodes", type=int, default=4, help="raylets on this machine")
    parser.add_argument("--actors", type=int, default=8, help="processes that take the place of the simulated nodes'")
    parser.add_argument("--simulated", type=int, default=100, help="nodes of one CPU for which tasks are cut")
    parser.add_argument("--work-s", type=float, help="seconds of one CPU that a video's work takes; default: measured")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args(argv)
    result: dict = {"nodes": arguments.nodes, "actors": arguments.actors, "simulated": arguments.simulated}
    missed: list[str] = []
    if "alone" in arguments.parts:
        result["alone"] = alone(arguments.rows, simulated=arguments.simulated)
        print(told_alone(result["alone"]), flush=True)
    if "requests" in arguments.parts:
        result["requests"], result["others"] = requests(simulated=arguments.simulated), other_requests()
        print(told_requests(result["requests"], result["others"]), flush=True)
    if "ray" in arguments.parts:
        result["work_s"] = arguments.work_s or work_seconds()
        result["ray"] = through_ray(arguments.rows, nodes=arguments.nodes, actors=arguments.actors, simulated=arguments.simulated)
        told, missed = told_bars(result["ray"], result["work_s"], arguments.simulated)
        print(f"{told}\n" + "\n".join(f"bar missed: {one}" for one in missed), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
