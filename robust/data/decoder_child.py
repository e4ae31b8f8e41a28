"""The process that opens the files of strangers: `python -m robust.data.decoder_child SOCKET MEMORY_MB`.

Started and watched by robust/data/decoder_process.py, which also says how the two speak. It imports nothing heavy, has
no credentials, writes no file, and reads only the one that it is handed.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import socket
import sys
from collections import OrderedDict

import cv2
import numpy as np

from robust.data.decoded import DecodedVideo, FrameSink, UnreadableVideo, unreadable
from robust.data.decoder_protocol import BLOCK_BYTES, MESSAGE_BYTES
from robust.data.video import read_frames, read_image

BLOCKS = 8
GRACE_S = 30  # a process whose parent was killed while it hung ends by itself this long after the limit


def main() -> None:
    channel, memory = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]) * 2**20
    give_up_rights(memory)
    cv2.setNumThreads(1)
    channel.send(b'{"kind": "ready"}')
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # decoders talk; what is wrong is told in the reason
        os.dup2(nowhere, stream)
    while True:
        data, handles, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 2)
        if not data:
            return
        job = json.loads(data)
        signal.setitimer(signal.ITIMER_REAL, job["timeout_s"] + GRACE_S)
        try:
            decoded = _decode(channel, job, handles, memory)
        finally:
            for handle in handles:
                os.close(handle)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(channel, kind="done", status=decoded.status, reason=decoded.reason[:300])


def give_up_rights(memory: int) -> None:
    """What a decoder does not need, no file shall get: files to write, core dumps, memory without end.

    The limit is on private memory (RLIMIT_DATA): RLIMIT_AS would also count the libraries and the frames, which are
    shared with the parent and of a fixed size. RLIMIT_NPROC counts all processes of the user, and is no use here.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    limit = _private_bytes() + memory
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with open("/proc/self/oom_score_adj", "w") as file:  # should the machine run out of memory, this goes first
        file.write("1000")


def _private_bytes() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))


def _send(channel: socket.socket, **message) -> None:
    channel.send(json.dumps(message).encode())


def _decode(channel: socket.socket, job: dict, handles: list[int], memory: int) -> DecodedVideo:
    content, frames = handles
    source = f"/proc/self/fd/{content}" if job["bytes"] is None else RemoteFile(channel, content, job["bytes"])
    sink = _SharedFrames(channel, mmap.mmap(frames, memory))
    try:
        if job["image"]:
            sink.add(0, 0.0, read_image(source))
            return sink.video("ok", "")
        return read_frames(source, count=job["count"], name="", sink=sink, decord=job["decord"])
    except UnreadableVideo as error:
        return unreadable(str(error))
    except MemoryError:
        return sink.rest(f"decoding needed more than {memory // 2**20} MB")
    except Exception as error:  # a decoder's surprise is this video's alone
        return sink.rest(f"the decoder failed: {type(error).__name__}: {error}"[:200])


class _SharedFrames(FrameSink):
    """Frames go into memory shared with the parent, which is told of each: what is good outlives a crash."""

    def __init__(self, channel: socket.socket, pixels: mmap.mmap):
        self.channel, self.pixels = channel, np.frombuffer(pixels, np.uint8)
        super().__init__()

    def restart(self) -> None:
        super().restart()
        self.used = 0
        _send(self.channel, kind="restart")

    def _keep(self, index: int, time_s: float, image: np.ndarray) -> None:
        if self.used + image.size > len(self.pixels):
            raise MemoryError
        if not self.indices:
            _send(self.channel, kind="size", height=image.shape[0], width=image.shape[1])
        self.pixels[self.used:self.used + image.size].reshape(image.shape)[:] = image
        self.used += image.size
        _send(self.channel, kind="frame", index=index, time_s=time_s)

    def video(self, status: str, reason: str) -> DecodedVideo:
        return DecodedVideo(np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0), np.zeros(0), status, reason)

    def rest(self, reason: str) -> DecodedVideo:
        if not self.indices:
            return unreadable(reason)
        return self.video("partial", f"{reason}; {len(self.indices)} frames are good")


class RemoteFile:
    """A file that the parent reads, a block at a time; the last few are kept, as containers go to and fro."""

    def __init__(self, channel: socket.socket, window: int, size: int):
        self.channel, self.window, self.size = channel, window, size
        self.position, self.blocks = 0, OrderedDict()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def tell(self) -> int:
        return self.position

    def read(self, size: int = -1) -> bytes:
        size = max(0, self.size - self.position) if size < 0 else size
        number, skip = divmod(self.position, BLOCK_BYTES)
        piece = self._block(number)[skip:skip + size] if self.position < self.size else b""
        self.position += len(piece)
        return piece  # maybe less than asked for: who reads asks again

    def _block(self, number: int) -> bytes:
        if number not in self.blocks:
            start = number * BLOCK_BYTES
            size = min(BLOCK_BYTES, self.size - start)
            left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)  # waiting for the storage is not decoding
            _send(self.channel, kind="read", offset=start, size=size)
            if not self.channel.recv(MESSAGE_BYTES):
                raise SystemExit  # the parent is gone
            signal.setitimer(signal.ITIMER_REAL, left_s)
            self.blocks[number] = os.pread(self.window, size, 0)
            if len(self.blocks) > BLOCKS:
                self.blocks.popitem(last=False)
        self.blocks.move_to_end(number)
        return self.blocks[number]


if __name__ == "__main__":
    main()
