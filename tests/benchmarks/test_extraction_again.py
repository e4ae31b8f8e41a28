"""benchmarks/extraction_again.py: its proxy passes everything on, and counts by kind what any client sends."""

import pytest

from benchmarks.extraction_again import CountingProxy
from robust.data.tree import FileTree
from robust.storage import Storage


@pytest.mark.parametrize("size", [5, 3_000_000])
def test_requests_of_both_clients_are_counted_and_passed_on(s3, s3_server, monkeypatch, size):
    with CountingProxy(s3_server.port) as proxy:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        storage = Storage.from_config(s3)
        for number in range(3):
            storage.write_bytes(f"videos/{number}.mp4", bytes(size))
        storage.write_bytes("run/a", b"a")
        assert storage.read_bytes("videos/1.mp4") == bytes(size) and storage.exists("run/a")
        assert proxy.counts == {"PUT video": 3, "PUT run": 1, "GET video": 1, "HEAD run": 1}
        assert len(storage.list("videos")) == 3  # boto3
        assert proxy.counts["LIST"] == 1
        assert len(FileTree.open(storage.uri("videos"), s3).files) == 3  # pyarrow
        assert proxy.counts["LIST"] > 1
