"""cluster/local.py and jobs/cli.py together: a real Ray and S3 server, in a process of their own."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import Marked, listening

from cluster.local import KEEP_MEMORY, LocalCluster
from cluster.monitoring import event_files
from cluster.s3_server import S3Server
from robust.config import StorageConfig
from robust.config_file import parse
from robust.errors import ConfigError
from robust.storage import Storage

ROOT = Path(__file__).resolve().parents[2]
JOB = Path(__file__).with_name("trivial_job.py")
CONFIG = """
run: {{name: wait}}
storage: {{uri: s3://runs/demo}}
cluster: {{address: local, num_cpus: 1, object_store_memory_mb: 100, local_s3: true, outputs: {outputs}}}
"""


class Job:
    """The trivial job, started and ready (its task has run), with all that it started."""

    def __init__(self, folder: Path):
        self.folder, self.marked = folder, Marked()
        (folder / "config.yaml").write_text(CONFIG.format(outputs=folder / "outputs"))
        (folder / "home").mkdir()
        self.errors = open(folder / "stderr", "w+")
        self.process = subprocess.Popen(
            [sys.executable, str(JOB), "--config", str(folder / "config.yaml")], cwd=ROOT, text=True,
            env={**self.marked.environment(), "PYTHONPATH": str(ROOT), "HOME": str(folder / "home"), "MALLOC_ARENA_MAX": "3"},
            stdout=subprocess.PIPE, stderr=self.errors)

    def wait_until_ready(self) -> str:
        for line in self.process.stdout:
            if line.startswith("ready"):
                return line
        raise AssertionError(f"the job ended early: {self.stderr()}")

    def session_folder(self) -> Path:
        """Ray's temporary folder, as its processes' command lines tell; from now on who logs there is watched."""
        found = re.search(r"(/\S*deepfake-ray-[^/\s]+)/", "\n".join(self.marked.alive().values())).group(1)
        self.marked.watch(Path(found))
        return Path(found)

    def stderr(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_) -> None:
        for pid in self.marked.alive():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


@pytest.mark.cluster
def test_ctrl_c_leaves_data_and_logs_but_no_process(tmp_path, monkeypatch):
    with Job(tmp_path) as job:
        seen = job.wait_until_ready()
        assert "'auth_mode': 'token'" in seen and "'home_token': False" in seen
        assert str(["3", *list(KEEP_MEMORY.values())[1:]]) in seen  # what the user set stays
        commands = "\n".join(job.marked.alive().values())
        assert all(name in commands for name in ("weed", "raylet", "gcs_server", "trivial_job.py"))
        folder = job.session_folder()
        ports = listening(job.marked.alive())
        assert len(ports) > 10 and {address for address, _ in ports} == {"127.0.0.1"}  # metrics ask for no token
        job.process.send_signal(signal.SIGINT)
        assert job.process.wait(120) == 1
        assert job.marked.alive() == {}
        assert job.stderr().splitlines()[-1].startswith("evaluate: error: stopped"), job.stderr()
    assert not folder.exists() and (tmp_path / "outputs/ray/logs/raylet.out").exists()
    assert (tmp_path / "outputs/ray/auth_token").stat().st_mode & 0o777 == 0o600
    with S3Server(tmp_path / "outputs" / "s3", bucket="runs") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        storage = Storage.from_config(StorageConfig(uri="s3://runs/demo"))
        assert storage.list() == ["from/task", "wait/config.yaml"]


@pytest.mark.cluster
@pytest.mark.fault
def test_a_killed_job_takes_ray_and_the_server_along(tmp_path):
    with Job(tmp_path) as job:
        job.wait_until_ready()
        folder = job.session_folder()
        assert sum("Agent" in command for command in job.marked.alive().values()) == 2
        job.process.send_signal(signal.SIGKILL)
        job.process.wait()
        assert job.marked.wait_until_gone(60) == {}
        assert not folder.exists()


def test_a_process_that_has_not_imported_ray_yet_can_start_a_cluster(tmp_path):
    # Ray brings psutil along, and only where Ray was imported before.
    code = "import sys; from pathlib import Path; from cluster.local import _guarded\nwith _guarded(Path(sys.argv[1])): print('guarded')"
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path / "session")], cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert told.stdout == "guarded\n" and told.returncode == 0, told.stderr


@pytest.mark.parametrize("sections, told", [
    ({"cluster": {"address": "auto", "local_s3": True}, "storage": {"uri": "s3://b/p"}}, "cluster.address='auto'"),
    ({"cluster": {"address": "local", "local_s3": True}, "storage": {"uri": "outputs"}}, "storage.uri is 'outputs'"),
    ({"cluster": {"address": "local", "local_s3": True}, "storage": {"uri": "s3://b/p", "endpoint_url": "http://h:1"}},
     "storage.endpoint_url is 'http://h:1'"),
])
def test_contradictions_are_told_before_anything_starts(sections, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        LocalCluster(parse(sections))


@pytest.mark.cluster
def test_the_environment_is_put_back(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_PROFILE", "my-profile")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    before = dict(os.environ)
    config = parse({"storage": {"uri": "s3://runs/demo"},
                    "cluster": {"address": "local", "local_s3": True, "outputs": str(tmp_path)}})
    with pytest.raises(KeyError), LocalCluster(config, needs_ray=False) as cluster:
        assert cluster.s3.wait_s > 2 * event_files.LONGEST_S  # the monitor may hold the folder for so long
        assert os.environ["AWS_ENDPOINT_URL"] == cluster.s3.endpoint_url and "AWS_PROFILE" not in os.environ
        Storage.from_config(config.storage).check()
        raise KeyError("x")
    assert dict(os.environ) == before
