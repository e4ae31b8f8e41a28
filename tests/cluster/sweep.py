"""Looks for secrets where none may be: in files, in object storage, and in the command line of every process."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from robust.storage import Storage


class ProcessList(threading.Thread):
    """`with ProcessList(secrets) as seen: ...; seen.hits`: what `ps` shows everybody, looked at all the time."""

    def __init__(self, secrets: Iterable[str]):
        super().__init__(daemon=True)
        self.secrets, self.hits, self.looked_at, self._ended = encoded(secrets), set(), set(), threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.2):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    line = (folder / "cmdline").read_bytes()
                except OSError:  # it has ended
                    continue
                self.looked_at.add(folder.name)
                if any(secret in line for secret in self.secrets):
                    self.hits.add(line[:120].replace(b"\0", b" ").decode(errors="replace"))

    def __enter__(self) -> ProcessList:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self.join()


def in_files(folder: Path, secrets: Iterable[str], *, besides: Iterable[Path] = ()) -> tuple[list[str], int]:
    """Files below the folder that hold a secret, and how many were read; `besides`: where it belongs."""
    wanted, skipped, hits, read = encoded(secrets), {path.resolve() for path in besides}, [], 0
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.resolve() in skipped:
            continue
        try:
            content = path.read_bytes()
        except OSError:  # removed meanwhile
            continue
        read += 1
        hits += [str(path)] * any(secret in content for secret in wanted)
    return hits, read


def in_storage(storage: Storage, secrets: Iterable[str]) -> tuple[list[str], int]:
    """Keys whose object holds a secret, and how many there are."""
    wanted, keys = encoded(secrets), list(storage.list(""))
    return [key for key in keys if any(secret in storage.read_bytes(key) for secret in wanted)], len(keys)


def encoded(secrets: Iterable[str]) -> list[bytes]:
    return [secret.encode() for secret in secrets]
