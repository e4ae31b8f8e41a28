"""Jobs through `ray job submit` and jobs.submit to a real head with token authentication, storage on a real S3 server."""

import json
import shlex
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import ray
from head import ROOT, Head
from ray.job_submission import JobDetails, JobSubmissionClient

from jobs.packing import Package
from jobs.submit import identity, is_not_ready, look, running
from robust.config_file import default_config, load_config, parse
from robust.errors import UserError
from robust.storage import Storage


@pytest.fixture
def head(s3_server, tmp_path):
    with Head(tmp_path, s3_server.environment) as head:
        yield head


@pytest.mark.cluster
@pytest.mark.head
def test_a_submitted_job_joins_the_cluster_and_writes_its_result(head, s3, tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    command = [sys.executable, "tests/cluster/trivial_job.py", "--config", str(tmp_path / "config.yaml"),
               f"storage.uri={s3.uri}", "cluster.address=auto", "run.name=submitted"]
    head.submit_command("trivial", ["env", "PYTHONPATH=.", *command])
    status = head.wait("trivial", timeout_s=240)
    log = head.client().get_job_logs("trivial")
    assert status == "SUCCEEDED", log
    assert log.splitlines()[-1] == "evaluate: hello"
    assert Storage.from_config(s3).read_json("submitted/evaluate/result.json")["status"] == "done"

    head.submit_command("bad", ["env", "PYTHONPATH=.", *command, "train.batch_size=1"])
    assert head.wait("bad", timeout_s=120) == "FAILED"
    assert "exit code 2" in head.client().get_job_info("bad").message
    assert "train.batch_size" in head.client().get_job_logs("bad").splitlines()[-1]

    without_token = {**head.environment, "RAY_AUTH_MODE": "disabled"}
    del without_token["RAY_AUTH_TOKEN_PATH"]
    refused = head.cli("list", environment=without_token)
    assert refused.returncode != 0 and "token" in (refused.stdout + refused.stderr).lower()


def submit_job(head, *arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "jobs.submit", *arguments, "--address", head.address], cwd=ROOT, text=True,
                            env={**head.environment, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.cluster
@pytest.mark.head
def test_jobs_submit_ends_as_its_job_does_and_does_not_start_a_running_one_again(head, s3, tmp_path):
    own = [f"storage.uri={s3.uri}", "storage.addressing_style=path", "run.name=wait"]
    empty = submit_job(head, "evaluate", "--follow", *own)  # also while the head is not ready yet
    told, _ = empty.communicate(timeout=300)
    assert empty.returncode == 1 and "files, " in told, told
    assert "submit: wait-evaluate-" in told.splitlines()[-1] and "failed with exit code 1" in told.splitlines()[-1]
    assert any(line.startswith("evaluate: error: ") and "jobs." in line for line in told.splitlines()), told  # the job's own last line

    (tmp_path / "config.yaml").write_text("{}")
    client = head.client()
    client.submit_job(
        entrypoint=f"{sys.executable} tests/cluster/trivial_job.py --config {tmp_path / 'config.yaml'} {' '.join(own)}", submission_id="waits",
        runtime_env={"working_dir": str(ROOT), "env_vars": {"PYTHONPATH": "."}}, metadata={**identity(load_config(default_config(), own), "evaluate"), "more": "1"})
    following = submit_job(head, "evaluate", "--follow", *own)
    lines = []
    for line in following.stdout:
        lines.append(line)
        if line.startswith("ready"):
            following.send_signal(signal.SIGINT)
            break
    rest, _ = following.communicate(timeout=60)
    assert "running already as waits; nothing was submitted" in lines[0], lines
    assert following.returncode == 1 and "job waits goes on" in rest, rest
    other = submit_job(head, "evaluate", *own, "evaluate.gallery=0")
    told, _ = other.communicate(timeout=60)
    assert other.returncode == 1 and "is running as waits with other settings" in told, told
    assert client.get_job_status("waits") == "RUNNING" and len([job for job in client.list_jobs() if job.submission_id]) == 2
    client.stop_job("waits")
    assert head.wait("waits", timeout_s=60) == "STOPPED"

    refused = submit_job(head, "evaluate", *own, RAY_AUTH_TOKEN="no", RAY_AUTH_TOKEN_PATH="")
    told, _ = refused.communicate(timeout=60)
    assert refused.returncode == 1 and "submit: error: the cluster refuses the token" in told and "Traceback" not in told, told


def test_jobs_submit_refuses_what_cannot_work_before_it_asks_a_cluster(capsys):
    from jobs.submit import main

    assert main(["train", "--address", "http://127.0.0.1:9", "train.batch_size=-4"]) == 2
    assert "train.batch_size" in capsys.readouterr().err
    assert main(["train", "--address", "http://127.0.0.1:9", "--profile", "demo"]) == 2
    assert "cluster.address=auto" in capsys.readouterr().err


class Jobs:
    """Of a head only its list of jobs."""

    def __init__(self, *jobs: tuple[str, str, dict | None]):
        self.jobs = [JobDetails(submission_id=name, status=status, metadata=metadata, type="SUBMISSION", entrypoint="") for name, status, metadata in jobs]

    def list_jobs(self) -> list[JobDetails]:
        return self.jobs


def test_a_job_is_the_same_in_its_storage_alone_and_with_its_settings_alone():
    def of(uri="s3://mine/runs", **sections):
        return identity(parse({"run": {"name": "r"}, "storage": {"uri": uri}, **sections}), "train")

    mine = of()
    assert running(Jobs(("a", "RUNNING", None), ("b", "FAILED", mine), ("c", "PENDING", {**mine, "more": "1"})), mine) == "c"
    assert running(Jobs(("a", "RUNNING", of("s3://theirs/runs"))), mine) is None
    elsewhere = {"storage": {"uri": "s3://mine/runs", "endpoint_url": "http://127.0.0.1:9"}}
    assert running(Jobs(("a", "RUNNING", of(**elsewhere))), mine) is None
    for other in ({"train": {"batch_size": 16}}, {"train": {"workers": 2}}):
        with pytest.raises(UserError, match="train of run r in s3://mine/runs is running as a with other settings"):
            running(Jobs(("a", "RUNNING", of(**other))), mine)


class Dashboard(BaseHTTPRequestHandler):
    """Of a head's dashboard what a client needs that follows job `mine`."""

    def do_GET(self):
        job = {"type": "SUBMISSION", "submission_id": "mine", "status": "SUCCEEDED", "entrypoint": "", "driver_exit_code": 0}
        answers = {"/api/version": {"version": "1", "ray_version": ray.__version__, "ray_commit": ""}, "/api/jobs/": [job], "/api/jobs/mine": job, "/api/jobs/mine/logs": {"logs": "said"}}
        body = json.dumps(answers[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(address: tuple[str, int]) -> HTTPServer:
    server = HTTPServer(address, Dashboard)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


@pytest.mark.parametrize("ask, answer", [(lambda client: look(client, "mine")[1], "said"), (lambda client: running(client, {"run": "r"}), None)])
def test_a_dashboard_that_is_away_for_a_moment_is_waited_for(monkeypatch, ask, answer):
    """By Ray's own client, over HTTP: it raises other errors than it does for a head that it has never reached."""
    server = serve(("127.0.0.1", 0))
    client = JobSubmissionClient(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    back = []

    def sleep(_):
        back.append(None if len(back) < 2 else serve(server.server_address))  # HTTPServer takes an address again at once

    with monkeypatch.context() as patch:
        patch.setattr("jobs.submit.time.sleep", sleep)
        assert ask(client) == answer and len(back) == 3
    back[-1].shutdown()
    back[-1].server_close()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_head_that_is_not_ready_is_told_by_its_status_not_by_a_number_in_a_name(status):
    assert is_not_ready(RuntimeError(f"Request failed with status code {status}: No answer."))
    assert is_not_ready(RuntimeError("Request failed with status code 400: No available agent to submit job"))
    assert not is_not_ready(RuntimeError(f"Request failed with status code 400: mine-{status} in /data/{status} is no name."))
    assert not is_not_ready(RuntimeError(f"the working_dir /data/{status} is not there"))


@pytest.mark.parametrize("stage", ["train", "pipeline"])
def test_what_preflight_says_would_fail_is_not_begun(stage):
    from jobs import cli, preflight, submit

    given = ["--config", "my config.yaml", "--profile", "small", "run.name=a b"]
    line = submit.entrypoint(submit.parse_arguments([stage, *given]), Package(Path("p.zip"), 1, 1, "my config.yaml"))
    *looks, job = [shlex.split(command) for command in line.split(" && ")]
    if stage == "pipeline":  # it looks itself: tests/cluster/test_preflight.py
        assert looks == [] and job == ["python", "-m", "jobs.pipeline", *given]
        return
    assert looks == [["python", "-m", "jobs.preflight", "--stage", stage, *given]]
    assert job == ["exec", "python", "-m", f"jobs.{stage}", *given]
    looked, done = preflight.parse_arguments(looks[0][3:]), cli.parse_arguments(stage, job[4:])
    assert looked.stage == stage and looked.overrides == done.overrides == ["run.name=a b"]
    assert looked.profile == done.profile == "small" and looked.config == done.config == "my config.yaml"


def test_the_command_of_the_runs_tensorboard_takes_the_jobs_settings():
    from cluster import monitor
    from jobs import submit

    given = submit.parse_arguments(["tune", "--follow", "--config", "my config.yaml", "--profile", "small", "run.name=a b", "storage.uri=s3://b/runs"])
    python, module, name, *rest = shlex.split(submit.monitor_command(given))
    watched = monitor.parse_arguments(rest)
    assert (python, module, name) == ("python", "-m", "cluster.monitor")
    assert (watched.config, watched.profile, watched.overrides) == (given.config, given.profile, given.overrides)
