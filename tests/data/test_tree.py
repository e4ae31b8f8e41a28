import os

import pyarrow.fs
import pytest

from robust.data.extraction import read_source
from robust.data.shard_plan import same_version
from robust.data.tree import FileTree
from robust.errors import UserError


def _write(root, *paths, text=""):
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def test_lists_files_relative_sorted_without_hidden_ones(tmp_path):
    _write(tmp_path, "b/x.MP4", "a/deep/y.mp4", "list.txt", "a/._y.mp4", ".DS_Store", "__MACOSX/a/y.mp4")
    tree = FileTree.open(str(tmp_path))
    assert tree.files == ("a/deep/y.mp4", "b/x.MP4", "list.txt")
    assert tree.folders == {"a", "a/deep", "b"}
    assert tree.subfolders() == ["a", "b"]
    assert tree.videos("a") == ["a/deep/y.mp4"] and tree.videos("b") == ["b/x.MP4"]


def test_a_folder_is_not_a_prefix_of_a_name(tmp_path):
    _write(tmp_path, "fake/a.mp4", "fake_extra/b.mp4")
    assert FileTree.open(str(tmp_path)).videos("fake") == ["fake/a.mp4"]


def test_uris_are_absolute_also_for_a_relative_root(tmp_path, monkeypatch):
    _write(tmp_path, "set/real/a.mp4")
    monkeypatch.chdir(tmp_path)
    uri = FileTree.open("set").uri("real/a.mp4")
    assert os.path.isabs(uri) and os.path.exists(uri)


def test_any_pyarrow_filesystem_will_do_and_uris_keep_the_scheme(tmp_path):
    _write(tmp_path, "bucket/set/real/a.mp4", text="hello")
    filesystem = pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())
    tree = FileTree(filesystem, "bucket/set", uri="s3://bucket/set/")
    assert tree.files == ("real/a.mp4",)
    assert tree.uri("real/a.mp4") == "s3://bucket/set/real/a.mp4"
    assert tree.read_text("real/a.mp4") == "hello"


def test_is_listed_once(tmp_path):
    _write(tmp_path, "a.mp4")
    tree = FileTree.open(str(tmp_path))
    first = tree.files
    _write(tmp_path, "b.mp4")
    assert tree.files is first


def test_a_missing_root_is_told_with_its_path(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        FileTree(pyarrow.fs.LocalFileSystem(), str(tmp_path / "nowhere")).videos("real")
    with pytest.raises(UserError, match="nowhere"):
        FileTree.open(str(tmp_path / "nowhere")).videos("real")


def test_text_may_have_a_byte_order_mark_and_broken_json_is_named(tmp_path):
    _write(tmp_path, "list.txt", text="\ufeff1 real/a.mp4")
    _write(tmp_path, "broken.json", text="{")
    tree = FileTree.open(str(tmp_path))
    assert tree.read_text("list.txt") == "1 real/a.mp4"
    with pytest.raises(UserError, match="broken.json"):
        tree.read_json("broken.json")
    with pytest.raises(UserError, match="absent.txt"):
        tree.read_text("absent.txt")


def test_a_listing_and_a_reading_tell_the_same_size_and_version(storage):
    # Extraction keeps what the reading tells; the next run compares it with what the listing tells.
    storage.write_bytes("set/real/a.mp4", b"12345")
    tree = FileTree.open(storage.uri("set"), storage.config)
    found, read = tree.found["real/a.mp4"], read_source(tree.uri("real/a.mp4"), storage.config)
    assert found.size == read.size == 5 and found.version is not None
    assert same_version(read.version, found.version)
