"""Objects in a Google Cloud Storage bucket, through pyarrow. Credentials are Google's application default ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow
import pyarrow.fs

from robust.errors import StorageError
from robust.object_stores import Entry, MissingObject
from robust.object_stores.address import checked_endpoint
from robust.object_stores.claims import CLAIMS, write_claimed
from robust.object_stores.kept import kept
from robust.object_stores.local import explain_local

COPY_BYTES = 4 * 2**20
SCAN_PAGE = 1000


class GcsObjects:
    """Objects in a bucket. pyarrow has no conditional write for GCS, so `if_absent` goes by claims."""

    def __init__(self, config, root: str):
        self.config, self.root = config, root

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}" if key else self.root

    def _explained(self, action: str, key: str):
        return _explained(action, f"gs://{self._path(key)}")

    @property
    def _files(self) -> pyarrow.fs.GcsFileSystem:
        return gcs_filesystem(self.config)

    def check(self) -> None:
        few = self.config.model_copy(update={"retry_budget_s": min(5.0, self.config.retry_budget_s)})
        bucket = self.root.partition("/")[0]
        with self._explained("list", ""):
            found = gcs_filesystem(few).get_file_info(bucket)
        if found.type == pyarrow.fs.FileType.NotFound:
            raise StorageError(
                f"there is no bucket {bucket!r} on Google Cloud Storage; create it, or correct storage.uri."
            )

    def exists(self, key: str) -> bool:
        with self._explained("read", key):
            return self._files.get_file_info(self._path(key)).is_file

    def read(self, key: str) -> bytes:
        with self._explained("read", key), self._files.open_input_stream(self._path(key)) as source:
            return source.read()

    def download(self, key: str, partial: Path) -> None:
        with explain_local("write", partial), open(partial, "wb") as sink, self._explained("read", key):
            with self._files.open_input_stream(self._path(key)) as source:
                shutil.copyfileobj(source, sink, COPY_BYTES)

    def write(self, key: str, data: bytes, if_absent: bool) -> bool:
        if if_absent:
            return write_claimed(self, key, data, budget_s=self.config.retry_budget_s)
        self._put(key, data)
        return True

    def upload(self, local_path: Path, key: str) -> None:
        with explain_local("read", local_path), pyarrow.memory_map(str(local_path)) as source:
            content = source.read_buffer()
        self._put(key, content)

    def _put(self, key: str, content) -> None:
        """In one write: leaving the stream makes an object of what was written so far, after an error too."""
        with self._explained("write", key), self._files.open_output_stream(self._path(key)) as sink:
            sink.write(content)

    def list(self, folder: str) -> list[str]:
        return [key for key in self.list_times(folder) if not key.startswith(f"{CLAIMS}/")]

    def list_times(self, folder: str) -> dict[str, datetime]:
        """Every key below a folder and when it was written, by the server's clock."""
        return {key: entry.mtime for key, entry in self._entries(folder)}

    def scan(self, folder: str) -> Iterator[list[Entry]]:
        """See Storage.scan; versions are times of change. pyarrow lists everything before it gives anything."""
        entries = self._entries(folder)
        for start in range(0, len(entries), SCAN_PAGE):
            page = entries[start : start + SCAN_PAGE]
            yield [(key, entry.size, entry.mtime and entry.mtime.isoformat()) for key, entry in page]

    def _entries(self, folder: str) -> list[tuple[str, pyarrow.fs.FileInfo]]:
        selector = pyarrow.fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        with self._explained("list", folder):
            found = self._files.get_file_info(selector)
        return [(entry.path[len(self.root) + 1 :], entry) for entry in found if entry.is_file]

    def delete(self, keys: list[str]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._delete, keys))

    def _delete(self, key: str) -> None:
        try:
            with self._explained("delete", key):
                self._files.delete_file(self._path(key))
        except MissingObject:
            pass


@kept
def gcs_filesystem(config) -> pyarrow.fs.GcsFileSystem:
    """Google's, or config.endpoint_url (a private endpoint). It can be pickled and holds no credentials."""
    endpoint = urlsplit(checked_endpoint(config.endpoint_url)) if config.endpoint_url else None
    override = {"scheme": endpoint.scheme, "endpoint_override": endpoint.netloc} if endpoint else {}
    return pyarrow.fs.GcsFileSystem(retry_time_limit=timedelta(seconds=max(1.0, config.retry_budget_s)), **override)


@contextmanager
def _explained(action: str, uri: str):
    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:  # the latter of credentials that cannot be read
        raise explain_gcs(error, uri, action=action) from error


def explain_gcs(error: Exception, uri: str, config=None, *, action: str = "read") -> StorageError:
    """What Google's client reports through pyarrow, in one sentence."""
    if isinstance(error, FileNotFoundError):
        return MissingObject(f"{uri} does not exist on Google Cloud Storage.")
    text = str(error)
    return StorageError(f"cannot {action} {uri}: {_why(text)} ({text.splitlines()[0][:200]}).")


def _why(text: str) -> str:
    if "OAuth2 access token" in text or "UNAUTHENTICATED" in text:
        return (
            "no usable Google credentials: set GOOGLE_APPLICATION_CREDENTIALS to a key file, run gcloud auth "
            "application-default login, or give the machines a service account"
        )
    if "PERMISSION_DENIED" in text or "FORBIDDEN" in text:
        return (
            "access denied: the service account needs storage.objects.get, .list, .create and .delete there (roles/"
            "storage.objectUser), and storage.buckets.get"
        )
    if "UNAVAILABLE" in text or "DEADLINE_EXCEEDED" in text:
        return "Google Cloud Storage does not answer: check the network, and storage.endpoint_url if you set one"
    return "the store refuses; check storage.uri and what the credentials may do"
