"""benchmarks/extraction_again.py: its proxy passes everything on, and counts by kind what any client sends."""

import pytest

from benchmarks import extraction_again
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


@pytest.mark.parametrize(("changes", "told"), [
    ({}, ""), ({"seconds": 31}, "seconds: 31, more than 30"), ({"requests": {"LIST": 21}}, "LIST: 21, more than 20"),
    ({"requests": {"LIST": 2, "HEAD video": 3}}, "3 requests on videos"),
])
def test_a_missed_bar_is_told_and_is_the_exit_code(changes, told, monkeypatch, capsys):
    result = {"videos": 5, "shards": 1, "seconds": 2.0, "requests": {"LIST": 20, "GET run": 9}, "extracted_now": 0, **changes}
    monkeypatch.setattr(extraction_again, "measure", lambda *_, **__: result)
    assert extraction_again.main(["--videos", "5"]) == (1 if told else 0)
    assert ("bar missed" in capsys.readouterr().out) == bool(told)
    assert (extraction_again.missed(result) or [""])[0].startswith(told)
