"""Object storage: the one place that knows buckets, endpoints, retries and timeouts.

A `Storage` is a tree of objects under one root: a local folder, `s3://bucket/prefix` on AWS or on anything that speaks
its protocol, or `gs://bucket/prefix`. S3 objects go through boto3; Parquet columns, Ray and all of gs:// go through
pyarrow, configured alike. docs/storage.md tells the settings of each kind of store.

Credentials come only from the environment, a profile or the machine's role, in the process that needs them. They are
never held here, so a pickled, printed or logged Storage has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.fs
import pyarrow.parquet

from robust.errors import UserError
from robust.object_stores import Entry, MissingObject
from robust.object_stores.address import bucket_path, is_s3, local_path, scheme_of
from robust.object_stores.gcs import GcsObjects, explain_gcs, gcs_filesystem
from robust.object_stores.local import LocalObjects, partial_path
from robust.object_stores.s3 import S3Objects
from robust.object_stores.s3_arrow import explain_s3_arrow, s3_filesystem

__all__ = ["MissingObject", "Storage", "explain_arrow", "find_input", "is_s3", "open_input"]
OBJECTS = {"s3": S3Objects, "gs": GcsObjects}


class Storage:
    """Objects under one root; keys are '/'-joined and relative to it.

    Every method raises UserError (one sentence: which action, on what, what to do) when the storage refuses or cannot
    be reached, and MissingObject when an object to be read is not there.
    """

    def __init__(self, config):
        """Args: config: a `robust.config.StorageConfig`. Nothing is contacted yet; see `check`."""
        self.config = config
        self.scheme = scheme_of(config.uri)
        self.root = _path_of(config.uri)
        self._objects = LocalObjects(self.root) if self.scheme == "file" else OBJECTS[self.scheme](config, self.root)

    @classmethod
    def from_config(cls, config) -> "Storage":
        return cls(config)

    def __repr__(self) -> str:
        return f"Storage({self.uri('')!r})"

    def uri(self, key: str = "") -> str:
        """The full address of a key: `s3://bucket/prefix/key`, `gs://...`, or an absolute path."""
        path = _join(self.root, key)
        return path if self.scheme == "file" else f"{self.scheme}://{path}"

    def check(self) -> None:
        """Raises UserError, soon, unless the root can be listed: bucket, endpoint and credentials are right."""
        self._objects.check()

    def exists(self, key: str) -> bool:
        return self._objects.exists(_object_key(key))

    def read_bytes(self, key: str) -> bytes:
        return self._objects.read(_object_key(key))

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Writes a whole object at once: readers see the old one or the new one, never a part.

        Args:
            if_absent: write only where there is nothing yet; of several writers exactly one wins.
        Returns:
            False when if_absent was asked and there was an object already.
        """
        return self._objects.write(_object_key(key), data, if_absent)

    def read_json(self, key: str):
        try:
            return json.loads(self.read_bytes(key))
        except ValueError as error:
            raise UserError(f"{self.uri(key)} is not valid JSON ({error}); delete it and run the job again.") from error

    def write_json(self, key: str, value, *, if_absent: bool = False) -> bool:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        return self.write_bytes(key, (text + "\n").encode(), if_absent=if_absent)

    def list(self, prefix: str = "") -> list[str]:
        """Sorted keys of all objects in the folder `prefix` and below it ("a" lists "a/b", not "ab")."""
        return sorted(self._objects.list(_folder_key(prefix)))

    def scan(self, prefix: str = "") -> Iterator[list[Entry]]:
        """(key, size, version) of all objects in a folder and below it, as they come: some thousand at a time, for millions.

        S3 gives them sorted by key. Keys may be such as no other method here takes ("a//b"); those of others' buckets are.
        """
        return self._objects.scan(_folder_key(prefix))

    def delete(self, key: str) -> None:
        """Removes an object; no error when there is none."""
        self._objects.delete([_object_key(key)])

    def delete_prefix(self, prefix: str) -> None:
        """Removes every object in the folder `prefix`. The root itself cannot be named."""
        folder = _folder_key(prefix)
        if not folder:
            raise ValueError("delete_prefix needs a folder; it does not delete the whole storage")
        self._objects.delete(self._objects.list(folder))

    def upload(self, local_path: str | Path, key: str) -> None:
        """Copies a local file to a key, in parts when it is big, as one object."""
        self._objects.upload(Path(local_path), _object_key(key))

    def download(self, key: str, local_path: str | Path) -> None:
        """Copies an object to a local file, which appears only when it is complete."""
        target = Path(local_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(target)
        try:
            self._objects.download(_object_key(key), partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def read_table(self, key: str, columns: list[str] | None = None) -> pyarrow.Table:
        """A Parquet object as a table; with `columns`, only their bytes are fetched."""
        if columns is None:
            source = pyarrow.BufferReader(self.read_bytes(key))
            return _read_parquet(source, None, self.uri(key))
        filesystem, path = self.arrow(key)
        with explain_arrow(self.uri(key), self.config), filesystem.open_input_file(path) as source:
            return _read_parquet(source, columns, self.uri(key))

    def write_table(self, key: str, table: pyarrow.Table, *, if_absent: bool = False) -> bool:
        """Writes a table as one Parquet object (zstd)."""
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, sink, compression="zstd")
        return self.write_bytes(key, sink.getvalue().to_pybytes(), if_absent=if_absent)

    def arrow(self, key: str = "") -> tuple[pyarrow.fs.FileSystem, str]:
        """(filesystem, path) of a key for pyarrow, Ray Data (`filesystem=`) and Ray Train (`storage_filesystem=`).

        The filesystem can be pickled and holds no credentials: each process finds its own.
        """
        return _filesystem(self.scheme, self.config), _join(self.root, key)


def open_input(uri: str, config) -> tuple[pyarrow.fs.FileSystem, str]:
    """(filesystem, path) of something to read: a local path, s3:// or gs://, reached as `config` (StorageConfig) says.

    Raises: UserError: when there is nothing there.
    """
    filesystem, info = find_input(uri, config)
    return filesystem, info.path


def find_input(uri: str, config) -> tuple[pyarrow.fs.FileSystem, pyarrow.fs.FileInfo]:
    """`open_input` with all that was found out by looking whether it is there: path, kind, size, time of change."""
    filesystem = _filesystem(scheme_of(uri), config)
    with explain_arrow(uri, config):
        info = filesystem.get_file_info(_path_of(uri))
    if info.type == pyarrow.fs.FileType.NotFound:
        raise MissingObject(f"{uri} does not exist; check the path, and storage.endpoint_url if it is s3://.")
    return filesystem, info


def _filesystem(scheme: str, config) -> pyarrow.fs.FileSystem:
    if scheme == "s3":
        return s3_filesystem(config)
    return gcs_filesystem(config) if scheme == "gs" else pyarrow.fs.LocalFileSystem()


def _path_of(uri: str) -> str:
    return local_path(uri) if scheme_of(uri) == "file" else bucket_path(uri)


def _folder_key(key: str) -> str:
    parts = key.strip("/").split("/") if key.strip("/") else []
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"bad storage key {key!r}: no empty, '.' or '..' parts")
    return "/".join(parts)


def _object_key(key: str) -> str:
    folder = _folder_key(key)
    if not folder or key.startswith("/") or key.endswith("/"):
        raise ValueError(f"bad storage key {key!r}: it must be relative and name an object")
    return folder


def _join(root: str, key: str) -> str:
    key = _folder_key(key)
    return f"{root.rstrip('/')}/{key}" if key else root


def _read_parquet(source, columns: list[str] | None, uri: str) -> pyarrow.Table:
    try:
        return pyarrow.parquet.ParquetFile(source).read(columns=columns)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{uri} is not a readable Parquet file ({error}); delete it and run the job again.") from error


@contextmanager
def explain_arrow(uri: str, config):
    """What pyarrow raises while something is read, as a UserError of one sentence; MissingObject if it is gone."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingObject(f"{uri} does not exist.") from error
    except (OSError, pyarrow.ArrowException) as error:
        explain = {"s3": explain_s3_arrow, "gs": explain_gcs}.get(scheme_of(uri))
        raise (explain(error, uri, config) if explain else UserError(f"cannot read {uri}: {error}.")) from error
