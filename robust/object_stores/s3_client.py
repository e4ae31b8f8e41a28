"""The boto3 client of a StorageConfig: one a process for all objects of the same settings, never pickled.

Credentials come from botocore's default chain (environment, profile, SSO, web identity, container or instance role),
which renews those that end. They stay in the client; what is kept here beside it says only where they came from.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import threading
from dataclasses import dataclass, field

from robust.errors import ConfigError
from robust.object_stores import failures
from robust.object_stores.address import endpoint_url, is_aws
from robust.object_stores.kept import kind_of
from robust.object_stores.retry import BotocoreRetries

SOURCES = {
    "env": "from the environment",
    "shared-credentials-file": "from the credentials file",
    "config-file": "from the AWS config file",
    "iam-role": "the instance's role",
    "container-role": "the container's role",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "a role by web identity",
    "sso": "single sign-on",
    "custom-process": "a credential process",
}
"""What botocore calls the ways to credentials, as a person knows them."""
CHATTY = ("botocore", "boto3", "s3transfer", "urllib3")
"""Libraries whose debug lines hold session tokens and signatures."""


@dataclass(repr=False)
class Connection:
    """A client, and what was learned about its buckets: {bucket: whether it honours If-None-Match}."""

    client: object
    session: object
    conditional: dict[str, bool] = field(default_factory=dict)

    def identity(self) -> str:
        """Who asks, for messages: the end of the access key's id and where it came from; never the secret."""
        try:
            credentials = self.session.get_credentials()
            key = credentials.get_frozen_credentials().access_key
        except Exception:  # a role that cannot be renewed must not hide the refusal that is being explained
            return "unknown credentials"
        where = SOURCES.get(credentials.method, credentials.method or "of unknown origin")
        of_a_file = credentials.method in ("shared-credentials-file", "config-file")
        profile = f", profile {self.session.profile or 'default'}" if of_a_file else ""
        return f"key ...{key[-4:] if len(key) >= 16 else ''} ({where}{profile})"


_connections: dict[tuple, Connection] = {}
_lock = threading.Lock()


def connect(config) -> Connection:
    """The process's connection for these settings and this environment; made at the first call."""
    kind = kind_of(config)
    found = _connections.get(kind)
    if found is None:
        with _lock:
            found = _connections.get(kind)
            if found is None:
                found = _connections[kind] = _make(config)
    return found


def forget_connections() -> None:
    """New clients from here on; a forked process must not share its parent's sockets."""
    global _lock
    _lock = threading.Lock()
    _connections.clear()


os.register_at_fork(after_in_child=forget_connections)


def session_of(config):
    """A botocore session for the config's profile, else what AWS_PROFILE says."""
    import botocore.session

    return botocore.session.Session(profile=config.profile)


def region_of(config, session=None) -> str:
    """config.region, else AWS_REGION, AWS_DEFAULT_REGION or the profile's, else us-east-1."""
    from botocore.exceptions import ProfileNotFound

    try:
        told = (
            config.region
            or os.environ.get("AWS_REGION")
            or (session or session_of(config)).get_config_variable("region")
        )
    except ProfileNotFound:
        told = None  # told by whoever asks for credentials
    return told or "us-east-1"


def ca_bundle(config) -> str | None:
    """The file of trusted certificates, None for the usual ones. Raises: ConfigError: it cannot be read as such."""
    import ssl

    path = config.ca_bundle or os.environ.get("AWS_CA_BUNDLE") or None
    if path is None:
        return None
    path = os.path.expanduser(path)
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"storage.ca_bundle (or AWS_CA_BUNDLE): {path!r} is not a readable file of PEM certificates "
            f"({getattr(error, 'strerror', None) or error}); give the certificate of the authority that signed "
            "the server's, on every node."
        ) from None
    return path


def uses_crc(config) -> bool:
    """Whether requests carry the CRC checksums of newer S3, which many servers that speak S3 refuse."""
    return is_aws(config) if config.checksums == "auto" else config.checksums == "crc"


def _make(config) -> Connection:
    import boto3
    from botocore.config import Config

    for name in CHATTY:
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.INFO)
    session = session_of(config)
    when = "when_supported" if uses_crc(config) else "when_required"
    settings = Config(
        region_name=region_of(config, session),
        connect_timeout=config.connect_timeout_s,
        read_timeout=config.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": config.max_attempts},
        s3={"addressing_style": config.addressing_style},
        request_checksum_calculation=when,
        response_checksum_validation=when,
        max_pool_connections=32,
    )
    client = boto3.session.Session(botocore_session=session).client(
        "s3", endpoint_url=endpoint_url(config), config=settings, verify=ca_bundle(config)
    )
    client.meta.events.register("needs-retry.s3", failures.tell)  # before the retries, whose answer ends the event
    BotocoreRetries(config.max_attempts, config.retry_budget_s).install(client)
    if not uses_crc(config):
        client.meta.events.register("before-call.s3.DeleteObjects", _content_md5)
    return Connection(client, session)


def _content_md5(params, **_) -> None:
    """Deleting many objects needs a checksum; Content-MD5 is the one that every server knows."""
    headers = params["headers"]
    for name in [name for name in headers if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum"))]:
        del headers[name]
    headers["Content-MD5"] = base64.b64encode(hashlib.md5(params["body"], usedforsecurity=False).digest()).decode()
