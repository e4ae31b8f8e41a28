"""The cluster of a job: one started here, with its own S3 server, or one that runs already and is only joined.

    with LocalCluster(config):
        ...  # Ray is up; Storage.from_config(config.storage) works here and in Ray's processes

On leaving, whatever was started is stopped and no process stays behind: after success, an error, Ctrl-C and SIGTERM.
If the job is killed with kill -9, the kernel takes the servers along (Linux) and cluster/guardian.py the rest.
"""

import functools
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cluster.environment import environment
from cluster.guardian import end_session
from cluster.s3_server import OTHERS, S3Server, write_private
from cluster.tls import VARIABLES, issue, require
from robust.config import ClusterConfig, Config
from robust.errors import ConfigError, UserError
from robust.object_stores.address import bucket_of
from robust.storage import is_s3

logger = logging.getLogger(__name__)

SESSION_MARK = "DEEPFAKE_RAY_SESSION"
KEEP_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**26)}
"""Asks glibc's malloc to keep memory that is freed. By itself it gives feature maps of 32 MiB and more back at once, smaller ones of a thread too (Ray
Train trains in one), and the kernel, which makes their pages anew, took up to half of the time of a training step (benchmarks.kept_memory)."""
FOLDER_WAIT_S = 60.0
"""For the folder of the S3 server: cluster.monitor reads it for cluster/monitoring/event_files.LONGEST_S at most."""


class LocalCluster:
    """Context manager around a job: Ray (and the S3 server, if `cluster.local_s3`) as `config.cluster` says.

    Attributes:
        s3: the S3Server, or None.
        dashboard_url: of the Ray dashboard, or None.
    """

    def __init__(self, config: Config, *, needs_ray: bool = True):
        """
        Raises: ConfigError: the cluster and storage sections contradict each other.
        """
        self.config, self.needs_ray = config, needs_ray
        self.s3: S3Server | None = None
        self.dashboard_url: str | None = None
        self._is_local = config.cluster.address == "local"
        self._undo = ExitStack()
        _check(config)

    def __enter__(self) -> "LocalCluster":
        try:
            if not self._is_local:
                self._join()
            else:
                self._start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *_) -> None:
        with _signals_ignored():
            self._undo.close()

    def _join(self) -> None:
        """Connects to a cluster that others own."""
        if not self.needs_ray:
            return
        if self.config.cluster.tls:
            require()
        import ray

        address = self.config.cluster.address
        try:
            context = ray.init(address=address, logging_level="warning")
        except ray.exceptions.AuthenticationError as error:
            raise UserError("the Ray cluster asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the "
                            "file with the cluster's token.") from error
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster answers at cluster.address={address}: start one, submit this job with "
                            "`ray job submit`, or set cluster.address=local.") from error
        self._undo.callback(ray.shutdown)
        self.dashboard_url = context.dashboard_url

    def _start(self) -> None:
        cluster, outputs = self.config.cluster, Path(self.config.cluster.outputs).absolute()
        if cluster.local_s3:
            server = S3Server(outputs / "s3", bucket=bucket_of(self.config.storage.uri), wait_s=FOLDER_WAIT_S)
            self.s3 = self._undo.enter_context(server)
            self._undo.enter_context(environment(self.s3.environment, without=OTHERS))
        if self.needs_ray:
            self._undo.enter_context(environment(_ray_environment(cluster, outputs / "ray"), without=("RAY_ADDRESS",)))
            self._start_ray(outputs / "ray")

    def _start_ray(self, outputs: Path) -> None:
        folder = _temporary_folder()
        token = folder / "auth_token"  # not the one in outputs: another job's start writes that anew
        write_private(token, _token())
        own = {SESSION_MARK: str(folder), "RAY_AUTH_TOKEN_PATH": str(token)}
        if self.config.cluster.tls:
            own |= issue(folder / "tls", ())
        self._undo.callback(_read_settings)  # after the environment is as it was: a later cluster may do without TLS
        self._undo.enter_context(environment(own, without=VARIABLES))
        self._undo.enter_context(_guarded(folder))
        self._undo.callback(_stop_ray, folder, outputs / "logs")
        from ray._private import ray_constants

        _read_settings()
        self._undo.callback(setattr, ray_constants, "ENABLE_RAY_CLUSTER", ray_constants.ENABLE_RAY_CLUSTER)
        ray_constants.ENABLE_RAY_CLUSTER = False  # as on macOS: all ports on 127.0.0.1, of which metrics ask for no token
        try:
            context = self._init_ray(folder)
        except Exception as error:  # on a busy machine Ray gives up after a fixed 30 s; it raises a bare Exception
            logger.warning("Ray did not start (%s); trying once more", _first_line(error))
            _end_ray(folder)
            try:
                context = self._init_ray(folder)
            except Exception as error:
                raise UserError(f"Ray did not start ({_first_line(error)}); its logs are in {outputs / 'logs'}. Is "
                                "there memory for cluster.object_store_memory_mb, and an idle core?") from error
        self.dashboard_url = f"http://{context.dashboard_url}" if context.dashboard_url else None

    def _init_ray(self, folder: Path):
        import ray

        cluster = self.config.cluster
        return ray.init(
            "local",  # never "auto": a crashed cluster's address file would be joined
            num_cpus=cluster.num_cpus,
            num_gpus=cluster.num_gpus,
            object_store_memory=cluster.object_store_memory_mb * 2**20,
            include_dashboard=cluster.dashboard,
            dashboard_host="127.0.0.1",
            dashboard_port=cluster.dashboard_port if cluster.dashboard else None,
            logging_level="warning",
            log_to_driver=False,  # a local run shows its own progress; the workers' logs are kept in outputs
            _temp_dir=str(folder),
        )


