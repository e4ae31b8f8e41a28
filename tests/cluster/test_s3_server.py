"""cluster/s3_server.py: the real server."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from processes import Marked

from cluster import s3_server
from cluster.s3_server import S3Server, load_keys
from robust.config import StorageConfig
from robust.errors import UserError
from robust.storage import Storage

pytestmark = pytest.mark.cluster

DRIVER = """
import sys, time
from cluster import s3_server
from cluster.s3_server import S3Server
server = S3Server(sys.argv[1], bucket="data").start()
print(server.port, flush=True)
time.sleep(600)
"""


def storage_of(server, monkeypatch) -> Storage:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Storage.from_config(StorageConfig(uri="s3://data/prefix", max_attempts=4))


def test_data_survives_a_crash_and_a_restart(tmp_path, monkeypatch):
    with S3Server(tmp_path, bucket="data") as server:
        storage_of(server, monkeypatch).write_bytes("a", b"x" * 100_000)
        server.kill()
        server.start_again()
        storage_of(server, monkeypatch).write_bytes("b", b"y")
        with pytest.raises(UserError, match="another job runs the S3 server"):
            S3Server(tmp_path, bucket="data").start()
    with S3Server(tmp_path, bucket="data") as server:
        storage = storage_of(server, monkeypatch)
        assert storage.list() == ["a", "b"] and storage.read_bytes("a") == b"x" * 100_000


def test_a_server_waits_for_one_that_is_about_to_end(tmp_path):
    held = s3_server._lock(tmp_path, 0)
    with pytest.raises(UserError, match="another job runs the S3 server"):
        s3_server._lock(tmp_path, 0.2)
    threading.Timer(0.5, held.close).start()
    s3_server._lock(tmp_path, 20).close()


def test_a_bad_bucket_name_is_refused_and_nothing_runs(tmp_path):
    server = S3Server(tmp_path, bucket="no")
    with pytest.raises(UserError, match="refuses the bucket 'no'"):
        server.start()
    assert server.process is None


def test_keys_are_random_kept_and_private(tmp_path):
    keys = load_keys(tmp_path / "one" / "keys.json")
    assert load_keys(tmp_path / "one" / "keys.json") == keys
    assert load_keys(tmp_path / "two" / "keys.json") != keys
    assert (tmp_path / "one" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert len(keys["secret_key"]) >= 40


def test_nothing_stays_behind_and_nobody_outside_is_served(tmp_path, monkeypatch):
    marked = Marked()
    monkeypatch.setattr(os, "environ", marked.environment())
    with S3Server(tmp_path, bucket="data") as server:
        secret = server.keys["secret_key"]
        assert marked.alive() and not any(secret in command for command in marked.alive().values())
        with pytest.raises(OSError), socket.create_connection((own_address(), server.port), timeout=5):
            pass
    assert marked.wait_until_gone(5) == {}
    assert secret not in (tmp_path / "weed.log").read_text()


def own_address() -> str:
    """This machine's address as the outside sees it; 127.0.0.2, also not the server's, where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.2"


@pytest.mark.fault
def test_the_server_dies_with_a_job_that_is_killed(tmp_path):
    marked = Marked()
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], env=marked.environment(),
                              stdout=subprocess.PIPE, text=True)
    try:
        assert int(driver.stdout.readline()) > 0
        assert len(marked.alive()) == 2
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert marked.wait_until_gone(20) == {}
    finally:
        driver.kill()
        driver.stdout.close()
    with S3Server(tmp_path, bucket="data"):
        pass  # the folder is free again
