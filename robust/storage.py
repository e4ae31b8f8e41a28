"""Object storage: the one place that knows S3, endpoints, retries and timeouts.

A `Storage` is a tree of objects under one root: a local folder, or `s3://bucket/prefix` on AWS or on anything that
speaks its protocol. Objects go through boto3; Parquet columns and Ray go through pyarrow, configured alike.

Credentials come only from the environment, a profile or the machine's role, in the process that needs them. They are
never held here, so a pickled, printed or logged Storage has none.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import uuid
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow
import pyarrow.fs
import pyarrow.parquet

from robust.errors import ConfigError, UserError

MULTIPART_BYTES = 32 * 2**20
PARTIAL = ".partial"


class MissingObject(UserError):
    """There is no object under this key."""


class Storage:
    """Objects under one root; keys are '/'-joined and relative to it.

    Every method raises UserError (one sentence: which action, on what, what to do) when the storage refuses or cannot
    be reached, and MissingObject when an object to be read is not there.
    """

    def __init__(self, config):
        """Args: config: a `robust.config.StorageConfig`. Nothing is contacted yet; see `check`."""
        self.config = config
        self.is_s3 = is_s3(config.uri)
        self.root = _bucket_path(config.uri) if self.is_s3 else _local_path(config.uri)
        self._objects = _S3Objects(config, self.root) if self.is_s3 else _LocalObjects(self.root)

    @classmethod
    def from_config(cls, config) -> "Storage":
        return cls(config)

    def __repr__(self) -> str:
        return f"Storage({self.uri('')!r})"

    def uri(self, key: str = "") -> str:
        """The full address of a key: `s3://bucket/prefix/key`, or an absolute path."""
        path = _join(self.root, key)
        return f"s3://{path}" if self.is_s3 else path

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
        partial = _partial(target)
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
        with _explain_arrow(self.uri(key)), filesystem.open_input_file(path) as source:
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
        filesystem = S3FileSystem(self.config) if self.is_s3 else pyarrow.fs.LocalFileSystem()
        return filesystem, _join(self.root, key)


def open_input(uri: str, config) -> tuple[pyarrow.fs.FileSystem, str]:
    """(filesystem, path) of something to read: a local path or s3://, reached as `config` (StorageConfig) says.

    Raises: UserError: when there is nothing there.
    """
    filesystem = S3FileSystem(config) if is_s3(uri) else pyarrow.fs.LocalFileSystem()
    path = _bucket_path(uri) if is_s3(uri) else _local_path(uri)
    with _explain_arrow(uri):
        found = filesystem.get_file_info(path).type != pyarrow.fs.FileType.NotFound
    if not found:
        raise MissingObject(f"{uri} does not exist; check the path, and storage.endpoint_url if it is s3://.")
    return filesystem, path


class S3FileSystem(pyarrow.fs.S3FileSystem):
    """pyarrow's S3 filesystem as a StorageConfig says, also after a trip to another process.

    pyarrow's own forgets its retry strategy when pickled, and does not read AWS_ENDPOINT_URL or AWS_CA_BUNDLE.
    """

    def __init__(self, config):
        self.config = config
        endpoint = urlsplit(endpoint_url(config) or "")
        super().__init__(
            region=config.region,
            scheme=endpoint.scheme or "https",
            endpoint_override=endpoint.netloc or None,
            force_virtual_addressing=config.addressing_style == "virtual",
            connect_timeout=config.connect_timeout_s,
            request_timeout=config.read_timeout_s,
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=config.max_attempts),
            tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE"),
        )

    def __reduce__(self):
        return S3FileSystem, (self.config,)


# ---------------------------------------------------------------------------------------------------- addresses


def is_s3(uri: str) -> bool:
    """Whether a uri names S3. Raises ConfigError for another scheme."""
    scheme, separator, _ = uri.partition("://")
    if separator and scheme not in ("s3", "file"):
        raise ConfigError(f"{scheme}:// is not supported: give a local folder or s3://bucket/prefix (Google Cloud "
                          "Storage speaks S3 too: storage.endpoint_url=https://storage.googleapis.com).")
    return scheme == "s3" and bool(separator)


def endpoint_url(config) -> str | None:
    """The S3 endpoint: config.endpoint_url, else AWS_ENDPOINT_URL_S3, else AWS_ENDPOINT_URL, else None (AWS)."""
    url = config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    if url is None:
        return None
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError("storage.endpoint_url holds a user or a password; give credentials in the environment.")
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ConfigError(f"storage.endpoint_url is {url!r}; it must look like http://host:port or https://host.")
    return f"{parts.scheme}://{parts.netloc}"


def bucket_of(uri: str) -> str:
    """The bucket of an s3:// uri."""
    return _bucket_path(uri).partition("/")[0]


def _bucket_path(uri: str) -> str:
    path = uri.removeprefix("s3://").strip("/")
    bucket, _, prefix = path.partition("/")
    if "@" in bucket or ":" in bucket:
        raise ConfigError("an s3:// address holds no credentials: give them in the environment, and s3://bucket/prefix.")
    if not bucket:
        raise ConfigError(f"{uri!r} names no bucket; it must look like s3://bucket/prefix.")
    return _join(bucket, prefix)


