"""pyarrow's S3 filesystem as a StorageConfig says: for Parquet columns, for Ray Data, Train and Tune."""

from __future__ import annotations

import hashlib
import os
from urllib.parse import urlsplit

import pyarrow.fs

from robust.errors import StorageError
from robust.object_stores.address import endpoint_url
from robust.object_stores.kept import kind_of
from robust.object_stores.s3_client import ca_bundle, connect, region_of


class S3FileSystem(pyarrow.fs.S3FileSystem):
    """The same endpoint, identity, trust, timeouts and tries as the boto3 client, also after a trip to another process.

    pyarrow's own forgets its retry strategy when pickled, does not read AWS_ENDPOINT_URL or AWS_CA_BUNDLE, and knows
    no profile but AWS_PROFILE. It has no budget of seconds: storage.max_attempts bounds it.
    """

    def __init__(self, config, credentials: dict | None = None):
        self.config = config
        endpoint = urlsplit(endpoint_url(config) or "")
        super().__init__(
            **(_credentials(config) if credentials is None else credentials),
            region=region_of(config),
            scheme=endpoint.scheme or "https",
            endpoint_override=endpoint.netloc or None,
            force_virtual_addressing=config.addressing_style == "virtual",
            connect_timeout=config.connect_timeout_s,
            request_timeout=config.read_timeout_s,
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=config.max_attempts),
            tls_ca_file_path=ca_bundle(config),
        )

    def __reduce__(self):
        return s3_filesystem, (self.config,)


_filesystems: dict[tuple, tuple[str, S3FileSystem]] = {}
"""By process and settings: a digest of the credentials, and what was made with them."""


def s3_filesystem(config) -> S3FileSystem:
    """The process's own for these settings; another one when the credentials of storage.profile were renewed."""
    credentials = _credentials(config)
    key, digest = (os.getpid(), kind_of(config)), hashlib.sha256(repr(credentials).encode()).hexdigest()
    found = _filesystems.get(key)
    if found is None or found[0] != digest:
        found = _filesystems[key] = digest, S3FileSystem(config, credentials)
    return found[1]


def _credentials(config) -> dict:
    """Those of storage.profile, looked up in this process; without one pyarrow finds its own and renews them."""
    from botocore.exceptions import BotoCoreError

    if config.profile is None:
        return {}
    try:
        found = connect(config).session.get_credentials().get_frozen_credentials()
    except (BotoCoreError, AttributeError):
        raise StorageError(
            f"no usable credentials in the profile {config.profile!r} (storage.profile): add it to the credentials "
            "file on every node, or correct the name."
        ) from None
    return {"access_key": found.access_key, "secret_key": found.secret_key, "session_token": found.token}


def explain_s3_arrow(error: OSError, uri: str, config) -> StorageError:
    """What the AWS library below pyarrow reports, in one sentence."""
    text = str(error)
    if any(sign in text for sign in ("ACCESS_DENIED", "[code: 403", "HTTP status 403", "INVALID_ACCESS_KEY_ID")):
        why = (
            f"access denied: {connect(config).identity()} may not; check the credentials where the process started, and that "
            "they may s3:GetObject and s3:ListBucket there"
        )
    elif "NETWORK_CONNECTION" in text or "curlCode" in text:
        why = f"{endpoint_url(config) or 'AWS'} does not answer; check storage.endpoint_url, storage.ca_bundle and the network"
    else:
        why = "check storage.endpoint_url, the server and the network"
    return StorageError(f"cannot read {uri}; {why} ({text.splitlines()[0][:300]}).")
