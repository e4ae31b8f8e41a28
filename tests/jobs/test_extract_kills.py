"""The commit protocol under kill -9 of the process that extracts and of the storage, at random moments: not a byte differs.

Without Ray, so that many kills take little time: a fork of this process reads, decodes, crops and writes for real, with a
recorded face in place of a detection. tests/jobs/test_extract_faults.py kills the parts of the real job.
"""

import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from benchmarks.extraction_again import RecordedDetector
from benchmarks.extraction_kills import Job, objects
from cluster.s3_server import S3Server
from jobs import extract as job
from robust.config import StorageConfig
from robust.config_file import parse
from robust.data.decoder_process import DecodeLimits, DecoderProcess
from robust.data.extraction import extract_video
from robust.data.shards import read_committed, write_shard
from robust.storage import Storage
from tests import clips


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for label in ("real", "fake"):
        (root / label).mkdir()
        for number in range(8):
            (root / label / f"{number}.mp4").write_bytes(clips.counting(5 + number))
    (root / "real" / "empty.mp4").write_bytes(b"")
    return root


def config_of(run, videos, uri):
    return parse({
        "run": {"name": run}, "storage": {"uri": uri, "read_timeout_s": 20},
        "data": {"datasets": [{"layout": "folder", "uri": str(videos), "name": "own"}]},
        "extract": {"frames_train": 4, "frames_test": 3, "videos_per_shard": 2, "min_face": 10},
    })


def run_pipeline(plans, config, storage, settings):
    """jobs.extract's, one video after another."""
    for plan in plans:
        made = [extract_video(row, config.extract, RecordedDetector(), storage_config=config.storage, fingerprint=settings)
                for row in plan.rows]
        write_shard(storage, config.run.name, plan.key, [face for faces, _ in made for face in faces],
                    [status for _, status in made])


def start(config) -> int:
    """Extracts in a fork of this process; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            job.extract(config, Storage.from_config(config.storage))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int, timeout_s: float, *, enough: Callable[[], bool] = lambda: False) -> int | None:
    """The exit code of a fork, None if it runs on after timeout_s or when `enough` was done."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not enough():
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path, monkeypatch):
    """(storage config, server or None)."""
    monkeypatch.setattr(job, "run_pipeline", run_pipeline)
    if request.param == "local":
        yield StorageConfig(uri=str(tmp_path / "storage")), None
        return
    with S3Server(tmp_path / "s3", bucket="kills") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield StorageConfig(uri="s3://kills/runs", read_timeout_s=20), server


@pytest.mark.timeout(1200)
def test_a_process_and_a_store_killed_at_random_moments_change_no_byte(store, videos):
    where, server = store
    storage, rng = Storage.from_config(where), random.Random(7)
    began = time.monotonic()
    assert ended(start(config_of("undisturbed", videos, where.uri)), 300) == 0
    span_s = time.monotonic() - began
    expected = objects(storage, "undisturbed")
    assert len(expected) == 18 and sum(map(len, expected.values())) > 10_000

    kills, rounds, struck_midway = (20 if server is None else 5), 0, 0
    while kills:
        run, rounds = f"round{rounds}", rounds + 1
        while True:
            child = start(config_of(run, videos, where.uri))
            if server is None and rounds == 1 and not struck_midway:  # one kill surely falls between first and last object
                code = ended(child, 300, enough=lambda: len(objects(storage, run)) > 1)
            else:
                code = ended(child, rng.uniform(0, span_s) if kills else 300)
            if code is not None:
                assert code == 0
                break
            kills -= 1
            if server is not None and rng.random() < 0.5:
                server.kill()
                server.start_again()
                assert ended(child, 300) == 0  # it waits for the server and goes on
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            struck_midway += 0 < len(objects(storage, run)) < len(expected)
        assert objects(storage, run) == expected
        committed = read_committed(storage, run)
        assert len(committed.table) == 17 == len(committed.current()) and committed.stale == {}
    assert struck_midway or server is not None


def test_two_processes_at_once_write_what_one_writes(store, videos):
    where, _ = store
    storage = Storage.from_config(where)
    for run, count in (("one", 1), ("three", 3)):
        children = [start(config_of(run, videos, where.uri)) for _ in range(count)]
        assert [ended(child, 300) for child in children] == [0] * count
    assert objects(storage, "three") == objects(storage, "one")


def test_the_benchmark_finds_the_decoding_process_to_kill():
    decoder, job = DecoderProcess(DecodeLimits()), object.__new__(Job)
    job.process = SimpleNamespace(pid=os.getpid())
    decoder.start()
    assert decoder.pid in job.pids("decoder")
    decoder.close()
