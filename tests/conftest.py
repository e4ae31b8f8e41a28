"""Fixtures shared by all tests: a real S3 server, started once, and a bucket of its own for each test."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.s3_server import S3Server
from robust.config import StorageConfig
from robust.storage import Storage


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """One SeaweedFS server for the session, with random keys."""
    with S3Server(tmp_path_factory.mktemp("s3"), bucket="session") as server:
        yield server


@pytest.fixture
def s3(s3_server, monkeypatch) -> Iterator[StorageConfig]:
    """StorageConfig of an empty bucket on the server; its keys are in the environment, as for a user."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    bucket = f"test-{secrets.token_hex(6)}"
    client = boto3.session.Session().client("s3", endpoint_url=s3_server.endpoint_url)
    client.create_bucket(Bucket=bucket)
    yield StorageConfig(uri=f"s3://{bucket}/prefix", max_attempts=4, connect_timeout_s=5, read_timeout_s=20)
    with contextlib.suppress(BotoCoreError, ClientError):  # a test may have removed it, or set the clock wrong
        client.delete_bucket(Bucket=bucket)  # each has volumes of its own, and the server has only so many


@pytest.fixture
def local_storage(tmp_path: Path) -> Storage:
    """A Storage on an empty local folder."""
    return Storage.from_config(StorageConfig(uri=str(tmp_path / "storage")))


@pytest.fixture(params=["local", "s3"])
def storage(request) -> Storage:
    """A Storage on an empty local folder, and then one on an empty S3 prefix."""
    if request.param == "local":
        return request.getfixturevalue("local_storage")
    return Storage.from_config(request.getfixturevalue("s3"))