def _local_path(uri: str) -> str:
    if not uri:
        raise ConfigError("storage.uri is empty; give a local folder or s3://bucket/prefix.")
    return str(Path(uri.removeprefix("file://")).expanduser().absolute())


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


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}{PARTIAL}")


# ---------------------------------------------------------------------------------------------------- local folder


class _LocalObjects:
    """Objects as files. A write goes to a hidden partial file beside its target, then takes the target's name."""

    def __init__(self, root: str):
        self.root = root

    def _path(self, key: str) -> Path:
        return Path(self.root, key)

    def check(self) -> None:
        with _explain_local("create", self.root):
            Path(self.root).mkdir(parents=True, exist_ok=True)
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise UserError(f"the folder {self.root} cannot be written; change storage.uri or its permissions.")

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def read(self, key: str) -> bytes:
        with _explain_local("read", self._path(key)):
            return self._path(key).read_bytes()

    def write(self, key: str, data: bytes, if_absent: bool) -> bool:
        with self._written(key, if_absent) as (partial, outcome):
            partial.write_bytes(data)
        return outcome["written"]

    def upload(self, local_path: Path, key: str) -> None:
        with self._written(key, if_absent=False) as (partial, _):
            shutil.copyfile(local_path, partial)

    def download(self, key: str, partial: Path) -> None:
        with _explain_local("read", self._path(key)):
            shutil.copyfile(self._path(key), partial)

    @contextmanager
    def _written(self, key: str, if_absent: bool):
        """Gives a partial file to fill; at the end it becomes the object."""
        target, outcome = self._path(key), {"written": True}
        partial = _partial(target)
        with _explain_local("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield partial, outcome
                if if_absent:
                    outcome["written"] = _link(partial, target)
                else:
                    partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)

    def list(self, folder: str) -> list[str]:
        top = Path(self.root, folder)
        files = (Path(parent, name) for parent, _, names in os.walk(top) for name in names)
        return [path.relative_to(self.root).as_posix() for path in files
                if not (path.name.startswith(".") and path.name.endswith(PARTIAL))]

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            with _explain_local("delete", self._path(key)):
                self._path(key).unlink(missing_ok=True)


def _link(source: Path, target: Path) -> bool:
    """Gives a file a second name; False when the name is taken. Atomic, unlike looking first."""
    try:
        os.link(source, target)
        return True
    except FileExistsError:
        return False


@contextmanager
def _explain_local(action: str, path):
    try:
        yield
    except FileNotFoundError as error:
        raise MissingObject(f"cannot {action} {path}: {error.filename or path} does not exist.") from error
    except OSError as error:
        raise UserError(f"cannot {action} {path}: {error.strerror or error}; check the folder's permissions, type and "
                        "free space.") from error


# ---------------------------------------------------------------------------------------------------- S3


class _S3Objects:
    """Objects in a bucket. The client is made on first use in each process, from that process's environment."""

    def __init__(self, config, root: str):
        self.config = config
        self.bucket, _, self.prefix = root.partition("/")
        self._forget_client()

    def _forget_client(self) -> None:
        self._client, self._client_pid, self._lock = None, None, threading.Lock()

    def __getstate__(self) -> dict:
        return {"config": self.config, "bucket": self.bucket, "prefix": self.prefix}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget_client()

    @property
    def client(self):
        if self._client_pid != os.getpid():
            with self._lock:
                if self._client_pid != os.getpid():
                    self._client = _make_client(self.config)
                    self._client_pid = os.getpid()
        return self._client

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _address(self, key: str) -> dict:
        return {"Bucket": self.bucket, "Key": self._name(key)}

    def _explained(self, key: str):
        return _explain_s3(f"s3://{self.bucket}/{self._name(key)}", self.bucket, self.config)

    def check(self) -> None:
        few = self.config.model_copy(update={"max_attempts": min(3, self.config.max_attempts)})
        with _explain_s3(f"s3://{self.bucket}/{self.prefix}", self.bucket, few):
            _make_client(few).list_objects_v2(Bucket=self.bucket, Prefix=self._name(""), MaxKeys=1)

    def exists(self, key: str) -> bool:
        try:
            with self._explained(key):
                self.client.head_object(**self._address(key))
            return True
        except MissingObject:
            return False

    def read(self, key: str) -> bytes:
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        with self._explained(key):
            for attempt in range(1, self.config.max_attempts + 1):
                try:
                    return self.client.get_object(**self._address(key))["Body"].read()
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    if attempt == self.config.max_attempts:  # botocore does not retry once the body has begun
                        raise

    def write(self, key: str, data: bytes, if_absent: bool) -> bool:
        with self._explained(key):
            if if_absent:
                return self._write_if_absent(key, data)
            if len(data) < MULTIPART_BYTES:
                self.client.put_object(**self._address(key), Body=data)
            else:
                self.client.upload_fileobj(io.BytesIO(data), **self._address(key), Config=_transfer())
            return True

    def _write_if_absent(self, key: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        for attempt in range(self.config.max_attempts):
            try:
                self.client.put_object(**self._address(key), Body=data, IfNoneMatch="*")
                return True
            except ClientError as error:
                refusal = error
            code = refusal.response["Error"]["Code"]
            if code in ("PreconditionFailed", "412"):
                # The answer to a write that got through may have been lost: then it is our own object we met.
                retried = attempt > 0 or refusal.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                return retried and self.read(key) == data
            if code not in ("ConditionalRequestConflict", "409"):
                raise refusal
        raise refusal

    def upload(self, local_path: Path, key: str) -> None:
        with _explain_local("read", local_path), open(local_path, "rb") as source, self._explained(key):
            self.client.upload_fileobj(source, **self._address(key), Config=_transfer())

    def download(self, key: str, partial: Path) -> None:
        with _explain_local("write", partial), open(partial, "wb") as sink, self._explained(key):
            self.client.download_fileobj(**self._address(key), Fileobj=sink, Config=_transfer())

    def list(self, folder: str) -> list[str]:
        top = self._name(folder).rstrip("/")
        prefix = f"{top}/" if top else ""
        skip = len(self.prefix) + 1 if self.prefix else 0
        with self._explained(folder):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            names = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [name[skip:] for name in names if not name.endswith("/")]

    def delete(self, keys: list[str]) -> None:
        for start in range(0, len(keys), 1000):
            batch = [{"Key": self._name(key)} for key in keys[start:start + 1000]]
            with self._explained(keys[start]):
                answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})
            for refused in answer.get("Errors", []):
                raise UserError(f"cannot delete s3://{self.bucket}/{refused['Key']}: {refused.get('Code')}; the "
                                "credentials need s3:DeleteObject on it.")


