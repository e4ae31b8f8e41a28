"""What a second run of jobs.extract costs when nothing is new: seconds, and requests by kind.

    python -m benchmarks.extraction_again [--videos 10000] [--without-ray] [--out FILE]

Real: as many video files (one frame, 96 x 64, all alike) in an S3 server (SeaweedFS), listed and compared as always; shards
by the real writer, read back by the real job, `python -m jobs.extract` as a process of its own with its local Ray (or,
--without-ray, by its `extract` in this process, for a machine that is too busy to start Ray).
Not real: how the shards came to be. One file is decoded and one crop cut; every video gets a copy of it, instead of a
detection of its own, which a second run does not look at. Requests are counted by a proxy before the server, whatever client
sends them; it opens a connection a request, so the seconds are rather too many. The exit code is 1 if a bar is missed.
"""
from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.extraction_kills import Job
from cluster.environment import environment
from cluster.s3_server import S3Server
from jobs.extract import extract, extraction_fingerprint, videos_of
from robust.config import Config
from robust.config_file import parse
from robust.config_identity import dump_yaml
from robust.data.extraction import Source, faces_of
from robust.data.faces import Face
from robust.data.h264 import encode_h264
from robust.data.shard_plan import ShardPlan, plan_shards, videos_of_a_shard
from robust.data.shards import write_shard
from robust.data.video import read_frames
from robust.storage import Storage

RUN, THREADS, JOB_LIMIT_S = "again", 8, 1800.0
BARS = {"seconds": 30.0, "LIST": 20}
"""For 10 000 videos: seconds without the start of Ray, and listing requests."""


