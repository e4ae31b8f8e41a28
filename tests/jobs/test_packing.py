"""jobs/packing.py: what is sent to a cluster is what git does not ignore, byte for byte, and nothing large."""

import subprocess
import zipfile

import pytest

import jobs.packing
from jobs.packing import CONFIG, pack
from robust.errors import UserError


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    for name, text in {"jobs/train.py": "train", "ray_config.yaml": "run: {}", "new.py": "new", "requirements.lock": "ray==1", "outputs/secret": "key", "jobs/__pycache__/train.pyc": "",
                       ".gitignore": "outputs/\n__pycache__/\nmine.yaml\n", "mine.yaml": "run: {name: mine}"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def git(root, *arguments):
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)


def content(package) -> dict[str, str]:
    with zipfile.ZipFile(package.path) as packed:
        return {name: packed.read(name).decode() for name in packed.namelist()}


def test_ignored_files_stay_and_new_ones_go(project, tmp_path):
    git(project, "init")
    git(project, "add", "jobs/train.py", "ray_config.yaml")
    package = pack(project, project / "ray_config.yaml", tmp_path)
    assert content(package) == {"jobs/train.py": "train", "ray_config.yaml": "run: {}", "new.py": "new", "requirements.lock": "ray==1",
                                ".gitignore": (project / ".gitignore").read_text()}
    assert (package.files, package.config) == (5, "ray_config.yaml")
    assert package.size == package.path.stat().st_size


def test_without_git_the_code_and_the_settings_go(project, tmp_path):
    assert set(content(pack(project, project / "ray_config.yaml", tmp_path))) == {"jobs/train.py", "ray_config.yaml", "requirements.lock"}


@pytest.mark.parametrize("place", ["project/mine.yaml", "elsewhere.yaml"])
def test_a_configuration_that_git_ignores_or_that_lies_elsewhere_goes_along(project, tmp_path, place):
    git(project, "init")
    (tmp_path / place).write_text("run: {name: mine}")
    package = pack(project, tmp_path / place, tmp_path)
    assert content(package)[package.config] == "run: {name: mine}"
    assert package.config == CONFIG


def test_the_same_files_are_the_same_bytes_whenever_they_were_written(project, tmp_path):
    first = pack(project, project / "ray_config.yaml", tmp_path).path.read_bytes()
    (project / "jobs/train.py").write_text("train")
    assert pack(project, project / "ray_config.yaml", tmp_path).path.read_bytes() == first
    (project / "jobs/train.py").write_text("other")
    assert pack(project, project / "ray_config.yaml", tmp_path).path.read_bytes() != first


def test_what_is_too_large_is_named(project, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs.packing, "LIMIT", 10)
    (project / "jobs/weights").write_text("x" * 100)
    with pytest.raises(UserError, match=r"the limit is 0; the largest: jobs/weights .*\.gitignore"):
        pack(project, project / "ray_config.yaml", tmp_path)
