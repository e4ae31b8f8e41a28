"""docs/threat-model.md, docs/cluster/losses.md: each test that they name is there; and those of the first one's lines that no other part of the
tests has."""

from __future__ import annotations

import ast
import json
import re
import struct
import zlib
from pathlib import Path

import pytest

from robust.config import DatasetConfig
from robust.config_file import load_config, parse
from robust.data.layouts import LAYOUTS
from robust.data.tree import FileTree
from robust.data.video import UnreadableVideo, read_image
from robust.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("page", "least"), [("threat-model.md", 30), ("cluster/losses.md", 12)])
def test_every_test_that_a_page_names_is_there(page, least):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / page).read_text())
    assert len(named) > least
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_a_line_that_claims_something_cannot_be_done_names_a_test():
    for line in (ROOT / "docs" / "threat-model.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("| ") else []
        if len(cells) == 4 and cells[0] not in ("who reaches a port", "who may", "what"):
            assert not cells[2] or "::test_" in cells[3], line
            assert cells[2] or "**open" in cells[1].lower() or "(open)" in cells[1], line


def png(width: int, height: int) -> bytes:
    """A file of a few hundred bytes whose header says so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(3 * width * height + height) if width < 99 else bytes(99)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(20_000, 20_000), (100_000, 100_000), (2**31 - 1, 1), (12_000, 12_000)])
def test_an_image_bomb_is_unreadable_and_not_unpacked(size, monkeypatch):
    def unpacked(*_):
        raise AssertionError("was given to the decoder")

    monkeypatch.setattr("robust.data.video.cv2.imdecode", unpacked)
    with pytest.raises(UnreadableVideo, match="pixels"):
        read_image(png(*size))


def test_a_small_image_is_still_read_and_opencvs_own_refusal_is_a_reason(monkeypatch):
    assert read_image(png(5, 4)).shape == (4, 5, 3)
    monkeypatch.setattr(
        "robust.data.video._require_few_pixels", lambda data: None
    )  # a format that Pillow does not know
    with pytest.raises(UnreadableVideo, match="not an image"):
        read_image(png(100_000, 100_000))


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.mkdir [{folder}/made]",
        "!!python/name:os.system",
        "!!python/object/new:os.system [true]",
    ],
)
def test_a_configuration_cannot_construct_objects(tmp_path, value):
    value = value.format(folder=tmp_path)
    (tmp_path / "config.yaml").write_text(f"run:\n  name: {value}\n")
    with pytest.raises(ConfigError):
        load_config(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError):
        load_config(tmp_path / "config.yaml", [f"run.name={value}"])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["../other", "a/b", "..", "/etc", "", ".hidden", "a\n", "x" * 65])
def test_a_run_name_is_one_folder(name):
    with pytest.raises(ConfigError, match="run.name"):
        parse({"run": {"name": name}})


@pytest.mark.parametrize("outside", ["../secret.mp4", "../../secret.mp4", "{folder}/secret.mp4"])
def test_a_data_set_list_names_no_file_outside(tmp_path, outside):
    outside = outside.format(folder=tmp_path)
    part = tmp_path / "set" / "part"
    part.mkdir(parents=True)
    for place in (part / "a.mp4", part / "b.mp4", tmp_path / "set" / "secret.mp4", tmp_path / "secret.mp4"):
        place.write_text("")
    (tmp_path / "set" / "secret.mp4").unlink()
    listed = {
        "a.mp4": {"label": "REAL", "split": "train"},
        "b.mp4": {"label": "FAKE", "split": "train", "original": "a.mp4"},
        outside: {"label": "FAKE", "split": "train", "original": "a.mp4"},
    }
    (part / "metadata.json").write_text(json.dumps(listed))
    root = str(tmp_path / "set")
    result = LAYOUTS["dfdc"](FileTree.open(root), DatasetConfig(layout="dfdc", uri=root))
    assert sorted(Path(row.uri).name for row in result.rows) == ["a.mp4", "b.mp4"]
    assert any("secret.mp4" in problem for problem in result.problems)
