"""Watches runs on this machine: TensorBoard, Prometheus with alert rules, and dashboards for Grafana. All on 127.0.0.1.

    python -m cluster.monitor [--config FILE] [--profile NAME] [section.key=value ...]    (make monitor: the demo's)

Start it before, during or after a job; it finds the Rays of this machine by itself and reads nothing but the run's
storage and the metrics. Ctrl-C stops it. See docs/monitoring.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from cluster.monitoring import event_files, targets
from cluster.monitoring.alerts import rules_yaml
from cluster.monitoring.dashboards import dashboard, rays_own
from cluster.monitoring.prometheus import Prometheus, find_prometheus, require_free
from cluster.monitoring.run_storage import RunStorage
from cluster.tied_process import served
from robust.config import Config
from robust.config_file import default_config, load_config
from robust.errors import ConfigError, UserError

LOOK_S = 5
SYNC_S = 15


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _stop_once)
    if arguments.write is not None:
        write_files(Path(arguments.write).absolute(), arguments.prometheus_port)
        return 0
    try:
        config = load_config(arguments.config, arguments.overrides, profile=arguments.profile)
        with ExitStack() as started:
            watch(config, arguments, started)
    except KeyboardInterrupt:
        return 0
    except UserError as error:
        print(f"monitor: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


def _stop_once(*_) -> None:
    """A second signal (a shell and `timeout` send two) must not interrupt the stopping of the servers."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cluster.monitor", description=__doc__.partition("\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that override the file")
    parser.add_argument("--config", default=default_config(), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--profile", metavar="NAME", help="one of the file's profiles")
    parser.add_argument("--prometheus-port", type=int, default=9090, metavar="PORT", help="default: %(default)s")
    parser.add_argument("--tensorboard-port", type=int, default=6006, metavar="PORT", help="default: %(default)s")
    parser.add_argument("--write", metavar="FOLDER", help="only write rules.yml and grafana/ there")
    return parser.parse_intermixed_args(argv)


def watch(config: Config, arguments: argparse.Namespace, started: ExitStack) -> None:
    """Starts everything, then keeps targets and event files up to date until it is interrupted."""
    outputs = Path(config.cluster.outputs).absolute()
    folder, events = outputs / "monitor", outputs / "monitor" / "tensorboard" / config.run.name
    write_dashboards(folder / "grafana", f"http://127.0.0.1:{arguments.prometheus_port}")
    storage = RunStorage(config)
    synced = _sync(storage, config.run.name, events, "no event files yet")
    event_files.write_layout(events)
    process = started.enter_context(tensorboard(events, arguments.tensorboard_port))
    servers = {"TensorBoard": (process, tensorboard_log(events))}
    _say(f"TensorBoard   http://127.0.0.1:{arguments.tensorboard_port}/#custom_scalars  ({synced})")
    try:
        find_prometheus()
    except UserError as error:
        (folder / "rules.yml").write_text(rules_yaml())  # for one of the user's own
        _say(f"without Prometheus: {error}")
    else:
        prometheus = started.enter_context(Prometheus(folder, port=arguments.prometheus_port))
        servers["Prometheus"] = prometheus.process, prometheus.log
        _say(f"Prometheus    {prometheus.url}  (Alerts, Graph, Status: Targets)")
        _say(f"Grafana       dashboards and provisioning in {folder / 'grafana'} (Grafana itself is not part of this)")
    known, round_, steps = None, 0, SYNC_S // LOOK_S
    while True:
        addresses = targets.update(folder / "targets")
        if addresses != known:
            known = addresses
            _say(
                f"metrics of {', '.join(addresses)}"
                if addresses
                else "no Ray runs on this machine yet; waiting for one"
            )
        require_running(servers)
        time.sleep(LOOK_S)
        round_ += 1
        if round_ % steps == 0:
            synced, before = _sync(storage, config.run.name, events, synced), synced
            if synced != before:
                _say(synced)


def require_running(servers: Mapping[str, tuple[subprocess.Popen, Path]]) -> None:
    """
    Args:
        servers: process and log by name.
    Raises: UserError: one has ended by itself.
    """
    for name, (process, log) in servers.items():
        if process.poll() is not None:
            raise UserError(f"{name} has ended (exit status {process.returncode}); why is in {log}. Start this again.")


def _sync(storage: RunStorage, run: str, events: Path, before: str) -> str:
    """Copies what is new; says in a few words what is shown, `before` if there was nothing to read."""
    try:
        with storage.open() as opened:
            if opened is None:
                return before
            event_files.sync(opened, run, events)
            return f"run {run}, from {opened.uri()}"
    except (UserError, OSError) as error:
        return f"run {run}, not up to date: {str(error).splitlines()[0][:200]}"


@contextmanager
def tensorboard(events: Path, port: int) -> Iterator[subprocess.Popen]:
    """The server. Raises: UserError: its port is taken."""
    require_free(port, "--tensorboard-port")
    program = Path(sys.executable).with_name("tensorboard")
    command = [str(program), "--logdir", str(events), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--reload_interval", str(SYNC_S), "--reload_multifile", "true"]
    with served(command, tensorboard_log(events), patience_s=10) as process:
        yield process


def tensorboard_log(events: Path) -> Path:
    return events.parent / "tensorboard.log"


def write_files(folder: Path, prometheus_port: int) -> None:
    """Everything that a Prometheus and a Grafana of the user's own need."""
    write_dashboards(folder / "grafana", f"http://127.0.0.1:{prometheus_port}")
    (folder / "rules.yml").write_text(rules_yaml())


def write_dashboards(folder: Path, prometheus: str) -> None:
    """`dashboards/*.json`, ours and Ray's, and `provisioning/` for a Grafana on this machine."""
    boards, provisioning = folder / "dashboards", folder / "provisioning"
    for path in (boards, provisioning / "datasources", provisioning / "dashboards"):
        path.mkdir(parents=True, exist_ok=True)
    for name, board in {"robust-deepfake": dashboard(), **rays_own()}.items():
        (boards / f"{name}.json").write_text(json.dumps(board, indent=1))
    source = {"name": "Prometheus", "type": "prometheus", "access": "proxy", "url": prometheus, "isDefault": True}
    provider = {"name": "robust-deepfake", "folder": "Ray", "type": "file", "options": {"path": str(boards)}}
    (provisioning / "datasources" / "prometheus.yml").write_text(
        yaml.safe_dump({"apiVersion": 1, "datasources": [source]})
    )
    (provisioning / "dashboards" / "files.yml").write_text(yaml.safe_dump({"apiVersion": 1, "providers": [provider]}))


def _say(text: str) -> None:
    print(f"monitor: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
