"""Addresses of storage: which kind of store a uri names, its parts, and that none of them holds a secret."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from robust.errors import ConfigError

SCHEMES = ("s3", "gs", "file")
_USER_INFO = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/\s]*@")
_SIGNED = re.compile(
    r"[?&](X-Amz-Signature|X-Amz-Credential|X-Goog-Signature|AWSAccessKeyId|Signature|sig)=", re.IGNORECASE
)


def holds_credentials(text: str) -> bool:
    """Whether an address carries a user, a password or a signature: `s3://key:secret@bucket`, a presigned URL."""
    return bool(_USER_INFO.search(text) or _SIGNED.search(text))


def scheme_of(uri: str) -> str:
    """ "s3", "gs" or "file" (also for a plain path). Raises ConfigError for another scheme."""
    scheme, separator, _ = uri.partition("://")
    if not separator:
        return "file"
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{scheme}:// is not supported: give a local folder, s3://bucket/prefix (AWS, SeaweedFS, MinIO, R2, "
            "Ceph with storage.endpoint_url) or gs://bucket/prefix."
        )
    return scheme


def is_s3(uri: str) -> bool:
    """Whether a uri names S3. Raises ConfigError for an unknown scheme."""
    return scheme_of(uri) == "s3"


def bucket_of(uri: str) -> str:
    """The bucket of an s3:// or gs:// uri."""
    return bucket_path(uri).partition("/")[0]


def bucket_path(uri: str) -> str:
    """`bucket/prefix` of an s3:// or gs:// uri. Raises ConfigError for a malformed one."""
    if holds_credentials(uri) or ":" in uri.partition("://")[2].partition("/")[0]:
        raise ConfigError("a storage uri holds credentials: give s3://bucket/prefix, and them in the environment.")
    path = uri.partition("://")[2].strip("/")
    bucket, _, prefix = path.partition("/")
    if not bucket:
        raise ConfigError(f"{uri!r} names no bucket; it must look like {uri.partition('://')[0]}://bucket/prefix.")
    return f"{bucket}/{prefix}" if prefix else bucket


def local_path(uri: str) -> str:
    """The absolute path of a plain path or a file:// uri (percent-encoded, as RFC 8089 has it)."""
    if not uri:
        raise ConfigError("storage.uri is empty; give a local folder, s3://bucket/prefix or gs://bucket/prefix.")
    if uri.startswith("file://"):
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise ConfigError(f"{uri!r} is no file on this machine; write file:///absolute/path, or the path alone.")
        uri = unquote(parts.path)
    return str(Path(uri).expanduser().absolute())


def endpoint_url(config) -> str | None:
    """The S3 endpoint: config.endpoint_url, else AWS_ENDPOINT_URL_S3, else AWS_ENDPOINT_URL, else None (AWS)."""
    url = config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    return None if url is None else checked_endpoint(url)


def checked_endpoint(url: str) -> str:
    """`scheme://host[:port]`. Raises ConfigError for anything else; never repeats a password."""
    if holds_credentials(url):
        raise ConfigError("storage.endpoint_url holds a user or a password; give credentials in the environment.")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ConfigError(f"storage.endpoint_url is {url!r}; it must look like http://host:port or https://host.")
    return f"{parts.scheme}://{parts.netloc}"


def is_aws(config) -> bool:
    """Whether the S3 endpoint is Amazon's own, and not something that only speaks its protocol."""
    host = urlsplit(endpoint_url(config) or "").hostname
    return host is None or host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
