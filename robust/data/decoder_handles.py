"""File handles that a decoding process is handed: the video, or a window on a far one, and the memory for its frames."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import Protocol

from robust.data.decoder_protocol import BLOCK_BYTES

FAULTS_OF_A_PATH = (None, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO)
"""What opening a file can say of the file; all else is the machine's fault. None: it is no file."""


class Ranged(Protocol):
    """A file read in pieces, e.g. pyarrow.NativeFile of an object in a bucket."""

    def size(self) -> int: ...
    def read_at(self, nbytes: int, offset: int) -> bytes: ...


@contextlib.contextmanager
def memory(name: str, size: int, content: bytes = b"") -> Iterator[int]:
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
def handle_of(source) -> Iterator[tuple[int, Ranged | None]]:
    """(what the child is handed, the source if it is to be read in pieces)."""
    if isinstance(source, bytes):
        with memory("video", len(source), source) as handle:
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
        with memory("window", BLOCK_BYTES) as handle:
            yield handle, source


def fill(window: int, source: Ranged, offset: int, size: int) -> None:
    """Puts a piece of the file where the child looks for it."""
    piece = source.read_at(size, offset)
    if len(piece) != size:
        raise OSError(f"{len(piece)} bytes instead of {size} at {offset}: the object was replaced or cut meanwhile")
    os.pwrite(window, piece, 0)
