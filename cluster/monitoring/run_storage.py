"""A run's storage for a reader beside the job: also where the S3 server is the job's own and ends with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.environment import environment
from cluster.s3_server import OPENER, OTHERS, S3Server
from robust.config import Config
from robust.object_stores.address import bucket_of
from robust.storage import Storage


class RunStorage:
    """Opens the storage again and again; `with storage.open() as opened: ...` gives None where nothing can be new.

    A job's S3 server is joined while it runs. When none runs, it is started here for a moment, once after each job; again
    if what was to be read then was not read to its end.
    """

    def __init__(self, config: Config):
        self.config, self.folder = config, Path(config.cluster.outputs).absolute() / "s3"
        self._seen: float | None = None  # when the port was written of the last server from which all was read

    @contextmanager
    def open(self) -> Iterator[Storage | None]:
        """Raises: UserError: the bucket refuses or cannot be reached; or a job takes the folder in this moment."""
        bucket, port = self.config.storage.uri, self.folder / "port"
        if not self.config.cluster.local_s3:
            yield Storage.from_config(self.config.storage)
        elif not port.exists() or not (self.folder / "keys.json").exists():
            yield None  # no job has run yet
        elif (running := _running(port)) is not None:
            server = S3Server.at(self.folder, bucket=bucket_of(bucket), port=running)
            with environment(server.environment, without=OTHERS):
                yield Storage.from_config(self.config.storage)
        elif port.stat().st_mtime == self._seen:
            yield None
        else:
            with (
                S3Server(self.folder, bucket=bucket_of(bucket)) as server,
                environment(server.environment, without=OTHERS),
            ):
                started = port.stat().st_mtime
                yield Storage.from_config(self.config.storage)
                self._seen = started


def _running(path: Path) -> int | None:
    """The port in the file, if a server answers there."""
    try:
        port = int(path.read_text())
        with OPENER.open(f"http://127.0.0.1:{port}/healthz", timeout=2):
            return port
    except (OSError, ValueError):
        return None
