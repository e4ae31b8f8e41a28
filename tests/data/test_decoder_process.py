"""Decoding in a process that files may crash, hang or fill."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from robust.data import decoder_process
from robust.data.decoder_child import RemoteFile
from robust.data.decoder_process import DecodeLimits, DecoderProcess
from robust.data.decoder_protocol import NONSENSE, Answer, Ended
from robust.data.video import WHOLE_BYTES, read_frames
from tests import clips

SECRETS = {"AWS_ACCESS_KEY_ID": "made-up-key", "AWS_SECRET_ACCESS_KEY": "made-up-secret"}


@pytest.fixture(scope="module")
def decoder():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        process = DecoderProcess(DecodeLimits(timeout_s=60, memory_mb=96))
        process.read_frames(clips.counting(3), count=1)
    yield process
    process.close()


@pytest.fixture(scope="module")
def visited() -> bytes:
    """6 MB of noise whose frames are visited one after the other: its blocks are read as it is decoded."""
    noise = np.random.default_rng(0).integers(0, 255, (60, 240, 320, 3)).astype(np.uint8)
    return clips.clip(noise, codec="mjpeg", pixels="yuvj420p", qmin="1", qmax="1")


class Pieces:
    """A file in a bucket, as read_at sees it; at a place in it something happens."""

    def __init__(self, data, at=None, event=None):
        self.data, self.at, self.event, self.asked = data, at, event, []

    def size(self):
        return len(self.data)

    def read_at(self, nbytes, offset):
        self.asked.append((offset, nbytes))
        if self.at is not None and offset >= self.at:
            self.event()
        return self.data[offset:offset + nbytes]


def same(one, other):
    return (one.status, one.reason) == (other.status, other.reason) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("frames", "indices")
    ) and np.allclose(one.timestamps_s, other.timestamps_s, rtol=0, atol=1e-6)  # decord's are rounded


@pytest.mark.parametrize("kind", ["sound", "cut", "avi", "audio", "empty", "none", "cover"])
def test_it_gives_what_decoding_in_this_process_gives(kind, decoder, tmp_path):
    data = {"sound": lambda: clips.noisy(20), "cut": lambda: clips.noisy(20)[:-2000], "audio": clips.audio_only, "empty": bytes,
            "avi": lambda: clips.noisy(20, container="avi", codec="mpeg4"), "none": clips.without_frames,
            "cover": lambda: clips.audio_only(cover=True)}[kind]()
    path, pid = tmp_path / "a clip.mp4", decoder.pid
    path.write_bytes(data)
    here = read_frames(data, count=6, name="v")
    assert same(decoder.read_frames(data, count=6), here) and same(decoder.read_frames(path, count=6), here)
    assert same(decoder.read_frames(Pieces(data), count=6), here)
    assert decoder.pid == pid


def test_what_is_no_file_is_unreadable(decoder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert decoder.read_frames(tmp_path / "gone.mp4", count=2).reason == "cannot be read: No such file or directory"
    assert decoder.read_frames(tmp_path, count=2).reason == "cannot be read: not a file"
    assert decoder.read_frames(tmp_path / "pipe", count=2).reason == "cannot be read: not a file"


def test_a_machine_out_of_handles_is_not_the_videos_fault(decoder, tmp_path):
    path, limits, free = tmp_path / "v.mp4", resource.getrlimit(resource.RLIMIT_NOFILE), os.dup(0)
    path.write_bytes(clips.counting(3))
    os.close(free)
    for source in (path, path.read_bytes()):
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                decoder.read_frames(source, count=1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert decoder.read_frames(source, count=1).status == "ok"


def test_a_crash_is_this_videos_alone_and_its_good_frames_are_kept(decoder, visited):
    whole, pid = decoder.read_frames(visited, count=10), decoder.pid
    at_once = decoder.read_frames(Pieces(visited, 0, lambda: os.kill(decoder.pid, signal.SIGSEGV)), count=10)
    assert (at_once.status, at_once.reason) == ("unreadable", "decoder crashed (signal 11)")
    later = decoder.read_frames(Pieces(visited, len(visited) // 2, lambda: os.kill(decoder.pid, signal.SIGABRT)), count=10)
    good = len(later.frames)
    assert (later.status, later.reason) == ("partial", f"decoder crashed (signal 6); {good} frames are good")
    assert 2 <= good < 8 and np.array_equal(later.frames, whole.frames[:good])
    assert same(decoder.read_frames(visited, count=10), whole) and decoder.pid != pid


def test_a_kill_from_outside_is_not_the_videos_fault_unless_it_comes_every_time(decoder, visited):
    whole, killed = decoder.read_frames(visited, count=10), []

    def kill(times):
        if len(killed) < times:
            killed.append(decoder.pid)
            os.kill(decoder.pid, signal.SIGKILL)

    assert same(decoder.read_frames(Pieces(visited, len(visited) // 2, lambda: kill(2)), count=10), whole)
    assert len(set(killed)) == 2
    again = decoder.read_frames(Pieces(visited, 0, lambda: kill(99)), count=10)
    assert (again.status, again.reason) == ("unreadable", "decoder crashed (signal 9)") and len(killed) == 5


def test_the_time_of_one_file_is_that_of_all_attempts(decoder, visited):
    killed = []

    def kill():
        killed.append(decoder.pid)
        time.sleep(max(0.0, until - time.monotonic()))
        os.kill(decoder.pid, signal.SIGKILL)

    decoder.read_frames(visited, count=1)  # the process is up
    until = time.monotonic() + 2.1
    assert decoder.read_frames(Pieces(visited, 0, kill), count=10, timeout_s=2).reason == "decoder crashed (signal 9)"
    assert len(killed) == 1  # three, where there is time


def test_without_an_interpreter_the_job_fails_and_no_file_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(RuntimeError, match="cannot be started"):
        DecoderProcess(DecodeLimits()).read_frames(clips.counting(3), count=1)


def test_a_process_that_died_between_videos_is_replaced(decoder):
    expected = decoder.read_frames(clips.counting(5), count=2)
    os.kill(decoder.pid, signal.SIGKILL)
    time.sleep(0.1)
    assert same(decoder.read_frames(clips.counting(5), count=2), expected)


def test_what_crashes_with_decord_is_tried_without(decoder):
    expected, pid = decoder.read_frames(clips.counting(30), count=5), decoder.pid
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGSEGV)  # as soon as it goes on: that is, when the video is there
    started = decoder._videos
    decoder._make_ready = lambda: (type(decoder)._make_ready(decoder), os.kill(decoder.pid, signal.SIGCONT))
    try:
        again = decoder.read_frames(clips.counting(30), count=5)
    finally:
        del decoder._make_ready
    assert same(again, expected) and decoder.pid != pid and started > 1


def test_a_hang_ends_with_the_time_limit(visited):
    hasty = DecoderProcess(DecodeLimits(timeout_s=2))
    hasty.read_frames(clips.counting(3), count=1)
    start = time.monotonic()
    decoded = hasty.read_frames(Pieces(visited, len(visited) // 2, lambda: os.kill(hasty.pid, signal.SIGSTOP)), count=10)
    assert decoded.status == "partial" and decoded.reason.startswith("decoding took longer than 2 s; ")
    assert 2 <= time.monotonic() - start < 10 and len(decoded.frames) >= 2
    slow_storage = decoder_process.time.sleep
    waited = hasty.read_frames(Pieces(visited, len(visited) // 2, lambda: slow_storage(1.5)), count=10)
    assert waited.status == "ok"  # three seconds of waiting for the storage do not count
    hasty.close()


def taken_over(limits: DecodeLimits, script: str) -> DecoderProcess:
    """A decoder whose process does what a file made it do: `script`, with the channel as `c`, once it has its job."""
    decoder = DecoderProcess(limits)
    decoder._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    begin = f"import socket, time; c = socket.socket(fileno={theirs.fileno()}); c.send(b'{{\"kind\": \"ready\"}}'); c.recv(99)\n"
    with theirs:
        decoder._child = subprocess.Popen([sys.executable, "-c", begin + script], pass_fds=[theirs.fileno()])
    return decoder


def test_the_time_between_many_small_reads_counts():
    asks = "while True:\n    time.sleep(0.025)\n    c.send(b'{\"kind\": \"read\", \"offset\": 0, \"size\": 1}')\n    c.recv(99)"
    decoder, start = taken_over(DecodeLimits(timeout_s=0.5), asks), time.monotonic()
    source = Pieces(bytes(10), 0, lambda: decoder.close() if time.monotonic() > start + 8 else None)
    assert decoder.read_frames(source, count=1).reason == "decoding took longer than 0.5 s"
    assert len(source.asked) < 30


def test_one_that_asks_and_reads_no_answer_is_ended():
    asks = "while True:\n    c.send(b'{\"kind\": \"read\", \"offset\": 0, \"size\": 1}')"
    source = Pieces(bytes(10))
    assert taken_over(DecodeLimits(timeout_s=60), asks).read_frames(source, count=1).reason == NONSENSE
    assert len(source.asked) > 1


def test_one_that_asks_for_what_lies_behind_the_end_of_the_file_is_ended():
    asks = "c.send(b'{\"kind\": \"read\", \"offset\": 8, \"size\": 3}'); c.recv(99)"
    source = Pieces(bytes(10))
    assert taken_over(DecodeLimits(timeout_s=60), asks).read_frames(source, count=1).reason == NONSENSE
    assert not source.asked


def test_the_alarm_of_the_process_itself_waits_with_it_for_the_storage(tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    window = os.open(tmp_path / "window", os.O_RDWR | os.O_CREAT)
    os.write(window, b"piece")

    def slow_storage():
        ours.recv(4096)
        time.sleep(0.4)
        ours.send(b"{}")

    rung, before = [], signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    timer = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        storage = threading.Thread(target=slow_storage)
        storage.start()
        assert RemoteFile(theirs, window, 5).read() == b"piece" and not rung
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.2  # it goes on where it was
        storage.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
        for one in (ours, theirs):
            one.close()
        os.close(window)


def test_memory_is_limited_and_more_of_it_helps(decoder):
    data = clips.counting(2, height=4096, width=4096, codec="mjpeg", pixels="yuvj420p")
    decoded = decoder.read_frames(data, count=2)
    assert decoded.reason.startswith("decoding needed more than 96 MB") and len(decoded.frames) < 2
    roomy = DecoderProcess(DecodeLimits(memory_mb=400))
    assert roomy.read_frames(data, count=2).frames.shape == (2, 4096, 4096, 3)
    roomy.close()


def test_one_that_grows_behind_the_limits_back_is_ended(decoder, monkeypatch):
    monkeypatch.setattr(decoder_process, "_resident_bytes", lambda pid: 2**30)
    decoder.read_frames(clips.counting(3), count=1)  # the idle size is that of before
    decoder._idle_bytes = 0
    assert decoder.read_frames(clips.counting(30), count=5).reason == "decoding needed more than 96 MB"


def test_an_hour_of_4k_fits_in_its_frames_and_100_mb(tmp_path):
    group = clips.counting(2, height=2160, width=3840, gop=2, bf="0", preset="ultrafast", crf="25")
    path = clips.repeated(group, WHOLE_BYTES // len(group) * 11 // 10, tmp_path / "large.mp4")
    assert path.stat().st_size > WHOLE_BYTES
    decoder = DecoderProcess(DecodeLimits(memory_mb=400))
    source = Pieces(path.read_bytes())
    decoded = decoder.read_frames(source, count=4)
    peak = int(next(line for line in Path(f"/proc/{decoder.pid}/status").open() if line.startswith("VmHWM")).split()[1]) * 1024
    assert decoded.status == "ok" and clips.numbers(decoded.frames) == [index % 2 for index in decoded.indices]
    assert peak - decoder._idle_bytes < decoded.frames.nbytes + 100 * 2**20
    assert sum(size for _, size in source.asked) < source.size() / 3
    decoder.close()


def test_the_child_has_no_secrets_and_few_rights(decoder):
    decoder.read_frames(clips.counting(3), count=1)
    environment = Path(f"/proc/{decoder.pid}/environ").read_bytes().decode()
    assert "PYTHONPATH" in environment and not any(text in environment for pair in SECRETS.items() for text in pair)
    limits = Path(f"/proc/{decoder.pid}/limits").read_text()
    for name in ("Max core file size", "Max file size"):
        assert next(line for line in limits.splitlines() if line.startswith(name)).split()[-3:-1] == ["0", "0"]
    loaded = Path(f"/proc/{decoder.pid}/maps").read_text()
    assert "libtorch" not in loaded and "_raylet" not in loaded and "decord" in loaded


def test_it_is_replaced_after_many_videos_and_leaks_no_handle(decoder, monkeypatch):
    data = clips.counting(3)
    decoder.read_frames(data, count=1)
    pid, handles = decoder.pid, len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        decoder.read_frames(data, count=1)
    assert decoder.pid == pid and len(os.listdir("/proc/self/fd")) == handles
    monkeypatch.setattr(decoder_process, "VIDEOS_OF_A_PROCESS", 1)
    assert decoder.read_frames(data, count=1).status == "ok" and decoder.pid != pid


def test_a_child_whose_parent_is_gone_ends(decoder):
    orphan = DecoderProcess(DecodeLimits())
    orphan.read_frames(clips.counting(3), count=1)
    orphan._channel.close()
    assert orphan._child.wait(10) == 0


@pytest.mark.parametrize("kind", [OSError, ConnectionResetError])
def test_a_storage_that_fails_is_not_the_videos_fault(kind, decoder, visited):
    def fail():
        raise kind("timeout")

    with pytest.raises(kind, match="timeout"):
        decoder.read_frames(Pieces(visited, len(visited) // 2, fail), count=5)
    shorter = Pieces(visited)
    shorter.size = lambda: len(visited) + 5000
    with pytest.raises(OSError, match="replaced or cut"):
        decoder.read_frames(shorter, count=5)
    assert decoder.read_frames(visited, count=5).status == "ok"


SIZE = b'{"kind": "size", "height": 10, "width": 10}'


@pytest.mark.parametrize("messages", [
    [b"\x80\x04K\x01."], [b"[" * 4000], [b"{}"], [b"[]"], [b"7"], [b'{"kind": ["frame"]}'], [b'{"kind": "what"}'],
    [b'{"kind": "frame", "index": 0, "time_s": 0}'],
    [b'{"kind": "size", "height": 10, "width": -10}'], [b'{"kind": "size", "height": 1e9, "width": 1}'],
    [SIZE, b'{"kind": "frame", "index": 0, "time_s": NaN}'], [SIZE, b'{"kind": "frame", "index": true, "time_s": 0}'],
    [SIZE, b'{"kind": "frame", "index": 0, "time_s": 1' + b"0" * 400 + b"}"],
    [SIZE, b'{"kind": "frame", "index": 3, "time_s": 0}', b'{"kind": "frame", "index": 3, "time_s": 0}'],
    [SIZE, b'{"kind": "frame", "index": 1, "time_s": 0}', SIZE],
    [b'{"kind": "size", "height": 60000, "width": 60000}', b'{"kind": "frame", "index": 0, "time_s": 0}'],
    [SIZE, *[b'{"kind": "frame", "index": %d, "time_s": 0}' % number for number in range(3)]],
    [b'{"kind": "done", "status": "ok", "reason": ""}'], [b'{"kind": "done", "status": "fine", "reason": ""}'],
    [b'{"kind": "done", "status": "unreadable", "reason": 5}'],
    [b'{"kind": "read", "offset": -1, "size": 10}'], [b'{"kind": "read", "offset": 0, "size": 99999999}'],
], ids=lambda messages: messages[-1][:60].decode("latin-1"))
def test_answers_that_cannot_be_true_are_not_believed(messages):
    answer = Answer(memory=-1, capacity=10_000, count=2)
    with pytest.raises(Ended, match=NONSENSE):
        for message in messages:
            answer.take(message)