def _first_line(error: Exception) -> str:
    return f"{error}".partition("\n")[0][:200]


def _check(config: Config) -> None:
    cluster, storage = config.cluster, config.storage
    if not cluster.local_s3:
        return
    if cluster.address != "local":
        raise ConfigError(f"cluster.local_s3 is true with cluster.address={cluster.address!r}: other machines cannot "
                          "reach an S3 server on 127.0.0.1; set it to false, and storage.uri to a shared bucket.")
    if not is_s3(storage.uri):
        raise ConfigError(f"cluster.local_s3 is true, but storage.uri is {storage.uri!r}; give s3://bucket/prefix.")
    if storage.endpoint_url is not None:
        raise ConfigError(f"cluster.local_s3 is true, but storage.endpoint_url is {storage.endpoint_url!r}; leave it "
                          "null: the server takes a free port.")


def _read_settings() -> None:
    """Ray reads RAY_AUTH_MODE and RAY_USE_TLS when it is imported, which may have been long ago."""
    from ray._raylet import Config as RayletConfig

    RayletConfig.initialize("")


@functools.cache
def _token() -> str:
    """One for all clusters of this process: Ray reads it once in a process and keeps it."""
    return secrets.token_hex(32)


def _ray_environment(cluster: ClusterConfig, outputs: Path) -> dict[str, str]:
    """What Ray's processes, which inherit it, must find in their environment."""
    token = outputs / "auth_token"  # a file of its own: Ray would write ~/.ray/auth_token
    write_private(token, _token())
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too: nodes of this Ray are at 127.0.0.1
        "RAY_worker_niceness": "0",  # Ray's 15 starves its workers on a machine that does anything else
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody reclaims this machine
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1" if cluster.dashboard else "0",
        **{name: os.environ.get(name, value) for name, value in KEEP_MEMORY.items()},
    }


def _temporary_folder() -> Path:
    """A folder for Ray's session with a short path: its sockets allow 107 bytes."""
    top = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="deepfake-ray-", dir=top))


@contextmanager
def _guarded(folder: Path):
    """On leaving, all processes of the Ray session are gone, and its folder; also if this process is killed."""
    import ray  # noqa: F401  makes psutil importable: it must come first

    # isort: split
    import psutil

    guardian = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("guardian.py")), SESSION_MARK, str(folder),
         str(Path(psutil.__file__).parent.parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != SESSION_MARK})
    try:
        guardian.stdout.readline()
        yield
    finally:
        guardian.stdin.close()
        guardian.wait()
        guardian.stdout.close()


def _end_ray(folder: Path) -> None:
    """Ends what a start of Ray that failed has left."""
    import psutil
    import ray

    ray.shutdown()
    end_session(psutil, SESSION_MARK, str(folder), grace_s=0)


def _stop_ray(folder: Path, logs: Path) -> None:
    """Stops Ray and keeps the session's logs in `logs`, in place of the last one's."""
    import ray

    ray.shutdown()
    shutil.rmtree(logs, ignore_errors=True)
    if (folder / "session_latest" / "logs").exists():
        with suppress(OSError):  # another job that ends now may be removing what is copied
            shutil.copytree(folder / "session_latest" / "logs", logs, symlinks=True, dirs_exist_ok=True)


@contextmanager
def _signals_ignored():
    """A second Ctrl-C does not interrupt the cleaning up after the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(name, signal.SIG_IGN) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, handlers):
            signal.signal(name, handler if handler is not None else signal.SIG_DFL)
