"""Prometheus on 127.0.0.1: found or unpacked from Debian's package, its configuration, and questions to it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
from contextlib import ExitStack
from pathlib import Path

import yaml

from cluster.monitoring.alerts import rules_yaml
from cluster.s3_server import OPENER
from cluster.tied_process import served
from robust.errors import UserError

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "prometheus"
PAGES = (
    "libjs-bootstrap4",
    "libjs-d3",
    "libjs-eonasdan-bootstrap-datetimepicker",
    "libjs-jquery",
    "libjs-jquery-hotkeys",
    "libjs-moment",
    "libjs-moment-timezone",
    "libjs-mustache",
    "libjs-popper.js",
    "libjs-rickshaw",
    "fonts-glyphicons-halflings",
)
"""What the web pages of Debian's build are made of."""
KEPT = "30d"
"""How long Prometheus keeps its data."""
MISSING = (
    "no Prometheus here: install it (Debian and Ubuntu: apt-get install prometheus, whose service also listens on all "
    "interfaces until you stop it; macOS: brew install prometheus), or put `prometheus` and `promtool` on the PATH."
)


def find_prometheus() -> Path:
    """The program `prometheus` of the PATH, or of Debian's package unpacked in .cache; `promtool` lies beside it.

    Raises: UserError: there is none, and it cannot be had.
    """
    on_path = shutil.which("prometheus")
    if on_path is not None:
        return Path(on_path)
    unpacked = CACHE / "usr" / "bin" / "prometheus"
    if not unpacked.exists():
        _fetch()
    if not unpacked.exists():
        raise UserError(MISSING)
    return unpacked


def _fetch() -> None:
    """Unpacks the distribution's signed package; nothing is installed, no service started, no root needed."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return
    CACHE.parent.mkdir(exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="prometheus-", dir=CACHE.parent))  # several may do this at once
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "archives" / "partial").mkdir(parents=True)
    own_lists = ["-o", f"Dir::State::lists={work / 'lists'}", "-o", f"Dir::Cache={work}", "-o", "APT::Sandbox::User="]
    for options in ([], own_lists):  # the machine's lists of packages, or fresh ones of our own
        if options and subprocess.run(["apt-get", *options, "update"], cwd=work, capture_output=True).returncode != 0:
            break
        subprocess.run(["apt-get", *options, "download", "prometheus", *PAGES], cwd=work, capture_output=True)
        packages = sorted(work.glob("*.deb"))
        unpacked = [
            subprocess.run(["dpkg-deb", "-x", str(package), str(work / "unpacked")], capture_output=True).returncode
            for package in packages
        ]
        # Every version of every time zone; the page reads one file.
        shutil.rmtree(work / "unpacked/usr/share/javascript/moment-timezone/data", ignore_errors=True)
        _use_scripts_not_modules(work / "unpacked/usr/share/javascript/popper.js")
        if any(package.name.startswith("prometheus_") for package in packages) and not any(unpacked):
            with contextlib.suppress(OSError):  # another was faster
                (work / "unpacked").rename(CACHE)
            break
    shutil.rmtree(work, ignore_errors=True)


def _use_scripts_not_modules(popper: Path) -> None:
    """Debian's popper.js is an ES module under the name by which the pages load a script; the script lies beside it."""
    if popper.is_symlink() and (popper / "umd").is_dir():
        target = popper.readlink()
        popper.unlink()
        popper.symlink_to(target / "umd")


def write_config(folder: Path, *, interval_s: float = 10) -> Path:
    """Writes prometheus.yml and rules.yml; targets are what the files in `folder`/targets say (see targets.py)."""
    (folder / "targets").mkdir(parents=True, exist_ok=True)
    (folder / "rules.yml").write_text(rules_yaml())
    config = {
        "global": {"scrape_interval": _duration(interval_s), "evaluation_interval": _duration(interval_s)},
        "rule_files": [str(folder / "rules.yml")],
        "scrape_configs": [
            {
                "job_name": "ray",
                "file_sd_configs": [{"files": [str(folder / "targets" / "*.json")], "refresh_interval": "5s"}],
                # Ray's exporter tells these of itself in every sample: three labels without a use.
                "metric_relabel_configs": [{"action": "labeldrop", "regex": "otel_scope_.*"}],
            },
        ],
    }
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def _duration(seconds: float) -> str:
    return f"{int(seconds * 1000)}ms"


def require_free(port: int, option: str) -> None:
    """Raises: UserError: something else has the port, and would be taken for the server that cannot start."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"port {port} is taken; stop what uses it, or give another with {option}.") from error


class Prometheus:
    """`with Prometheus(folder, port=9090) as prometheus: prometheus.query("up")`; keeps its data in `folder`."""

    def __init__(self, folder: Path, *, port: int, interval_s: float = 10):
        self.folder, self.port, self.interval_s = folder.absolute(), port, interval_s
        self.log, self._undo = self.folder / "prometheus.log", ExitStack()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Prometheus:
        require_free(self.port, "--prometheus-port")
        program = find_prometheus()
        config = write_config(self.folder, interval_s=self.interval_s)
        command = [
            str(program),
            f"--config.file={config}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--storage.tsdb.retention.time={KEPT}",
            "--log.level=warn",
            rf"--web.cors.origin=http://127\.0\.0\.1:{self.port}",  # by default any page in your browser may ask it
            *_pages(program),
        ]
        self.process = self._undo.enter_context(served(command, self.log, patience_s=20, cwd=self.folder))
        deadline = time.monotonic() + 30
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise UserError(
                    f"Prometheus did not start on port {self.port}: {self._last_words()}; is the port taken?"
                )
            time.sleep(0.1)
        return self

    def __exit__(self, *_) -> None:
        self._undo.close()

    def _is_ready(self) -> bool:
        try:
            with OPENER.open(f"{self.url}/-/ready", timeout=1) as answer:
                return self.process.poll() is None and answer.status == 200
        except OSError:
            return False

    def _last_words(self) -> str:
        lines = self.log.read_text().strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def query(self, expr: str) -> list[dict]:
        """Each series' labels with its value now, under "value".

        Raises: ValueError: Prometheus refuses the expression; its words.
        """
        result = self.ask("query", query=expr)["result"]
        if not isinstance(result, list) or (result and not isinstance(result[0], dict)):
            return [{"value": float(result[1])}]
        return [{**series["metric"], "value": float(series["value"][1])} for series in result]

    def ask(self, path: str, **parameters: str):
        """The data of /api/v1/`path`. Raises: ValueError, as `query`."""
        try:
            with OPENER.open(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error).get("error", str(error))) from error


def _pages(program: Path) -> list[str]:
    """Debian's build reads the files of its web pages from the disk; unpacked elsewhere, it must be told where."""
    return [f"--web.local-assets={CACHE / 'usr' / 'share' / 'prometheus' / 'web'}"] if CACHE in program.parents else []
