"""Decoding in a process of its own, which a file may crash, hang or fill without taking the job with it.

The process is started once and serves video after video; one that died or had to be ended is replaced. A crafted file
may take it over, so it gets no credentials and nothing to write, and its answers are read as data and checked: no
pickle. The two speak over a socket pair, one JSON object a packet:

    to the child    {"count", "timeout_s", "decord", "bytes"} with two file handles: the video (or, where "bytes" tells
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
import errno
import fcntl
import functools
import json
import math
import mmap
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from robust.data.decoded import DecodedVideo, unreadable

START_TIMEOUT_S = 120  # of an interpreter and four libraries, 0.4 s on an idle machine
START_ATTEMPTS = 3
KILLS_FORGIVEN = 2
"""A SIGKILL comes from outside, e.g. from a kernel out of memory: only one that comes again and again tells of the file."""
VIDEOS_OF_A_PROCESS = 256  # then a fresh one: whatever a decoder leaks or a file left behind ends with it
WATCH_EVERY_S = 0.03
MESSAGE_BYTES = 4096
BLOCK_BYTES = 2**21  # the largest piece a child may ask for
LARGEST_SIDE = 2**16
FAULTS_OF_A_PATH = (None, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO)
"""What opening a file can say of the file; all else is the machine's fault. None: it is no file."""
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


class Ranged(Protocol):
    """A file read in pieces, e.g. pyarrow.NativeFile of an object in a bucket."""

    def size(self) -> int: ...
    def read_at(self, nbytes: int, offset: int) -> bytes: ...


@functools.lru_cache(maxsize=4)
def shared_decoder(limits: DecodeLimits) -> DecoderProcess:
    """The decoding process of this process, started when it is first needed."""
    return DecoderProcess(limits)


