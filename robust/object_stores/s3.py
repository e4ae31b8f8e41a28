"""Objects in an S3 bucket: boto3 for whole objects, pyarrow for Parquet columns and Ray, both configured alike."""

from __future__ import annotations

import io
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs

from robust.errors import ConfigError, StorageError
from robust.object_stores import MissingObject, failures
from robust.object_stores.local import explain_local

MULTIPART_BYTES = 32 * 2**20


class S3Objects:
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
        with explain_local("read", local_path), open(local_path, "rb") as source, self._explained(key):
            self.client.upload_fileobj(source, **self._address(key), Config=_transfer())

    def download(self, key: str, partial: Path) -> None:
        with explain_local("write", partial), open(partial, "wb") as sink, self._explained(key):
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
                raise StorageError(f"cannot delete s3://{self.bucket}/{refused['Key']}: {refused.get('Code')}; the "
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
    client = boto3.session.Session().client("s3", endpoint_url=endpoint_url(config), config=settings)
    client.meta.events.register("needs-retry.s3", failures.tell)
    return client


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
        raise StorageError(
            f"no usable credentials for {uri} ({type(error).__name__}): set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, where the cluster's processes start, or a role.") from error
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
        where = endpoint_url(config) or f"AWS in {config.region}"
        raise StorageError(f"cannot reach {where} for {uri} ({type(error).__name__}, {config.max_attempts} attempts): is "
                        "it up, and are storage.endpoint_url and the network right?") from error
    except exceptions.BotoCoreError as error:
        raise StorageError(f"cannot use {uri} ({type(error).__name__}: {error}); check the storage section.") from error


# IAM's name of what an operation needs, where it is not "s3:<operation>".
PERMISSIONS = {"ListObjectsV2": "ListBucket", "HeadObject": "GetObject", "DeleteObjects": "DeleteObject",
               "CreateMultipartUpload": "PutObject", "UploadPart": "PutObject", "CompleteMultipartUpload": "PutObject"}
DENIED = ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
          "InvalidToken", "RequestTimeTooSkewed")


def _client_error(error, uri: str, bucket: str, config) -> StorageError | MissingObject:
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    action = PERMISSIONS.get(error.operation_name, error.operation_name)
    where = endpoint_url(config) or f"AWS in {config.region}"
    if code in ("NoSuchKey", "404", "NotFound"):
        return MissingObject(f"{uri} does not exist.")
    if code == "NoSuchBucket":
        return StorageError(f"there is no bucket {bucket!r} at {where}; create it, or correct storage.uri.")
    if code in DENIED:
        return StorageError(f"access denied: s3:{action} on {uri} at {where} ({code}); check the credentials in the "
                         f"environment, their time and that they may s3:{action} there.")
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"):
        return StorageError(f"the bucket {bucket!r} is not in region {config.region} ({code}); set storage.region.")
    return StorageError(f"s3:{action} on {uri} at {where} failed: {code}; the server refused, try again or see its log.")


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
    return bucket_path(uri).partition("/")[0]


def bucket_path(uri: str) -> str:
    """`bucket/prefix` of an s3:// uri. Raises ConfigError for a malformed one."""
    path = uri.removeprefix("s3://").strip("/")
    bucket, _, prefix = path.partition("/")
    if "@" in bucket or ":" in bucket:
        raise ConfigError("storage.uri holds credentials: give s3://bucket/prefix, and them in the environment.")
    if not bucket:
        raise ConfigError(f"{uri!r} names no bucket; it must look like s3://bucket/prefix.")
    return f"{bucket}/{prefix}" if prefix else bucket
