"""The working tree as one zip file for a cluster: what git tracks and what it does not ignore."""

from __future__ import annotations

import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from cluster.description import LOCKS
from robust.errors import UserError

LIMIT = 100 * 2**20
"""Bytes of a packed tree. Ray refuses far more, but a tree of code is never this large: something slipped in."""
WITHOUT_GIT = ("jobs", "robust", "cluster", "benchmarks", "ray_config.yaml", "pyproject.toml", *LOCKS)
"""What is packed of a folder that is no git checkout."""
CONFIG = "submitted.yaml"
"""Name in the package of a configuration file from outside the tree."""


@dataclass(frozen=True)
class Package:
    path: Path
    files: int
    size: int  # bytes
    config: str  # the configuration file's name inside


def pack(root: Path, config: Path, folder: Path) -> Package:
    """Writes the zip; the same files give the same bytes, so that Ray, which names it after them, need not send it twice.

    Args:
        root: the project's folder.
        config: the configuration file; goes along if git ignores it or it lies elsewhere.
        folder: where the zip file is written.
    Raises:
        UserError: the files are more than LIMIT; names the largest.
    """
    names = tree(root)
    inside = config.resolve().relative_to(root.resolve()).as_posix() if config.resolve().is_relative_to(root.resolve()) else None
    files = {name: root / name for name in names}
    config_name = inside if inside in files else CONFIG
    files[config_name] = config
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if sum(sizes.values()) > LIMIT:
        largest = sorted(sizes, key=sizes.get, reverse=True)[:3]
        raise UserError(f"{root}: {sum(sizes.values()) / 2**20:.0f} MiB to send to the cluster, the limit is {LIMIT / 2**20:.0f}; the largest: "
                        f"{', '.join(f'{name} ({sizes[name] / 2**20:.0f} MiB)' for name in largest)}. Add them to .gitignore, or move them away")
    path = folder / "working_tree.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)  # of 1980: no clock in the bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (files[name].stat().st_mode & 0o777) << 16
            package.writestr(entry, files[name].read_bytes())
    return Package(path, len(files), path.stat().st_size, config_name)


def tree(root: Path) -> list[str]:
    """Names of the files to send, relative to root."""
    if (root / ".git").exists():
        listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, check=True)
        names = [name for name in listed.stdout.decode().split("\0") if name]
    else:
        found = [path for top in WITHOUT_GIT for path in [root / top, *(root / top).rglob("*")]]
        names = [path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts]
    return sorted({name for name in names if (root / name).is_file() and not (root / name).is_symlink()})
