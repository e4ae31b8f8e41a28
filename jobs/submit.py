"""Submits a job to a Ray cluster and, if asked, follows it to its end.

    python -m jobs.submit STAGE [--address URL] [--follow] [--config FILE] [--profile NAME] [section.key=value ...]

The settings are checked here, before anything is sent. The exit code is the job's own with --follow, else 0 once the cluster
has accepted it. A stage of a run that is running already is not started twice: its job is followed instead, or it is refused if
its settings are others. Runs of one name in two storages are two runs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from requests import RequestException

from jobs.cli import report_failure
from jobs.packing import Package, pack
from jobs.run_folder import FOLDERS
from robust.config import Config
from robust.config_file import default_config, load_config
from robust.config_identity import dump_yaml
from robust.deploy_config import JOBS
from robust.errors import ConfigError, UserError
from robust.storage import Storage

LOCAL_DASHBOARD = "http://127.0.0.1:8265"
NOT_READY = ("No available agent", "Failed to connect", "Connection refused")
"""What a head says that will take jobs in a moment: its dashboard answers before its agent has registered."""
NOT_READY_STATUS = (500, 502, 503, 504)
"""And with which status."""
UNREACHABLE = (ConnectionError, RequestException)
"""What Ray's client raises where nobody answers: the first as it connects, the second later, which is no ConnectionError of Python's."""
PATIENCE_S = 180
"""For a head that is not ready to take the job."""
OUTAGE_S = 600
"""For a head that does not answer while its job is followed; a head that restarts takes minutes."""
POLL_S = 2.0
WATCHED = ("train", "tune", "evaluate", "pipeline")
"""Stages that write event files."""
DEAD = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = parse_arguments(argv)
    try:
        config = load_config(arguments.config, arguments.overrides, profile=arguments.profile)
        require_joining(config)
        client = connect(arguments.address)
        metadata = identity(config, arguments.stage)
        name = running(client, metadata)
        if name is not None:
            say(f"{arguments.stage} of run {config.run.name} is running already as {name}; nothing was submitted")
        else:
            name = f"{config.run.name}-{arguments.stage}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
            with tempfile.TemporaryDirectory() as folder:
                package = pack(Path(__file__).resolve().parent.parent, Path(arguments.config), Path(folder))
                say(f"sending {package.files} files, {package.size / 2**20:.1f} MiB packed")
                submit(client, name, entrypoint(arguments, package), package, metadata)
        say(f"job {name}; dashboard: {arguments.address}/#/jobs/{name}")
        if arguments.stage in WATCHED:
            say(f"TensorBoard: {monitor_command(arguments)}")
        if not arguments.follow:
            say("see its log: the same command with --follow, as long as it runs")
            return 0
        return follow(client, name, ending=lambda: links(config, arguments.stage))
    except BaseException as error:
        return report_failure("submit", error)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.submit", allow_abbrev=False, description="Submits a job to a Ray cluster.",
        epilog="RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) name the cluster's token; python -m jobs.STAGE --help lists the settings")
    parser.add_argument("stage", choices=(*JOBS, "detect"), help="the job")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that override the file")
    parser.add_argument("--address", default=os.environ.get("RAY_API_SERVER_ADDRESS", LOCAL_DASHBOARD), metavar="URL",
                        help="of the cluster's dashboard; RAY_API_SERVER_ADDRESS, else %(default)s")
    parser.add_argument("--follow", action="store_true", help="show the job's log and end with its exit code")
    parser.add_argument("--config", default=default_config(), metavar="FILE", help="sent along; default: %(default)s")
    parser.add_argument("--profile", metavar="NAME", help="one of the file's profiles, laid over it")
    arguments = parser.parse_intermixed_args(argv)
    arguments.address = arguments.address.rstrip("/")
    return arguments


def require_joining(config: Config) -> None:
    """Raises: ConfigError for settings with which the job would start a Ray or a storage of its own on the head."""
    if config.cluster.address == "local" or config.cluster.local_s3:
        raise ConfigError(f"cluster.address={config.cluster.address!r}, cluster.local_s3={config.cluster.local_s3}: a submitted job joins the cluster and its storage; "
                          "add cluster.address=auto cluster.local_s3=false and a storage.uri that all nodes reach")
    if "://" not in config.storage.uri:
        say(f"note: storage.uri={config.storage.uri!r} is a folder; it must be the same one on every node")


def connect(address: str) -> JobSubmissionClient:
    """A client of a head that answers.

    Raises:
        UserError: nobody answers within PATIENCE_S, or the token is missing or wrong.
    """
    return patiently(lambda: JobSubmissionClient(address), f"no Ray dashboard answers at {address}; give its URL with --address (through a tunnel if it is not public)")


def identity(config: Config, stage: str) -> dict[str, str]:
    """What tells a job from others: its run, where that lies, the stage, and a hash of all settings."""
    storage = config.storage.uri.rstrip("/") + (f" at {config.storage.endpoint_url}" if config.storage.endpoint_url else "")
    settings = hashlib.sha256(dump_yaml(config).encode()).hexdigest()[:16]
    return {"run": config.run.name, "stage": stage, "storage": storage, "settings": settings}


def running(client: JobSubmissionClient, metadata: dict[str, str]) -> str | None:
    """The submission that does this already, if any.

    Args:
        metadata: from `identity`.
    Raises:
        UserError: it is running with other settings.
    """
    of_run = {name: value for name, value in metadata.items() if name != "settings"}
    for job in patiently(client.list_jobs, "the cluster does not tell its jobs; look at its dashboard"):
        told = job.metadata or {}
        if job.status in DEAD or not of_run.items() <= told.items():
            continue
        if told.get("settings") != metadata["settings"]:
            raise UserError(f"{metadata['stage']} of run {metadata['run']} in {metadata['storage']} is running as {job.submission_id} with other settings; give the same ones "
                            f"to follow it, wait for its end, stop it (ray job stop {job.submission_id}), or choose another run.name")
        return job.submission_id
    return None


def entrypoint(arguments: argparse.Namespace, package: Package) -> str:
    """The job's command line; what preflight says would fail is not begun. The pipeline does that itself."""
    profile = ["--profile", arguments.profile] if arguments.profile else []
    settings = ["--config", package.config, *profile, *arguments.overrides]
    job = shlex.join(["python", "-m", f"jobs.{arguments.stage}", *settings])
    if arguments.stage == "pipeline":
        return job
    return f"{shlex.join(['python', '-m', 'jobs.preflight', '--stage', arguments.stage, *settings])} && exec {job}"


