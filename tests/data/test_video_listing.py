"""robust/data/video_listing.py and Storage.scan: everything below a prefix is there once, judged or with a reason."""

import os

import pytest

from robust.config import StorageConfig
from robust.data.video_listing import sort_out
from robust.errors import UserError
from robust.storage import Storage


def listed(storage, **more):
    listing = sort_out(storage.scan(), **more)
    return listing.videos.to_pylist(), {one["path"]: one["reason"] for one in listing.skipped.to_pylist()}


def test_every_object_is_listed_once_and_a_changed_one_has_another_version(storage):
    for key in ("b.mp4", "a/ö 1.MOV", "a/list.txt", "a/.b.mp4", "__MACOSX/c.mp4", "mine/d.mp4", "mine2/d.mp4"):
        storage.write_bytes(key, key.encode())
    counts = []
    videos, skipped = listed(storage, own="mine", told=counts.append)
    assert [one["path"] for one in videos] == ["a/ö 1.MOV", "b.mp4", "mine2/d.mp4"]
    assert [one["size"] for one in videos] == [len("a/ö 1.MOV".encode()), 5, 11]
    assert skipped == {"a/list.txt": "not a video by its name", "mine/d.mp4": "written by this run",
                       **dict.fromkeys(("a/.b.mp4", "__MACOSX/c.mp4"), "hidden, or left by an archive")}
    assert sum(counts) == 7
    again, _ = listed(storage, own="mine")
    assert again == videos
    storage.write_bytes("b.mp4", b"other")
    assert [one == before for one, before in zip(listed(storage, own="mine")[0], videos)] == [True, False, True]
    assert [one["path"] for one in sort_out(storage.scan("a")).videos.to_pylist()] == ["a/ö 1.MOV"]


def test_a_bucket_is_listed_page_by_page_and_odd_keys_are_told(s3, monkeypatch):
    monkeypatch.setattr("robust.object_stores.s3.LIST_PAGE", 5)
    storage = Storage.from_config(s3)
    for number in range(7):
        storage.write_bytes(f"{number}.mp4", b"")
    client, (bucket, prefix) = storage._objects.client, storage.root.split("/")
    client.put_object(Bucket=bucket, Key=f"{prefix}/folder/", Body=b"")
    pages = list(storage.scan())
    assert [len(page) for page in pages if page] == [5, 2]
    listing = sort_out([*pages, [("x//y.mp4", 1, "v"), ("../z.mp4", 1, "v"), ("w.mp4", 1, None)]])
    assert len(listing.videos) == 8 and listing.videos["version"][-1].as_py() == ""
    odd = "its key has an empty part, '.' or '..'; rename it"
    assert listing.skipped.to_pylist() == [{"path": path, "reason": odd} for path in ("../z.mp4", "x//y.mp4")]


def test_links_are_followed_once_and_names_that_no_table_holds_are_told(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.mp4").write_bytes(b"1")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "deep" / "round").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "deep" / "b.mp4").write_bytes(b"1")
    (tmp_path / "in" / ".latest").symlink_to("deep")  # comes before it, and is hidden
    (tmp_path / "in" / "also").symlink_to("deep")
    (tmp_path / "in" / ".kept").mkdir()
    (tmp_path / "in" / ".kept" / "c.mp4").write_bytes(b"1")
    (tmp_path / "in" / "shown").symlink_to(".kept")
    (tmp_path / "in" / "clip?sig=1.mp4").write_bytes(b"1")
    (tmp_path / "in" / "lost.mp4").symlink_to("nothing")
    os.mkfifo(tmp_path / "in" / "pipe.mp4")
    with open(os.fsencode(tmp_path) + b"/in/\xff.mp4", "wb"):
        pass
    videos, skipped = listed(Storage.from_config(StorageConfig(uri=str(tmp_path / "in"))))
    assert [one["path"] for one in videos] == ["deep/b.mp4", "link/a.mp4", "shown/c.mp4"]
    nothing = "a link to nothing, or no file"
    assert skipped == {"lost.mp4": nothing, "pipe.mp4": nothing, "\\udcff.mp4": "its name is not UTF-8; rename it",
                       ".kept/c.mp4": "hidden, or left by an archive",
                       "clip?sig=1.mp4": "its name looks like a signed address; rename it"}


def test_a_folder_that_may_not_be_read_is_an_error_and_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def refusing(path):  # root, as whom tests may run, may read everything
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match="cannot list .*Permission denied"):
        list(Storage.from_config(StorageConfig(uri=str(tmp_path))).scan())
    with pytest.raises(UserError, match="does not exist"):
        list(Storage.from_config(StorageConfig(uri=str(tmp_path / "nowhere"))).scan())
