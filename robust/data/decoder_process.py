"""Decoding in a process of its own, which a file may crash, hang or fill without taking the job with it.

The process is started once and serves video after video; one that died or had to be ended is replaced. A crafted file
may take it over, so it gets no credentials and nothing to write, and its answers are read as data and checked: no
pickle. The two speak over a socket pair, one JSON object a packet:

    to the child    {"count", "image", "timeout_s", "decord", "bytes"} with two file handles: the video (or, where "bytes" tells
                    its size, a window in which pieces of it appear when asked for) and the memory for the frames
    from the child  {"kind": "ready" | "restart"}, {"kind": "size", "height", "width"},
                    {"kind": "frame", "index", "time_s"}: the next (H, W, 3) uint8 in the memory is good,
                    {"kind": "read", "offset", "size"}, answered by an empty object once the window holds the piece,
                    {"kind": "done", "status", "reason"}

Linux only, as the decoders' packages are.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import functools
import json
import math
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from robust.data.decoded import NOT_OPENED, DecodedVideo, unreadable
from robust.data.decoder_handles import FAULTS_OF_A_PATH, Ranged, fill, handle_of, memory
from robust.data.decoder_protocol import MESSAGE_BYTES, NONSENSE, Answer, Ended

START_TIMEOUT_S = 120  # of an interpreter and four libraries, 0.4 s on an idle machine
START_ATTEMPTS = 3
KILLS_FORGIVEN = 2
"""A SIGKILL comes from outside, e.g. from a kernel out of memory: only one that comes again and again tells of the file."""
VIDEOS_OF_A_PROCESS = 256  # then a fresh one: whatever a decoder leaks or a file left behind ends with it
WATCH_EVERY_S = 0.03
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME")
"""All that the child sees of this process's environment: nothing secret."""


@dataclasses.dataclass(frozen=True)
class DecodeLimits:
    """What one video may cost.

    Args:
        timeout_s: seconds of decoding; waiting for the storage does not count.
        memory_mb: MiB of the process beyond what it has when idle, its frames included.
        decord: whether decord is asked first where it can be trusted, or PyAV decodes everything.
    """

    timeout_s: float = 300
    memory_mb: int = 2048
    decord: bool = True

    @classmethod
    def of(cls, config) -> DecodeLimits:
        """As an ExtractConfig says."""
        return cls(config.decode_timeout_s, config.decode_memory_mb, config.decoder == "decord")


@functools.lru_cache(maxsize=4)
def shared_decoder(limits: DecodeLimits) -> DecoderProcess:
    """The decoding process of this process, started when it is first needed."""
    return DecoderProcess(limits)


@dataclasses.dataclass(frozen=True)
class _Task:
    """What a child is to make of a file: `count` frames of a video or the one of a photograph.

    Args:
        timeout_s: of one attempt; until: of time.monotonic(), of all of them.
    """

    count: int
    image: bool
    timeout_s: float
    until: float = math.inf

    def left_s(self) -> float:
        return min(self.timeout_s, self.until - time.monotonic())


class _Gone(Exception):
    """The child is dead."""


