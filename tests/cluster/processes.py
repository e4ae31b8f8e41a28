"""Finds every process that a test started, however it detached itself.

By a mark in the environment they inherit; and, since Ray's agents overwrite that, by open files in a folder.
"""

import os
import time
import uuid
from pathlib import Path

MARK = "TEST_PROCESS_MARK"


class Marked:
    """Everything started with `environment()`."""

    def __init__(self):
        self.mark, self.folders = uuid.uuid4().hex, []

    def watch(self, folder: Path) -> None:
        """Also counts the processes that have a file below `folder` open."""
        self.folders.append(f"{folder}/")

    def environment(self) -> dict[str, str]:
        return {**os.environ, MARK: self.mark}

    def alive(self) -> dict[int, str]:
        """Pid to command line of each running process with the mark (zombies are not running)."""
        wanted, found = f"{MARK}={self.mark}".encode(), {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0") or self._has_open(folder):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
            except OSError:
                continue
        return found

    def _has_open(self, process: Path) -> bool:
        opened = [os.readlink(link) for link in (process / "fd").iterdir()] if self.folders else []
        return any(path.startswith(folder) for path in opened for folder in self.folders)

    def wait_until_gone(self, timeout_s: float) -> dict[int, str]:
        """The processes still there after at most timeout_s; {} as soon as all are gone."""
        deadline = time.monotonic() + timeout_s
        while (alive := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return alive


def listening(pids) -> set[tuple[str, int]]:
    """(address, port) of every TCP port on which the processes listen; IPv4 addresses also where a socket is IPv6."""
    import ray  # noqa: F401  makes psutil importable: it must come first

    # isort: split
    import psutil

    found = set()
    for pid in pids:
        try:
            connections = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue
        open_ports = [one.laddr for one in connections if one.status == psutil.CONN_LISTEN]
        found |= {(address.ip.removeprefix("::ffff:"), address.port) for address in open_ports}
    return found
