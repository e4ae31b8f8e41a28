"""pyarrow's S3 filesystem as a StorageConfig says: for Parquet columns, for Ray Data, Train and Tune."""

from __future__ import annotations

from urllib.parse import urlsplit

import pyarrow.fs

from robust.object_stores.address import endpoint_url
from robust.object_stores.s3_client import ca_bundle, region_of, session_of


class S3FileSystem(pyarrow.fs.S3FileSystem):
    """The same endpoint, identity, trust, timeouts and tries as the boto3 client, also after a trip to another process.

    pyarrow's own forgets its retry strategy when pickled, does not read AWS_ENDPOINT_URL or AWS_CA_BUNDLE, and knows
    no profile but AWS_PROFILE. It has no budget of seconds: storage.max_attempts bounds it.
    """

    def __init__(self, config):
        self.config = config
        endpoint = urlsplit(endpoint_url(config) or "")
        super().__init__(
            **_credentials(config),
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
        return S3FileSystem, (self.config,)


def _credentials(config) -> dict:
    """Those of storage.profile, looked up in this process; without one pyarrow finds its own and renews them."""
    from botocore.exceptions import BotoCoreError

    if config.profile is None:
        return {}
    try:
        found = session_of(config).get_credentials().get_frozen_credentials()
    except (BotoCoreError, AttributeError):
        from robust.errors import UserError

        raise UserError(f"no usable credentials in the profile {config.profile!r} (storage.profile): add it to the credentials "
                        "file on every node, or correct the name.") from None
    return {"access_key": found.access_key, "secret_key": found.secret_key, "session_token": found.token}