class DecoderProcess:
    """`read_frames` of robust/data/video.py, at arm's length; one video at a time."""

    def __init__(self, limits: DecodeLimits):
        self.limits = limits
        self._child: subprocess.Popen | None = None
        self._channel: socket.socket | None = None
        self._ready, self._videos, self._idle_bytes = False, 0, 0
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Of the child, if there is one."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Starts the child unless there is one, without waiting for it."""
        if self._child is not None and self._child.poll() is None and self._videos < VIDEOS_OF_A_PROCESS:
            return
        self.close()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "LANG": "C.UTF-8",
                        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-s", "-m", "robust.data.decoder_child"]
        with theirs:
            try:
                self._child = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(self.limits.memory_mb)], pass_fds=[theirs.fileno()], env=environment,
                    stdin=subprocess.DEVNULL, start_new_session=True)
            except OSError as error:  # not to be mistaken for one of the video's
                self._channel.close()
                raise RuntimeError(f"the decoding process cannot be started: {error}") from error
        self._ready, self._videos = False, 0

    def close(self) -> int | None:
        """Ends the child; returns its exit status, negative if a signal ended it."""
        if self._child is None:
            return None
        self._channel.close()
        self._child.kill()
        status = self._child.wait()
        self._child = self._channel = None
        return status

    def read_frames(
        self, source: bytes | str | os.PathLike | Ranged, *, count: int, timeout_s: float | None = None
    ) -> DecodedVideo:
        """Decodes `count` frames spread evenly over a video, or all of them if it has fewer.

        Whatever is wrong with the file is told in the result. Errors of a Ranged source pass through.

        Args:
            timeout_s: for this file alone, in however many attempts.
        Raises:
            OSError: this machine's fault, e.g. too many open files.
            RuntimeError: the decoding process cannot be started at all.
        """
        if count < 1:
            raise ValueError(f"count is {count}, must be at least 1")
        return self._read(source, self._task(count, False, timeout_s))

    def read_image(self, source: bytes | str | os.PathLike, *, timeout_s: float | None = None) -> DecodedVideo:
        """A photograph as a video of one frame, turned upright as its EXIF says; all else as in `read_frames`."""
        return self._read(source, self._task(1, True, timeout_s))

    def _task(self, count: int, image: bool, timeout_s: float | None) -> _Task:
        return _Task(count, image, self.limits.timeout_s, math.inf if timeout_s is None else time.monotonic() + timeout_s)

    def _read(self, source, task: _Task) -> DecodedVideo:
        with self._lock, contextlib.ExitStack() as stack:
            try:
                handle, ranged = stack.enter_context(handle_of(source))
            except OSError as error:
                if error.errno not in FAULTS_OF_A_PATH:
                    raise
                return unreadable(f"{NOT_OPENED}{error.strerror}")
            return self._decoded(handle, ranged, task)

    def _decoded(self, handle: int, ranged: Ranged | None, task: _Task) -> DecodedVideo:
        """As often as a crash may have been somebody else's fault."""
        decord, kills = self.limits.decord and not task.image, 0
        while True:
            decoded, crash = self._attempt(handle, ranged, task, decord)
            if task.left_s() <= 0:
                return decoded
            if crash == -signal.SIGKILL and kills < KILLS_FORGIVEN:
                kills += 1
            elif crash is not None and decord and ranged is None and not len(decoded.frames):
                decord = False  # which may have crashed where PyAV does not
            else:
                return decoded

    def _attempt(
        self, handle: int, ranged: Ranged | None, task: _Task, decord: bool
    ) -> tuple[DecodedVideo, int | None]:
        """What one child makes of it, and its exit status if it crashed."""
        with memory("frames", self.limits.memory_mb * 2**20) as frames:
            answer = Answer(frames, self.limits.memory_mb * 2**20, task.count)
            try:
                self._make_ready()
                left_s = max(0.0, task.left_s())
                self._deadline, self._watched = time.monotonic() + left_s, 0.0
                self._videos += 1
                job = {"count": task.count, "image": task.image, "timeout_s": left_s, "decord": decord,
                       "bytes": None if ranged is None else ranged.size()}
                self._give(job, [handle, frames])
                while not answer.done:
                    self._hear(answer, handle, ranged, left_s)
                return answer.video(), None
            except Ended as ended:
                self.close()
                return answer.so_far(str(ended)), None
            except _Gone:
                status = self.close()
                return answer.so_far(f"decoder crashed ({_named(status)})"), status
            except BaseException:  # the storage failed, or somebody stopped the job: the child is in the middle
                self.close()
                raise

    def _make_ready(self) -> None:
        for _ in range(START_ATTEMPTS):
            self.start()
            if not self._ready and select.select([self._channel], [], [], START_TIMEOUT_S)[0] and self._received():
                self._ready, self._idle_bytes = True, _resident_bytes(self._child.pid)
            if self._ready:
                return
            status = self.close()
        raise RuntimeError(f"the decoding process does not start (exit status {status}, {START_ATTEMPTS} attempts); what "
                           "it said is in the log before this; is the installation whole?")

    def _give(self, message: dict, handles: Sequence[int] = ()) -> None:
        """Never waits: a child that works has read what it was given before.

        Raises:
            Ended: it asks and asks, and reads no answer.
            _Gone: it is dead.
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))] if handles else []
        try:
            self._channel.sendmsg([json.dumps(message).encode()], rights, socket.MSG_DONTWAIT)  # send_fds ignores flags
        except BlockingIOError:
            raise Ended(NONSENSE) from None
        except ConnectionError:
            raise _Gone from None

    def _received(self) -> bytes:
        try:
            return self._channel.recv(MESSAGE_BYTES)
        except ConnectionError:
            return b""

    def _hear(self, answer: Answer, handle: int, ranged: Ranged | None, timeout_s: float) -> None:
        """One message, or a while without one.

        Raises:
            Ended: time or memory is up, or the child says what it should not.
            _Gone: the child is dead.
        """
        now = time.monotonic()
        if now > self._deadline:
            raise Ended(f"decoding took longer than {timeout_s:g} s")
        if now > self._watched + WATCH_EVERY_S:
            self._watched = now
            if _resident_bytes(self._child.pid) - self._idle_bytes > self.limits.memory_mb * 2**20:
                raise Ended(f"decoding needed more than {self.limits.memory_mb} MB")
        if not select.select([self._channel], [], [], min(WATCH_EVERY_S, self._deadline - now))[0]:
            return
        data = self._received()
        if not data:
            raise _Gone
        wanted = answer.take(data)
        if wanted is not None:
            if ranged is None or sum(wanted) > ranged.size():
                raise Ended(NONSENSE)
            began = time.monotonic()
            fill(handle, ranged, *wanted)
            self._deadline += time.monotonic() - began
            self._give({})


def _named(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _resident_bytes(pid: int) -> int:
    """Memory of a process that is in use, shared frames included; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError):
        return 0
