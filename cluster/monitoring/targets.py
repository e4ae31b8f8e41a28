"""Which addresses Prometheus reads: those of every Ray that runs on this machine, kept up to date in a folder.

Ray with a dashboard writes all nodes of its cluster to `prom_metrics_service_discovery.json`; without one (the
default of a local run) each node leaves only a file with its port in the session's folder. The endpoints ask for no
token, whatever RAY_AUTH_MODE is.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
from pathlib import Path

DISCOVERY = "prom_metrics_service_discovery.json"
PLACES = ("ray", "deepfake-ray-*")
"""Folders of Ray sessions in a temporary folder: Ray's own, and those of cluster/local.py."""


def update(folder: Path, *, places: list[Path] | None = None) -> list[str]:
    """Writes a file for each running Ray into `folder`, removes those of Rays that are gone; returns all addresses."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {_name(place): addresses for place in (places or _places()) if (addresses := addresses_of(place))}
    for stale in {path.stem for path in folder.glob("*.json")} - found.keys():
        (folder / f"{stale}.json").unlink(missing_ok=True)
    for name, addresses in found.items():
        content = json.dumps([{"labels": {"job": "ray"}, "targets": addresses}])
        path = folder / f"{name}.json"
        if not path.exists() or path.read_text() != content:
            partial = path.with_suffix(".partial")
            partial.write_text(content)
            os.replace(partial, path)  # Prometheus must not read half a file
    return sorted(address for addresses in found.values() for address in addresses)


def _name(place: Path) -> str:
    """Of its file: two folders may both be called `ray`."""
    return f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"


def _places() -> list[Path]:
    """Ray's own folder is in RAY_TMPDIR, where that is set, else in the temporary folder."""
    tops = {Path(top).resolve() for top in ("/tmp", tempfile.gettempdir(), os.environ.get("RAY_TMPDIR")) if top}
    return [place for top in sorted(tops) for pattern in PLACES for place in sorted(top.glob(pattern))]


def addresses_of(place: Path) -> list[str]:
    """`host:port` of each metrics endpoint of the Ray in a folder; [] if none answers, as Ray leaves files behind."""
    session = place / "session_latest"
    try:
        groups = json.loads((session / DISCOVERY).read_text())
        addresses = [str(address) for group in groups for address in group["targets"]]
    except (OSError, ValueError, KeyError, TypeError):
        addresses = []
    if not addresses:
        addresses = [
            f"127.0.0.1:{port}" for path in session.glob("metrics_export_port_*") if (port := _port(path)) is not None
        ]
    return sorted(addresses) if any(map(_answers, addresses)) else []


def _port(path: Path) -> int | None:
    try:
        port = int(path.read_text())
    except (OSError, ValueError):
        return None
    return port if 0 < port < 65536 else None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except (OSError, ValueError):
        return False
