"""A real Ray head for tests: `ray start --head` with token authentication, and `ray job submit` to it."""

import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

from processes import Marked

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")
NOT_READY = ("No available agent", "Failed to connect", "Connection refused", "500", "503")
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Head:
    """`with Head(folder, environment) as head: head.submit_command("mine", [...])`; leaves no process behind.

    `environment` (storage keys and endpoint) is that of the cluster's machines: jobs inherit it.
    """

    def __init__(self, folder: Path, environment: dict[str, str], *, num_cpus: int = 2):
        self.folder, self.marked, self.num_cpus = folder, Marked(), num_cpus
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        self.environment = {
            **self.marked.environment(), **environment,
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "HOME": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_worker_niceness": "0",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
            "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.environment.pop("RAY_ADDRESS", None)

    def __enter__(self) -> "Head":
        gcs, dashboard, agent, metrics, runtime = free_ports(5)
        self.address = f"http://127.0.0.1:{dashboard}"
        self.log = open(self.folder / "head.log", "w+")
        self.temporary = Path("/tmp") / f"ray-head-{uuid.uuid4().hex[:8]}"  # short: socket paths are limited
        self.marked.watch(self.temporary)
        self.process = subprocess.Popen(
            [str(RAY), "start", "--head", "--block", f"--port={gcs}", "--node-ip-address=127.0.0.1",
             "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--num-cpus={self.num_cpus}",
             f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}",
             f"--runtime-env-agent-port={runtime}", "--min-worker-port=0", "--max-worker-port=0",
             f"--object-store-memory={150 * 2**20}", f"--temp-dir={self.temporary}"],
            env=self.environment, cwd=self.folder, stdout=self.log, stderr=self.log)
        return self

    def submit_command(self, name: str, command: list[str], *, timeout_s: float = 180) -> None:
        """Submits, again while the head is not ready: its dashboard answers before its agent takes jobs."""
        deadline = time.monotonic() + timeout_s
        while True:
            told = self.cli("submit", "--no-wait", "--submission-id", name, "--working-dir", str(ROOT), "--", *command)
            text = told.stdout + told.stderr
            if told.returncode == 0 or "already exists" in text:
                return
            assert self.process.poll() is None, self.head_log()
            assert any(reason in text for reason in NOT_READY) and time.monotonic() < deadline, text
            time.sleep(1)

    def wait(self, name: str, timeout_s: float) -> str:
        """Polls the status until the job has ended; the end of a log stream would prove nothing."""
        deadline = time.monotonic() + timeout_s
        client = self.client()
        while (status := str(client.get_job_status(name).value)) not in ENDED:
            assert time.monotonic() < deadline, f"{name} is {status}: {client.get_job_logs(name)[-3000:]}"
            time.sleep(0.5)
        return status

    def client(self):
        from ray.job_submission import JobSubmissionClient

        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        return JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {token}"})

    def cli(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        """`ray job ...` as a user types it."""
        verb, *rest = arguments
        return subprocess.run([str(RAY), "job", verb, "--address", self.address, *rest], cwd=self.folder, text=True,
                              env=environment or self.environment, capture_output=True, timeout=300)

    def head_log(self) -> str:
        return f"{shlex.join(self.process.args)}\n" + (self.folder / "head.log").read_text()[-3000:]

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            pass
        for pid in self.marked.wait_until_gone(5):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.temporary, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Free ports outside Ray's range for workers (10002 to 19999)."""
    probes, ports = [], []
    try:
        while len(ports) < count:
            probe = socket.socket()
            probe.bind(("127.0.0.1", 0))
            probes.append(probe)
            if probe.getsockname()[1] >= 20000:
                ports.append(probe.getsockname()[1])
    finally:
        for probe in probes:
            probe.close()
    return ports
