"""Programs that run beside this process and end with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Becomes the program after asking the kernel (Linux) to kill it when its parent dies, also by kill -9. A process of its
# own, because code between fork and exec of a threaded parent may deadlock. argv: parent's pid, then the command.
LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent died")
os.execv(sys.argv[2], sys.argv[2:])
"""


def tied(command: list[str]) -> list[str]:
    """The command of a program that dies with this process, however that dies (Linux)."""
    return [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command]


def end(process: subprocess.Popen, patience_s: float) -> None:
    """Asks a process to end, and kills it when it has not after patience_s."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def served(command: list[str], log: Path, *, patience_s: float, cwd: Path | None = None) -> Iterator[subprocess.Popen]:
    """Runs a server that dies with this process; what it says goes to `log`. On leaving it is stopped."""
    with open(log, "wb") as words:
        process = subprocess.Popen(
            tied(command), stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True, cwd=cwd
        )
    try:
        yield process
    finally:
        end(process, patience_s)
