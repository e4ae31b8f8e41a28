"""Which code made a result."""
from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path


def code_version() -> str:
    """The git commit of a checkout (with `+changes` if files differ), else the installed package's version."""
    folder = Path(__file__).resolve().parent.parent
    try:
        told = subprocess.run(["git", "-C", str(folder), "describe", "--always", "--dirty=+changes", "--abbrev=12"], capture_output=True, text=True, timeout=10)
        if told.returncode == 0:
            return f"git {told.stdout.strip()}"
    except (OSError, subprocess.TimeoutExpired):
        pass
    try:
        return f"version {metadata.version('robust-deepfake-detection')}"
    except metadata.PackageNotFoundError:
        return "unknown"