def _make_client(config):
    import boto3
    from botocore.config import Config

    settings = Config(
        region_name=config.region,
        connect_timeout=config.connect_timeout_s,
        read_timeout=config.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": config.max_attempts},
        s3={"addressing_style": config.addressing_style},
        max_pool_connections=32,
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url(config), config=settings)


def _transfer():
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=4)


@contextmanager
def _explain_s3(uri: str, bucket: str, config):
    """Turns botocore's errors into one sentence each."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise _client_error(error, uri, bucket, config) from error
    except (exceptions.NoCredentialsError, exceptions.CredentialRetrievalError, exceptions.PartialCredentialsError,
            exceptions.ProfileNotFound) as error:
        raise UserError(
            f"no usable credentials for {uri} ({type(error).__name__}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "or AWS_PROFILE where the cluster's processes start, or give the machines a role.") from error
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
        where = endpoint_url(config) or f"AWS in {config.region}"
        raise UserError(f"cannot reach {where} for {uri} ({type(error).__name__}, {config.max_attempts} attempts): is the "
                        "server up, and are storage.endpoint_url and the network right?") from error
    except exceptions.BotoCoreError as error:
        raise UserError(f"cannot use {uri} ({type(error).__name__}: {error}); check the storage section.") from error


# IAM's name of what an operation needs, where it is not "s3:<operation>".
PERMISSIONS = {"ListObjectsV2": "ListBucket", "HeadObject": "GetObject", "DeleteObjects": "DeleteObject",
               "CreateMultipartUpload": "PutObject", "UploadPart": "PutObject", "CompleteMultipartUpload": "PutObject"}
DENIED = ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
          "InvalidToken", "RequestTimeTooSkewed")


def _client_error(error, uri: str, bucket: str, config) -> UserError:
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    action = PERMISSIONS.get(error.operation_name, error.operation_name)
    where = endpoint_url(config) or f"AWS in {config.region}"
    if code in ("NoSuchKey", "404", "NotFound"):
        return MissingObject(f"{uri} does not exist.")
    if code == "NoSuchBucket":
        return UserError(f"there is no bucket {bucket!r} at {where}; create it, or correct storage.uri.")
    if code in DENIED:
        return UserError(f"access denied: s3:{action} on {uri} at {where} ({code}); check the credentials in the "
                         f"environment, their time and that they may s3:{action} there.")
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"):
        return UserError(f"the bucket {bucket!r} is not in region {config.region} ({code}); set storage.region.")
    return UserError(f"s3:{action} on {uri} at {where} failed: {code}; the server refused, try again or see its log.")


# ---------------------------------------------------------------------------------------------------- Parquet


def _read_parquet(source, columns: list[str] | None, uri: str) -> pyarrow.Table:
    try:
        return pyarrow.parquet.ParquetFile(source).read(columns=columns)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{uri} is not a readable Parquet file ({error}); delete it and run the job again.") from error


@contextmanager
def _explain_arrow(uri: str):
    try:
        yield
    except FileNotFoundError as error:
        raise MissingObject(f"{uri} does not exist.") from error
    except OSError as error:
        denied = "ACCESS_DENIED" in str(error) or "[code: 403" in str(error) or "HTTP status 403" in str(error)
        hint = ("access denied: check the credentials in the environment and that they may s3:GetObject and "
                "s3:ListBucket there" if denied else "check storage.endpoint_url, the server and the network")
        raise UserError(f"cannot read {uri}; {hint} ({str(error).splitlines()[0][:300]}).") from error