def monitor_command(arguments: argparse.Namespace) -> str:
    """The command that shows the run's TensorBoard from here, out of its storage."""
    profile = ["--profile", arguments.profile] if arguments.profile else []
    return shlex.join(["python", "-m", "cluster.monitor", "--config", str(arguments.config), *profile, *arguments.overrides])


def submit(client: JobSubmissionClient, name: str, command: str, package: Package, metadata: dict[str, str]) -> None:
    """Submits under a name of our own, so that a request that was lost on its way is not a second job."""
    def once() -> None:
        try:
            client.submit_job(entrypoint=command, submission_id=name, runtime_env={"working_dir": str(package.path)}, metadata=metadata)
        except RuntimeError as error:
            if "already exists" not in str(error):  # else an earlier request of ours arrived after all
                raise

    patiently(once, "the cluster does not take the job; look at its dashboard")


def patiently(action: Callable, message: str):
    """The action's result, tried again while the head is not ready.

    Raises:
        UserError: it was not ready for PATIENCE_S, or said something else.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except AuthenticationError as error:
            raise UserError(f"the cluster refuses the token ({_first_line(error)}); set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's") from error
        except (RuntimeError, *UNREACHABLE) as error:
            told = _first_line(error)
            if not isinstance(error, UNREACHABLE) and not is_not_ready(error):
                raise UserError(f"the cluster says: {told[:300]}") from error
            if time.monotonic() > deadline:
                raise UserError(f"{message} ({told[:200]})") from error
            time.sleep(1)


def is_not_ready(error: Exception) -> bool:
    """Whether a head that answers so may take the job in a moment."""
    return status_of(error) in NOT_READY_STATUS or any(reason in str(error) for reason in NOT_READY)


def status_of(error: Exception) -> int | None:
    """The HTTP status that Ray's client tells of, if it does: names and paths in the answer may hold any number."""
    found = re.match(r"Request failed with status code (\d{3}):", str(error))
    return int(found.group(1)) if found else None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def follow(client: JobSubmissionClient, name: str, *, ending: Callable[[], list[str]]) -> int:
    """Shows the log until the job's status is a final one (a log stream may break before); returns the job's exit code."""
    shown = 0
    try:
        while True:
            details, log = look(client, name)
            if len(log) > shown:
                print(log[shown:].rstrip("\n"), flush=True)
                shown = len(log)
            if details.status in DEAD:
                break
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return leave(client, name)
    code = details.driver_exit_code
    if details.status == JobStatus.SUCCEEDED:
        say(f"{name} has succeeded")
        for line in ending():
            say(line)
        return 0
    say(f"{name} has {'been stopped' if details.status == JobStatus.STOPPED else f'failed with exit code {code}' if code else f'failed: {details.message}'}")
    return code or 1


def look(client: JobSubmissionClient, name: str) -> tuple[JobDetails, str]:
    """Status and log so far; waits for a head that does not answer for a while.

    Raises:
        UserError: no answer for OUTAGE_S.
    """
    began = None
    while True:
        try:
            details = client.get_job_info(name)  # first: what is logged after it is shown in the next round, not lost
            return details, client.get_job_logs(name)
        except (RuntimeError, *UNREACHABLE) as error:
            if status_of(error) == 404 or "does not exist" in str(error):
                raise UserError(f"the cluster does not know job {name} (a head that restarts without its memory forgets jobs); the same command submits it anew") from error
            began = began or time.monotonic()
            if time.monotonic() - began > OUTAGE_S:
                raise UserError(f"the head has not answered for {OUTAGE_S // 60} minutes ({str(error).strip()[:200]}); job {name} may go on: "
                                "the same command with --follow looks again, and starts it anew if it is gone") from error
            time.sleep(POLL_S)


def leave(client: JobSubmissionClient, name: str) -> int:
    """Ctrl-C: asks whether the job is meant too; where nobody can be asked, it goes on."""
    stop = sys.stdin.isatty() and input(f"\nstop job {name} as well? [y/N] ").strip().lower() in ("y", "yes")
    if stop:
        client.stop_job(name)
    say(f"job {name} {'is being stopped' if stop else 'goes on; the same command with --follow shows it again'}")
    return 1


def links(config: Config, stage: str) -> list[str]:
    """Where the job's results are."""
    storage = Storage.from_config(config.storage)
    results = f"result: {storage.uri('/'.join(part for part in (config.run.name, FOLDERS.get(stage, ''), 'result.json') if part))}"
    if stage not in ("evaluate", "pipeline"):
        return [results] if stage in FOLDERS else []
    return [results, f"report: {storage.uri(f'{config.run.name}/report/index.html')}"]


def say(text: str) -> None:
    print(f"submit: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