class _Ended(Exception):
    """The child did not finish; the message is the reason for the video's status."""


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

    def read_frames(self, source: bytes | str | os.PathLike | Ranged, *, count: int) -> DecodedVideo:
        """Decodes `count` frames spread evenly over a video, or all of them if it has fewer.

        Whatever is wrong with the file is told in the result. Errors of a Ranged source pass through.

        Raises:
            OSError: this machine's fault, e.g. too many open files.
            RuntimeError: the decoding process cannot be started at all.
        """
        if count < 1:
            raise ValueError(f"count is {count}, must be at least 1")
        with self._lock, contextlib.ExitStack() as stack:
            try:
                handle, ranged = stack.enter_context(_handle(source))
            except OSError as error:
                if error.errno not in FAULTS_OF_A_PATH:
                    raise
                return unreadable(f"cannot be read: {error.strerror}")
            return self._decoded(handle, ranged, count)

    def _decoded(self, handle: int, ranged: Ranged | None, count: int) -> DecodedVideo:
        """As often as a crash may have been somebody else's fault."""
        decord, kills = self.limits.decord, 0
        while True:
            decoded, crash = self._attempt(handle, ranged, count, decord)
            if crash == -signal.SIGKILL and kills < KILLS_FORGIVEN:
                kills += 1
            elif crash is not None and decord and ranged is None and not len(decoded.frames):
                decord = False  # which may have crashed where PyAV does not
            else:
                return decoded

    def _attempt(self, handle: int, ranged: Ranged | None, count: int, decord: bool) -> tuple[DecodedVideo, int | None]:
        """What one child makes of it, and its exit status if it crashed."""
        with _memory("frames", self.limits.memory_mb * 2**20) as frames:
            answer = _Answer(frames, self.limits.memory_mb * 2**20, count)
            try:
                self._make_ready()
                self._videos += 1
                job = {"count": count, "timeout_s": self.limits.timeout_s, "decord": decord,
                       "bytes": None if ranged is None else ranged.size()}
                self._give(job, [handle, frames])
                while not answer.done:
                    self._hear(answer, handle, ranged)
                return answer.video(), None
            except _Ended as ended:
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
                self._deadline, self._watched = time.monotonic() + self.limits.timeout_s, 0.0
                return
            status = self.close()
        raise RuntimeError(f"the decoding process does not start (exit status {status}, {START_ATTEMPTS} attempts); what "
                           "it said is in the log before this; is the installation whole?")

    def _give(self, message: dict, handles: Sequence[int] = ()) -> None:
        """Never waits: a child that works has read what it was given before.

        Raises:
            _Ended: it asks and asks, and reads no answer.
            _Gone: it is dead.
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))] if handles else []
        try:
            self._channel.sendmsg([json.dumps(message).encode()], rights, socket.MSG_DONTWAIT)  # send_fds ignores flags
        except BlockingIOError:
            raise _Ended(NONSENSE) from None
        except ConnectionError:
            raise _Gone from None

    def _received(self) -> bytes:
        try:
            return self._channel.recv(MESSAGE_BYTES)
        except ConnectionError:
            return b""

    def _hear(self, answer: _Answer, handle: int, ranged: Ranged | None) -> None:
        """One message, or a while without one.

        Raises:
            _Ended: time or memory is up, or the child says what it should not.
            _Gone: the child is dead.
        """
        now = time.monotonic()
        if now > self._deadline:
            raise _Ended(f"decoding took longer than {self.limits.timeout_s:g} s")
        if now > self._watched + WATCH_EVERY_S:
            self._watched = now
            if _resident_bytes(self._child.pid) - self._idle_bytes > self.limits.memory_mb * 2**20:
                raise _Ended(f"decoding needed more than {self.limits.memory_mb} MB")
        if not select.select([self._channel], [], [], min(WATCH_EVERY_S, self._deadline - now))[0]:
            return
        data = self._received()
        if not data:
            raise _Gone
        wanted = answer.take(data)
        if wanted is not None:
            if ranged is None:
                raise _Ended(NONSENSE)
            began = time.monotonic()
            _fill(handle, ranged, *wanted)
            self._deadline += time.monotonic() - began
            self._give({})


NONSENSE = "the decoder answered with something that is no answer"


class _Answer:
    """What the child has said of a video. Nothing in it is believed that could not be true."""

    def __init__(self, memory: int, capacity: int, count: int):
        self.memory, self.capacity, self.count = memory, capacity, count
        self.frames: list[tuple[int, float]] = []  # number, seconds
        self.size = (0, 0)
        self.done, self.status, self.reason = False, "", ""

    def take(self, data: bytes) -> tuple[int, int] | None:
        """Reads a message; returns (offset, size) if the child asks for a piece of the file.

        Raises:
            _Ended: it is no message.
        """
        try:
            message = json.loads(data)
            return self._take(message["kind"], message)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _Ended(NONSENSE) from None

    def _take(self, kind: str, message: dict) -> tuple[int, int] | None:
        if kind == "read":
            return _whole(message["offset"], 0, 2**62), _whole(message["size"], 1, BLOCK_BYTES)
        if kind == "restart":
            self.frames, self.size = [], (0, 0)
        elif kind == "size" and not self.frames:
            self.size = _whole(message["height"], 1, LARGEST_SIDE), _whole(message["width"], 1, LARGEST_SIDE)
        elif kind == "frame" and len(self.frames) < self.count:
            after = self.frames[-1][0] + 1 if self.frames else 0
            frame = _whole(message["index"], after, 2**53), float(message["time_s"])
            used = (len(self.frames) + 1) * self.size[0] * self.size[1] * 3
            if not math.isfinite(frame[1]) or not 0 < used <= self.capacity:
                raise ValueError
            self.frames.append(frame)
        elif kind == "done" and message["status"] in ("ok", "partial", "unreadable") and isinstance(message["reason"], str):
            self.done, self.status = True, message["status"]
            self.reason = "".join(letter for letter in message["reason"][:300] if letter.isprintable())
            if self.status != "unreadable" and not self.frames:
                raise ValueError
        else:
            raise ValueError
        return None

    def video(self) -> DecodedVideo:
        if self.status == "unreadable":
            return unreadable(self.reason)
        height, width = self.size
        shape = (len(self.frames), height, width, 3)
        pixels = mmap.mmap(self.memory, math.prod(shape), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        indices, times = zip(*self.frames)
        return DecodedVideo(np.frombuffer(pixels, np.uint8).reshape(shape), np.array(indices, np.int64),
                            np.array(times, np.float64), self.status, self.reason)

    def so_far(self, reason: str) -> DecodedVideo:
        """The frames of a child that did not finish."""
        if not self.frames:
            return unreadable(reason)
        self.status, self.reason = "partial", f"{reason}; {len(self.frames)} frames are good"
        return self.video()


def _whole(value, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError
    return value


def _named(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _resident_bytes(pid: int) -> int:
    """Memory of a process that is in use, shared frames included; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError):
        return 0


# ---------------------------------------------------------------------------------------------------- file handles


@contextlib.contextmanager
def _memory(name: str, size: int, content: bytes = b"") -> Iterator[int]:
    """A handle of memory that no one can make smaller, or larger, behind the other's back. Unused pages cost nothing."""
    handle = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(handle, size)
        view = memoryview(content)
        while view:
            view = view[os.write(handle, view):]
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _handle(source) -> Iterator[tuple[int, Ranged | None]]:
    """(what the child is handed, the source if it is to be read in pieces)."""
    if isinstance(source, bytes):
        with _memory("video", len(source), source) as handle:
            yield handle, None
    elif isinstance(source, (str, os.PathLike)):
        handle = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe of that name must not block
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(None, "not a file")
            yield handle, None
        finally:
            os.close(handle)
    else:
        with _memory("window", BLOCK_BYTES) as handle:
            yield handle, source


def _fill(window: int, source: Ranged, offset: int, size: int) -> None:
    """Puts a piece of the file where the child looks for it."""
    piece = source.read_at(size, offset)
    if len(piece) != size:
        raise OSError(f"{len(piece)} bytes instead of {size} at {offset}: the object was replaced or cut meanwhile")
    os.pwrite(window, piece, 0)
