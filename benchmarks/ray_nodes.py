"""A Ray cluster of several nodes on this machine, whose nodes and dashboard can be killed.

    with RayNodes(folder, environment) as cluster:
        node = cluster.add_node(); cluster.kill_node(node); cluster.restart_dashboard()

Each node is a `ray start` of its own, as on machines of their own, joined with the head's token; the head has no CPUs.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import ray  # noqa: F401  makes psutil importable: it must come first

# isort: split
import psutil

from cluster.guardian import end_session
from cluster.s3_server import OPENER, write_private
from robust.errors import UserError

MARK = "DEEPFAKE_RAY_NODES"
OBJECT_STORE = 200 * 2**20  # bytes of each node
DASHBOARD_WAIT_S = 120.0
RAY = Path(sys.executable).with_name("ray")


class RayNodes:
    """
    Attributes:
        address: of the dashboard, for `python -m jobs.submit --address`.
        environment: of a process that submits jobs.
        nodes: the `ray start` processes of the living nodes beside the head.
    """

    def __init__(self, folder: Path, environment: dict[str, str]):
        """
        Args:
            folder: for the token and what `ray start` says.
            environment: what the nodes, and so the jobs, find in theirs beside this process's.
        """
        self.folder, self.nodes, self._count = folder, [], 0
        self.session = Path(tempfile.mkdtemp(prefix="ray-nodes-", dir="/tmp"))  # short: socket paths are limited
        write_private(folder / "token", secrets.token_hex(32))
        self.environment = {**os.environ, **environment, MARK: str(self.session), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
                            "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
                            "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"}  # a job's `python` is this one
        self.environment.pop("RAY_ADDRESS", None)

    def __enter__(self) -> RayNodes:
        gcs, dashboard = free_port(), free_port()
        self.gcs, self.address = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
        try:
            # Without --block: with it, `ray start` ends all of the head when its dashboard dies.
            self._start("--head", f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--num-cpus=0").wait()
            self._wait_for_dashboard()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        end_session(psutil, MARK, str(self.session), grace_s=0)
        for node in self.nodes:
            node.wait()
        shutil.rmtree(self.session, ignore_errors=True)

    def add_node(self, cpus: int = 1) -> subprocess.Popen:
        node = self._start("--block", f"--address={self.gcs}", f"--num-cpus={cpus}")
        self.nodes.append(node)
        return node

    def kill_node(self, node: subprocess.Popen) -> None:
        """kill -9 to all its processes, as when its machine is gone."""
        family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in family:
            try:
                process.suspend()  # else one that loses another tells the rest of the cluster in its last moment
            except psutil.NoSuchProcess:
                continue
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        node.wait()
        self.nodes.remove(node)

    def busy_nodes(self) -> list[subprocess.Popen]:
        """Those with a worker that works on something."""
        return [node for node in self.nodes if any(is_busy(process) for process in psutil.Process(node.pid).children(recursive=True))]

    def restart_dashboard(self) -> None:
        """Kills the head's dashboard and starts it anew, as whoever looks after the head would."""
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if process.environ().get(MARK) == str(self.session) and any(word.endswith("dashboard/dashboard.py") for word in words):
                    environment, folder = process.environ(), process.cwd()
                    break
            except psutil.Error:
                continue
        else:
            raise UserError("the head has no dashboard to restart")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with open(self.folder / "dashboard.log", "ab") as log:
            subprocess.Popen(words, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self._wait_for_dashboard()

    def _start(self, *flags: str) -> subprocess.Popen:
        self._count += 1
        own = self.session / str(self._count)  # of each node: else one unpacks a job's code over another's while that is in use
        command = [str(RAY), "start", "--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={OBJECT_STORE}",
                   f"--temp-dir={own}", *(f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "metrics-export-port", "runtime-env-agent-port")), *flags]
        with open(self.folder / "ray_start.log", "ab") as log:
            return subprocess.Popen(command, env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _wait_for_dashboard(self) -> None:
        """Raises: UserError: it does not answer."""
        deadline = time.monotonic() + DASHBOARD_WAIT_S
        while time.monotonic() < deadline:
            try:
                with OPENER.open(f"{self.address}/api/version", timeout=5):
                    return
            except urllib.error.HTTPError:
                return  # it asks for the token
            except OSError:
                time.sleep(0.5)
        raise UserError(f"the head's dashboard does not answer after {DASHBOARD_WAIT_S:.0f} s; what Ray said is in {self.folder}/ray_start.log")


def is_busy(process: psutil.Process) -> bool:
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return title.startswith("ray::") and not title.startswith("ray::IDLE") and "Agent" not in title


def free_port() -> int:
    """One outside the ranges from which Ray and the kernel draw ports."""
    for _ in range(100):
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise UserError("no free port between 20000 and 32000")
