"""A file on its way in: counted as it comes, on disk without a name, gone with the last who holds it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import weakref
from collections.abc import AsyncIterator, Mapping

from robust.detection import IMAGE, VIDEO, kind_of
from robust.serving.errors import ServiceError

MIB = 2**20
HEAD_BYTES = 16
LONGEST_NAME = 255
FORM = "multipart/form-data"  # not x-www-form-urlencoded, which is what curl calls any file
IMAGE_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")


class Upload:
    """The bytes of a file. No path leads to it but `path`, in this process; threads that read it keep it open.

    Attributes:
        size: bytes; sha256: of them, hexadecimal.
        head: the first ones.
    """

    def __init__(self):
        with tempfile.TemporaryFile(buffering=0) as file:  # of mode 600, and never linked into the folder
            self._handle = os.dup(file.fileno())
        self._close = weakref.finalize(self, os.close, self._handle)
        self._hash = hashlib.sha256()
        self.size, self.head = 0, b""

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self._handle}"

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def add(self, piece: bytes) -> None:
        """Raises: OSError: the disk is full."""
        self._hash.update(piece)
        self.size += len(piece)
        if len(self.head) < HEAD_BYTES:
            self.head += piece[:HEAD_BYTES - len(self.head)]
        view = memoryview(piece)
        while view:
            view = view[os.write(self._handle, view):]


def require_acceptable(headers: Mapping[str, str], max_bytes: int) -> None:
    """Refuses by its headers what need not be received.

    Raises:
        ServiceError: 411 without a length, 413 above `max_bytes`, 415 a form.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == FORM:
        raise ServiceError(415, "send the file itself as the body, no form: curl --data-binary @FILE")
    length = headers.get("content-length")
    if length is None:
        raise ServiceError(411, "tell the file's size in Content-Length; a body in chunks is not taken")
    if not (length.isascii() and length.isdigit()):
        raise ServiceError(400, "Content-Length is no number")
    if len(length) > 18 or int(length) > max_bytes:
        raise _too_large(max_bytes)
    if int(length) == 0:
        raise _empty()


async def receive(pieces: AsyncIterator[bytes], max_bytes: int) -> Upload:
    """The body of a request.

    Raises:
        ServiceError: 413 as soon as more than `max_bytes` came, 400 if nothing came, 503 if the disk is full.
    """
    upload = Upload()
    async for piece in pieces:
        if upload.size + len(piece) > max_bytes:
            raise _too_large(max_bytes)
        try:
            await asyncio.to_thread(upload.add, piece)
        except OSError as error:
            raise ServiceError(503, "there is no room for the file at present", retry_after="60") from error
    if upload.size == 0:
        raise _empty()
    return upload


def kind_of_upload(name: str, head: bytes) -> str:
    """VIDEO or IMAGE, by its name as in jobs.detect, and by its first bytes where the name does not tell."""
    is_image = head.startswith(IMAGE_BEGINNINGS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
    return kind_of(name) or (IMAGE if is_image else VIDEO)


def clean_name(name: str | None) -> str:
    """How to call the file in the answer: what it was called, without folders and what cannot be printed."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:LONGEST_NAME] or "upload"


def _too_large(max_bytes: int) -> ServiceError:
    return ServiceError(413, f"the file is larger than {max_bytes / MIB:g} MiB (serve.max_upload_mb)", connection="close")


def _empty() -> ServiceError:
    return ServiceError(400, "the body is empty; send a video or an image as the body")
