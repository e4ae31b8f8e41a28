"""The files of a data set: one listing of a local folder or a bucket prefix, and small reads out of it."""

from __future__ import annotations

import dataclasses
import json
import os
import posixpath
from datetime import datetime, timezone
from functools import cached_property

import pyarrow.fs

from robust.errors import UserError
from robust.storage import open_input

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


@dataclasses.dataclass(frozen=True)
class FoundFile:
    """What a listing tells of a file, by which a changed one is known.

    Args:
        size: bytes.
        version: the time of its last change, ISO 8601 in UTC; None where the store does not tell.
    """

    size: int
    version: str | None


class FileTree:
    """Files below a root, by their '/'-separated path relative to it; listed once, on first use.

    Hidden files and what macOS leaves in archives (`.DS_Store`, `._name`, `__MACOSX/`) are not part of the tree.

    Args:
        filesystem: any pyarrow filesystem.
        root: the root's path within that filesystem.
        uri: how a user writes the root; messages and the rows' uris begin with it. Default: `root`, made absolute.
    """

    def __init__(self, filesystem: pyarrow.fs.FileSystem, root: str, *, uri: str | None = None):
        self._filesystem = filesystem
        self._root = root.rstrip("/") or "/"
        self.root_uri = (uri or os.path.abspath(root)).rstrip("/")

    @classmethod
    def open(cls, uri: str, storage_config=None) -> FileTree:
        """Open a root that is a local folder or s3://bucket/prefix; `storage_config` is `config.storage`."""
        filesystem, path = open_input(uri, storage_config)
        is_local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
        return cls(filesystem, path, uri=os.path.abspath(path) if is_local else uri)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """All files, sorted.

        Raises:
            UserError: as `found`.
        """
        return tuple(sorted(self.found))

    @cached_property
    def found(self) -> dict[str, FoundFile]:
        """All files with their size and version; one listing, whatever is asked of the tree.

        Raises:
            UserError: the root does not exist, is a file, or can not be listed.
        """
        selector = pyarrow.fs.FileSelector(self._root, recursive=True)
        try:
            entries = self._filesystem.get_file_info(selector)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"no folder at {self.root_uri}; set the `uri` of this entry of data.datasets") from error
        except OSError as error:
            raise UserError(f"can not list {self.root_uri}: {error}") from error
        files = ((self._relative(entry.path), entry) for entry in entries if entry.type == pyarrow.fs.FileType.File)
        return {path: FoundFile(entry.size, _version(entry)) for path, entry in files if not is_hidden(path)}

    @cached_property
    def folders(self) -> frozenset[str]:
        """All folders that hold a file, at any depth."""
        folders = set()
        for path in self.files:
            while path := posixpath.dirname(path):
                folders.add(path)
        return frozenset(folders)

    def subfolders(self, folder: str = "") -> list[str]:
        """Names of the folders directly below `folder`, sorted."""
        return sorted(posixpath.basename(path) for path in self.folders if posixpath.dirname(path) == folder)

    def below(self, folder: str) -> list[str]:
        """All files below `folder`, at any depth, sorted."""
        prefix = f"{folder}/" if folder else ""
        return [path for path in self.files if path.startswith(prefix)]

    def videos(self, folder: str) -> list[str]:
        """All videos below `folder`, by suffix, at any depth, sorted."""
        return [path for path in self.below(folder) if is_video(path)]

    def has_file(self, path: str) -> bool:
        return path in self.found

    def uri(self, path: str) -> str:
        """The full uri of a file of this tree: an absolute local path or s3://..."""
        return f"{self.root_uri}/{path}"

    def read_bytes(self, path: str) -> bytes:
        """A whole file. Raises UserError: it can not be read."""
        try:
            with self._filesystem.open_input_file(posixpath.join(self._root, path)) as file:
                return file.read()
        except OSError as error:
            raise UserError(f"can not read {self.uri(path)}: {error}") from error

    def read_text(self, path: str) -> str:
        """The text of a small file (a list, a json), UTF-8 with or without a byte order mark.

        Raises:
            UserError: the file can not be read or is not UTF-8.
        """
        try:
            with self._filesystem.open_input_file(posixpath.join(self._root, path)) as file:
                return file.read().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"can not read {self.uri(path)}: {error}") from error

    def read_json(self, path: str):
        """The content of a JSON file.

        Raises:
            UserError: it can not be read or is not JSON.
        """
        try:
            return json.loads(self.read_text(path))
        except json.JSONDecodeError as error:
            raise UserError(f"{self.uri(path)} is not valid JSON ({error}); unpack the data set again") from error

    def _relative(self, path: str) -> str:
        return posixpath.relpath(path, self._root)


def _version(entry: pyarrow.fs.FileInfo) -> str | None:
    return entry.mtime.astimezone(timezone.utc).isoformat() if isinstance(entry.mtime, datetime) else None


def is_video(path: str) -> bool:
    return path.lower().endswith(VIDEO_SUFFIXES)


def is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