class CountingProxy:
    """Passes HTTP on to a server and counts requests: `with CountingProxy(port) as proxy: proxy.port, proxy.counts`."""

    def __init__(self, server_port: int):
        self.server_port, self.port, self.counts = server_port, None, Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> CountingProxy:
        self._thread.start()
        start = asyncio.start_server(self._handle, "127.0.0.1", 0, limit=2**20)
        server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _handle(self, reader, writer) -> None:
        """One request; `Connection: close` ends it on both sides. The head is passed on as it was signed."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.counts[kind_of(head)] += 1
            lines = [line for line in head.split(b"\r\n")[:-2] if not line.lower().startswith(b"connection:")]
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
            up_writer.write(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n")
            upload = asyncio.create_task(_copy(reader, up_writer))
            await _copy(up_reader, writer)
            upload.cancel()
            up_writer.close()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _copy(reader, writer) -> None:
    while block := await reader.read(2**16):
        writer.write(block)
        await writer.drain()


def kind_of(head: bytes) -> str:
    """LIST, GET, HEAD, PUT, POST or DELETE, and what of: the videos or the run."""
    method, target, _ = head.split(b"\r\n", 1)[0].decode("latin1").split(" ", 2)
    path, _, query = target.partition("?")
    if method == "GET" and re.search(r"(^|&)(list-type=2|prefix=|delimiter=|max-keys=)", query):
        return "LIST"
    return f"{method} {'video' if '/videos/' in path else 'run'}"


class RecordedDetector:
    """The same face in every frame."""

    def detect(self, frames: np.ndarray) -> list[list[Face]]:
        landmarks = np.array([[40, 25], [56, 25], [48, 33], [42, 42], [54, 42]], np.float32)
        return [[Face(np.array([30, 10, 66, 54], np.float32), 0.99, landmarks)] for _ in frames]


def config_of(outputs: Path) -> Config:
    return parse({
        "run": {"name": RUN},
        "storage": {"uri": "s3://again/runs"},
        "cluster": {"address": "local", "num_cpus": 2, "object_store_memory_mb": 100, "outputs": str(outputs)},
        "data": {"datasets": [{"layout": "folder", "uri": "s3://again/videos", "name": "own"}]},
    })


def write_everything(config: Config, count: int) -> int:
    """The videos and their shards; returns the number of shards."""
    storage = Storage.from_config(config.storage)
    content = encode_h264(np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3)).astype(np.uint8), fps=20, crf=23)
    videos = Storage.from_config(config.storage.model_copy(update={"uri": "s3://again"}))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda number: videos.write_bytes(f"videos/{'fake' if number % 2 else 'real'}/{number:06d}.mp4", content),
                      range(count)))
    dataset, rows = videos_of(config)
    decoded, settings = read_frames(content, count=1, name="video"), extraction_fingerprint(config)
    plans = plan_shards(rows, videos_per_shard=videos_of_a_shard(config.extract), fingerprint=settings,
                        files=dataset.files)

    def write(plan: ShardPlan) -> None:
        made = [faces_of(row, decoded, config.extract, RecordedDetector(), fingerprint=settings,
                         source=Source(content, len(content), dataset.files[row.video_id].version)) for row in plan.rows]
        write_shard(storage, RUN, plan.key, [face for faces, _ in made for face in faces], [status for _, status in made])

    for plan in plans:
        write(plan)
    return len(plans)


def measure(folder: Path, *, count: int, without_ray: bool) -> dict:
    config = config_of(folder / "out")
    with S3Server(folder / "s3", bucket="again") as server, environment(server.environment):
        began = time.monotonic()
        shards = write_everything(config, count)
        print(f"{count} videos and {shards} shards written in {time.monotonic() - began:.0f} s", flush=True)
        with CountingProxy(server.port) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            with environment({"AWS_ENDPOINT_URL": url, "AWS_ENDPOINT_URL_S3": url}):
                result = run_here(config) if without_ray else run_job(config, folder)
            requests = dict(sorted(proxy.counts.items()))
    if result["extracted_now"] or result["videos"] != count:
        raise SystemExit(f"the second run was not to extract anything: {result['summary']}")
    times = {name: result[name] for name in ("whole_s", "seconds", "cpu_s") if name in result}
    return {"videos": count, "shards": shards, **times, "requests": requests, "extracted_now": result["extracted_now"],
            "summary": result["summary"]}


def run_job(config: Config, folder: Path) -> dict:
    """result.json of `python -m jobs.extract`, with `whole_s`: from its start to its end."""
    settings, log = folder / "config.yaml", folder / "jobs.log"
    settings.write_text(dump_yaml(config))
    job = Job(settings, log)
    try:
        code = job.wait(JOB_LIMIT_S)
    finally:
        job.stop()
    seconds = time.monotonic() - job.began
    if code != 0:
        raise SystemExit(f"the job failed: {log.read_text()[-2000:]}")
    return {**Storage.from_config(config.storage).read_json(f"{RUN}/faces/result.json"), "whole_s": round(seconds, 1)}


def run_here(config: Config) -> dict:
    """What `extract` returns, with its wall and CPU seconds (those of the proxy included)."""
    began, cpu = time.monotonic(), time.process_time()
    result = extract(config, Storage.from_config(config.storage))
    return {**result, "seconds": round(time.monotonic() - began, 1), "cpu_s": round(time.process_time() - cpu, 1)}


def missed(result: dict) -> list[str]:
    """What a measurement took more of than BARS allow, each as a sentence."""
    taken = {"seconds": result["seconds"], "LIST": result["requests"].get("LIST", 0)}
    told = [f"{kind}: {taken[kind]:g}, more than {bar:g}" for kind, bar in BARS.items() if taken[kind] > bar]
    read = sum(number for kind, number in result["requests"].items() if "video" in kind)
    return told + ([f"{read} requests on videos, which nothing asks for"] if read else [])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction_again", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--without-ray", action="store_true", help="the job's work without the start of its cluster")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="again-") as folder:
        result = measure(Path(folder), count=arguments.videos, without_ray=arguments.without_ray)
    read = sum(number for kind, number in result["requests"].items() if "video" in kind)
    whole = f"{result['whole_s']:.1f} s with the start of Ray, " if "whole_s" in result else ""
    cpu = f" ({result['cpu_s']:.1f} s of CPU)" if "cpu_s" in result else ""
    print(f"second run over {result['videos']} videos in {result['shards']} shards, nothing new: "
          f"{whole}{result['seconds']:.1f} s without{cpu} (bar {BARS['seconds']:.0f} s)")
    print(f"requests: {', '.join(f'{kind} {number}' for kind, number in result['requests'].items())} "
          f"(bar LIST {BARS['LIST']}); {read} on videos, {result['extracted_now']} videos decoded")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    told = missed(result)
    for problem in told:
        print(f"bar missed: {problem}")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
