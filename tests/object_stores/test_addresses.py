"""Addresses of each kind of store, and gs:// as far as it goes without Google."""

import os
import pickle

import pyarrow.fs
import pytest

from robust.config import StorageConfig
from robust.errors import ConfigError, UserError
from robust.object_stores.address import bucket_path, holds_credentials, local_path
from robust.object_stores.gcs import GcsObjects, explain_gcs
from robust.storage import MissingObject, Storage, is_s3, open_input


@pytest.fixture
def nowhere() -> StorageConfig:
    """gs:// at an address where nothing listens."""
    return StorageConfig(uri="gs://bucket/runs", endpoint_url="http://127.0.0.1:9", retry_budget_s=1)


def test_a_file_uri_is_the_path_that_it_encodes(tmp_path):
    folder = tmp_path / "a b%"
    assert local_path(f"{tmp_path.as_uri()}/a%20b%25") == str(folder) == local_path(str(folder))
    storage = Storage(StorageConfig(uri=folder.as_uri()))
    storage.write_bytes("x", b"1")
    assert (folder / "x").read_bytes() == b"1" and open_input((folder / "x").as_uri(), storage.config)[1] == str(
        folder / "x"
    )
    for wrong in ("file://host/a", "file://a", "file://"):
        with pytest.raises(ConfigError, match="no file on this machine"):
            local_path(wrong)


@pytest.mark.parametrize(
    "uri, path", [("s3://b", "b"), ("s3://b/", "b"), ("gs://b/p/q/", "b/p/q"), ("s3://b/a@b:c", "b/a@b:c")]
)
def test_bucket_and_prefix(uri, path):
    assert bucket_path(uri) == path and is_s3(uri) is uri.startswith("s3")


@pytest.mark.parametrize(
    "text, holds",
    [
        ("s3://k:s@b/p", True),
        ("https://u@host", True),
        ("https://b/x?X-Amz-Signature=1", True),
        ("https://a/x?sv=1&sig=2", True),
        ("s3://b/a@b", False),
        ("user@example.com", False),
        ("folder/a:b@c", False),
        ("http://host:9000", False),
    ],
)
def test_what_holds_credentials(text, holds):
    assert holds_credentials(text) is holds


def test_a_google_bucket_goes_through_pyarrow(nowhere):
    storage = Storage(nowhere)
    assert storage.uri("a/b") == "gs://bucket/runs/a/b" and repr(storage) == "Storage('gs://bucket/runs')"
    filesystem, path = pickle.loads(pickle.dumps(storage)).arrow("a")
    assert isinstance(filesystem, pyarrow.fs.GcsFileSystem) and path == "bucket/runs/a"
    assert pickle.loads(pickle.dumps(filesystem)).equals(filesystem)
    assert Storage(nowhere).arrow()[0] is Storage(nowhere)._objects._files  # one client, with its connections


def test_a_google_bucket_that_does_not_answer_is_told(nowhere, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/key.json")
    with pytest.raises(UserError, match="cannot read gs://bucket/runs/a: .*credentials|does not answer") as told:
        Storage(nowhere).read_bytes("a")
    assert not isinstance(told.value, MissingObject)


class Interrupted(pyarrow.fs.LocalFileSystem):
    """Streams of which only the first write arrives; closing them publishes what has, as Google's client does."""

    def open_output_stream(self, path, **_):
        opened = super().open_output_stream(path)

        class Stream:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                opened.close()

            def write(self, data):
                if opened.tell():
                    raise RuntimeError("interrupted")
                opened.write(data)

        return Stream()


@pytest.mark.parametrize("size", [0, 1, 9 * 2**20])
def test_an_upload_to_google_is_all_or_nothing(nowhere, tmp_path, monkeypatch, size):
    monkeypatch.setattr(GcsObjects, "_files", Interrupted())
    (tmp_path / "report").write_bytes(content := os.urandom(size))
    store = GcsObjects(nowhere, str(tmp_path))
    store.upload(tmp_path / "report", "object")
    assert (tmp_path / "object").read_bytes() == content
    with pytest.raises(UserError, match="gone"):
        store.upload(tmp_path / "gone", "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "status, told",
    [
        ("google::cloud::Status(PERMISSION_DENIED: no)", "storage.objects.get"),
        ("google::cloud::Status(PERMISSION_DENIED: no)", "storage.buckets.get"),
        ("google::cloud::Status(UNAUTHENTICATED: no)", "GOOGLE_APPLICATION"),
        ("google::cloud::Status(UNAVAILABLE: no)", "does not answer"),
        ("google::cloud::Status(INTERNAL: no)", "refuses"),
    ],
)
def test_what_google_reports_is_told(status, told):
    assert told in str(explain_gcs(OSError(status), "gs://b/k"))
    assert isinstance(explain_gcs(FileNotFoundError("x"), "gs://b/k"), MissingObject)
