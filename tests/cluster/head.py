"""A real Ray head for tests: `ray start --head` with token authentication, and `ray job submit` to it."""

import json
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
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")
NOT_READY = ("No available agent", "Failed to connect", "Connection refused", "500", "503")
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Head:
    """`with Head(folder, environment) as head: head.submit_command("mine", [...])`; leaves no process behind.

    `environment` (storage keys and endpoint) is that of the cluster's machines: jobs inherit it.
    `autoscaling` (node types by name) makes it one that grows, by nodes on this machine.
    """

    def __init__(self, folder: Path, environment: dict[str, str], *, num_cpus: int = 2, autoscaling: dict | None = None):
        self.folder, self.marked, self.num_cpus, self.autoscaling = folder, Marked(), num_cpus, autoscaling
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
        self.address, self.gcs = f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}"
        grows = []
        if self.autoscaling is not None:
            self.environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1",
                                 "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
            (self.folder / "autoscaling.json").write_text(json.dumps(autoscaling_config(self.gcs, self.num_cpus, self.autoscaling)))
            grows = [f"--autoscaling-config={self.folder / 'autoscaling.json'}"]
        self.log = open(self.folder / "head.log", "w+")
        self.temporary = Path("/tmp") / f"ray-head-{uuid.uuid4().hex[:8]}"  # short: socket paths are limited
        self.marked.watch(self.temporary)
        self.process = subprocess.Popen(
            [str(RAY), "start", "--head", "--block", f"--port={gcs}", "--node-ip-address=127.0.0.1",
             "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--num-cpus={self.num_cpus}",
             f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}",
             f"--runtime-env-agent-port={runtime}", "--min-worker-port=0", "--max-worker-port=0",
             f"--object-store-memory={150 * 2**20}", f"--temp-dir={self.temporary}", *grows],
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


def autoscaling_config(gcs: str, num_cpus: int, types: dict) -> dict:
    """A cluster file of Ray's own kind for tests, whose nodes are processes on this machine (RAY_FAKE_CLUSTER)."""
    commands = ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands", "head_start_ray_commands",
                "worker_start_ray_commands", "cluster_synced_files")  # Ray reads them even where there are none
    head = {"resources": {"CPU": num_cpus}, "node_config": {}, "max_workers": 0}
    return {**dict.fromkeys(commands, []), "cluster_name": "grows", "max_workers": 4, "upscaling_speed": 1.0, "idle_timeout_minutes": 0.05,
            "provider": {"type": "external", "module": f"{FakeMultiNodeProvider.__module__}.FakeMultiNodeProvider",
                         "launch_multiple": True, "disable_node_updaters": True, "head_node_id": FAKE_HEAD_NODE_ID, "gcs_address": gcs},
            "head_node_type": "ray.head.default", "available_node_types": {"ray.head.default": head, **types}}


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
