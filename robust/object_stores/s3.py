"""Objects in an S3 bucket, through boto3: AWS, and whatever speaks its protocol."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from robust.errors import StorageError
from robust.object_stores import Entry, MissingObject
from robust.object_stores.address import is_aws
from robust.object_stores.claims import CLAIMS, write_claimed
from robust.object_stores.local import explain_local
from robust.object_stores.retry import PASSING_CODES, Tries
from robust.object_stores.s3_client import Connection, connect
from robust.object_stores.s3_errors import explained

MULTIPART_BYTES = 32 * 2**20
READ_BYTES = 4 * 2**20
LIST_PAGE = 1000  # the most that S3 gives
PROBE = ".conditional-write"
SHA256, WRITER = "sha256", "writer"
"""User metadata of an object: the checksum of its content, and a random name of the one write that made it."""


class S3Objects:
    """Objects in a bucket. It holds settings only; the process's client is found, or made, at each use."""

    def __init__(self, config, root: str):
        self.config = config
        self.bucket, _, self.prefix = root.partition("/")

    @property
    def connection(self) -> Connection:
        return connect(self.config)

    @property
    def client(self):
        return self.connection.client

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _address(self, key: str) -> dict:
        return {"Bucket": self.bucket, "Key": self._name(key)}

    def _explained(self, key: str):
        return explained(f"s3://{self.bucket}/{self._name(key)}", self.bucket, self.config)

    def _tries(self) -> Tries:
        return Tries(self.config.max_attempts, self.config.retry_budget_s)

    def check(self) -> None:
        few = self.config.model_copy(update={"max_attempts": min(3, self.config.max_attempts)})
        with explained(f"s3://{self.bucket}/{self.prefix}", self.bucket, few):
            connect(few).client.list_objects_v2(Bucket=self.bucket, Prefix=self._name(""), MaxKeys=1)

    def exists(self, key: str) -> bool:
        try:
            with self._explained(key):
                self.client.head_object(**self._address(key))
            return True
        except MissingObject:
            return False

    def read(self, key: str) -> bytes:
        sink = io.BytesIO()
        self._fetch(key, sink)
        return sink.getvalue()

    def download(self, key: str, partial: Path) -> None:
        with explain_local("write", partial), open(partial, "wb") as sink:
            self._fetch(key, sink)

    def _fetch(self, key: str, sink) -> None:
        """Writes an object to an empty sink. A body that is cut short is continued, if the object is still the same."""
        from botocore import exceptions

        broken = (
            exceptions.IncompleteReadError,
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            DamagedObject,
            exceptions.FlexibleChecksumError,
        )
        tries, state = self._tries(), _Fetched()
        with self._explained(key):
            while True:
                answer = self._ask(key, state)  # what is not answered was asked again by the client already
                try:
                    return self._take(answer, key, sink, state, tries)
                except broken as error:
                    if isinstance(error, (DamagedObject, exceptions.FlexibleChecksumError)):
                        state.forget(sink)
                    if not tries.sleep():
                        raise

    def _ask(self, key: str, state: _Fetched) -> dict:
        from botocore.exceptions import ClientError

        if state.size:
            try:
                return self.client.get_object(**self._address(key), Range=f"bytes={state.size}-")
            except ClientError as error:
                if _status(error) != 416:  # by now the object is another one that is no longer than that
                    raise
        return self.client.get_object(**self._address(key))

    def _take(self, answer: dict, key: str, sink, state: _Fetched, tries: Tries) -> None:
        continues = (
            answer.get("ContentRange", "").startswith(f"bytes {state.size}-") and answer.get("ETag") == state.etag
        )
        if not continues:  # the beginning, or another object by now, or a server that knows no ranges
            state.forget(sink)
        state.etag = answer.get("ETag")
        while part := answer["Body"].read(READ_BYTES):
            sink.write(part)
            if state.add(part):
                tries.restart()
        expected = answer.get("Metadata", {}).get(SHA256)
        if expected is not None and state.sha256.hexdigest() != expected:
            raise DamagedObject(
                f"s3://{self.bucket}/{self._name(key)} does not have the SHA-256 that it was written with; delete "
                "it and run the job again."
            )

    def write(self, key: str, data: bytes, if_absent: bool) -> bool:
        with self._explained(key):
            if if_absent:
                return self._write_if_absent(key, data)
            if len(data) < MULTIPART_BYTES:
                self.client.put_object(**self._address(key), Body=data, Metadata=_metadata(data))
            else:
                self._upload(key, io.BytesIO(data), _metadata(data))
            return True

    def upload(self, local_path: Path, key: str) -> None:
        with explain_local("read", local_path), open(local_path, "rb") as source, self._explained(key):
            metadata = {SHA256: hashlib.file_digest(source, "sha256").hexdigest(), WRITER: uuid.uuid4().hex}
            source.seek(0)
            self._upload(key, source, metadata)

    def _upload(self, key: str, source, metadata: dict) -> None:
        from boto3.s3.transfer import TransferConfig
        from botocore.exceptions import ClientError

        parts = TransferConfig(
            multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=4
        )
        try:
            self.client.upload_fileobj(source, **self._address(key), Config=parts, ExtraArgs={"Metadata": metadata})
        except ClientError as error:
            # The answer to the last step was lost, and sent again it met no upload any more, because that was complete.
            if error.response["Error"]["Code"] != "NoSuchUpload" or not self._is_ours(key, metadata[WRITER]):
                raise

    def _write_if_absent(self, key: str, data: bytes) -> bool:
        if not self._honours_conditions():
            return write_claimed(self, key, data, budget_s=self.config.retry_budget_s)
        metadata, tries = _metadata(data), self._tries()
        while True:
            refusal = self._put_if_absent(key, data, metadata)
            if refusal is None:
                return True
            if _status(refusal) == 412:
                # The answer to our own write may have been lost, and the same write sent again: then we met ourselves.
                return self._is_ours(key, metadata[WRITER])
            if (
                _status(refusal) != 409 or not tries.sleep()
            ):  # 409: another one is writing just now; who wins is not yet known
                raise refusal

    def _put_if_absent(self, key: str, data: bytes, metadata: dict):
        """None, or the server's refusal (ClientError)."""
        from botocore.exceptions import ClientError

        try:
            self.client.put_object(**self._address(key), Body=data, IfNoneMatch="*", Metadata=metadata)
            return None
        except ClientError as error:
            return error

    def _honours_conditions(self) -> bool:
        """Whether this store refuses a second `If-None-Match: *`; some take the header and overwrite.

        Learned once a process and bucket, by writing one empty object below the root until it is refused.
        """
        known = self.connection.conditional
        if self.bucket not in known:
            known[self.bucket] = is_aws(self.config) or self._probe() or self._probe()
        return known[self.bucket]

    def _probe(self) -> bool:
        refusal = self._put_if_absent(PROBE, b"", {})
        if refusal is None or _status(refusal) == 501 or refusal.response["Error"]["Code"] == "NotImplemented":
            return False
        if _status(refusal) in (409, 412):
            return True
        raise refusal

    def _is_ours(self, key: str, writer: str) -> bool:
        try:
            with self._explained(key):
                return self.client.head_object(**self._address(key)).get("Metadata", {}).get(WRITER) == writer
        except MissingObject:
            return False

    def list(self, folder: str) -> list[str]:
        return [key for key in self.list_times(folder) if key != PROBE and not key.startswith(f"{CLAIMS}/")]

    def list_times(self, folder: str) -> dict[str, datetime]:
        """Every key below a folder and when it was written, by the server's clock; a thousand keys a request."""
        return {key: entry["LastModified"] for page in self._pages(folder) for key, entry in page}

    def scan(self, folder: str) -> Iterator[list[Entry]]:
        """See Storage.scan; versions are ETags."""
        for page in self._pages(folder):
            yield [(key, entry["Size"], entry.get("ETag", "").strip('"') or None) for key, entry in page]

    def _pages(self, folder: str) -> Iterator[list[tuple[str, dict]]]:
        """(key, what the server says of it), a page a request; folder markers of other tools are left out."""
        top = self._name(folder).rstrip("/")
        skip = len(self.prefix) + 1 if self.prefix else 0
        with self._explained(folder):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=f"{top}/" if top else "", PaginationConfig={"PageSize": LIST_PAGE})
            for page in pages:
                entries = page.get("Contents", [])
                yield [(entry["Key"][skip:], entry) for entry in entries if not entry["Key"].endswith("/")]

    def delete(self, keys: list[str]) -> None:
        for start in range(0, len(keys), 1000):
            self._delete(keys[start : start + 1000])

    def _delete(self, keys: list[str]) -> None:
        """At most a thousand, in one request; what the server was too busy for is asked again."""
        tries, names = self._tries(), [self._name(key) for key in keys]
        while names:
            with self._explained(keys[0]):
                asked = {"Objects": [{"Key": name} for name in names], "Quiet": True}
                refused = self.client.delete_objects(Bucket=self.bucket, Delete=asked).get("Errors", [])
            names = [refusal["Key"] for refusal in refused]
            final = [refusal for refusal in refused if refusal.get("Code") not in PASSING_CODES]
            if final or (names and not tries.sleep()):
                first = (final or refused)[0]
                raise StorageError(
                    f"cannot delete s3://{self.bucket}/{first['Key']} and {len(names) - 1} more: {first.get('Code')}; "
                    f"{self.connection.identity()} needs s3:DeleteObject on it."
                )


class DamagedObject(StorageError):
    """What was read is not what was written."""


class _Fetched:
    """What has come of an object so far."""

    def __init__(self):
        self.farthest = 0
        self._begin()

    def _begin(self) -> None:
        self.etag, self.size, self.sha256 = None, 0, hashlib.sha256()

    def add(self, part: bytes) -> bool:
        """Whether that is farther than ever; a body that is begun again and again makes no progress."""
        self.size += len(part)
        self.sha256.update(part)
        progress = self.size > self.farthest
        self.farthest = max(self.farthest, self.size)
        return progress

    def forget(self, sink) -> None:
        sink.seek(0)
        sink.truncate()
        self._begin()


def _metadata(data: bytes) -> dict[str, str]:
    return {SHA256: hashlib.sha256(data).hexdigest(), WRITER: uuid.uuid4().hex}


def _status(refusal) -> int:
    return refusal.response["ResponseMetadata"].get("HTTPStatusCode", 0)
