"""Rejected videos on the contact sheet: every kind of reason is counted, and frames come from the files where they still can."""

import pytest

from robust.config import ExtractConfig, StorageConfig
from robust.data import sheet_rejected
from robust.data.images import decode_image
from robust.data.sheet_rejected import Reason, choose_rejected, count_kinds, with_pictures
from tests import clips


def row(name, status="no_face", reason="no face in any of 3 frames", **more):
    return {"video_id": f"d/m/{name}", "status": status, "reason": reason, **more}


def test_reasons_are_counted_without_their_numbers():
    rows = [row("a"), row("b", reason="no face in any of 25 frames"), row("c", "ok", ""), row("e", "partial", "5 of 7.25 s"),
            row("d", "unreadable", "empty"), row("f", "ok", "the subject's face in 3 of 9 frames"), row("g", "unreadable", "x")]
    assert count_kinds(rows) == [
        Reason("unreadable", "empty", 1, "d/m/d"), Reason("unreadable", "x", 1, "d/m/g"),
        Reason("no_face", "no face in any of N frames", 2, "d/m/a"), Reason("partial", "N of N s", 1, "d/m/e"),
        Reason("ok", "the subject's face in N of N frames", 1, "d/m/f")]


def test_of_each_kind_one_is_chosen_before_a_second_and_none_that_is_ok():
    rows = [row(f"n{number:03d}") for number in range(500)]
    rows += [row("o", "ok", "few"), row("e", "unreadable", "empty"), row("x", "partial", "cut")]
    chosen = choose_rejected(rows, count=6, seed=0)
    assert [one["status"] for one in chosen] == ["unreadable", *["no_face"] * 4, "partial"]
    assert choose_rejected(rows[::-1], count=6, seed=0) == chosen != choose_rejected(rows, count=6, seed=1)
    assert choose_rejected([], count=6, seed=0) == []


@pytest.fixture
def files(tmp_path):
    """A folder, and {name: (content, by how much the status row's size is wrong)} of files to be."""
    good = clips.counting(40)
    noisy = clips.noisy(40)
    cut = noisy[: int(0.7 * len(noisy))]
    return tmp_path, {"good": (good, 0), "cut": (cut, 0), "changed": (good, 1), "text": (b"hello" * 9, 0)}


def test_a_frame_from_the_middle_is_shown_where_one_can_be_decoded(files):
    folder, contents = files
    for name, (content, _) in contents.items():
        (folder / f"{name}.mp4").write_bytes(content)
    rows = [row(name, uri=str(folder / f"{name}.mp4"), source_bytes=len(content) + off)
            for name, (content, off) in contents.items()]
    rows += [row("gone", uri=str(folder / "gone.mp4"), source_bytes=1), row("empty", "unreadable", uri="?", source_bytes=0),
             row("late", uri=str(folder / "good.mp4"), source_bytes=len(contents["good"][0]))]
    shown = with_pictures(rows, ExtractConfig(), storage_config=StorageConfig(), most=5)
    good, cut, changed, text, gone, empty, late = shown
    assert [one.record for one in shown] == rows
    assert clips.numbers(decode_image(good.picture)[None]) == [20]  # the centre of three parts of forty frames
    assert cut.picture is not None
    assert [one.picture for one in (changed, text, gone, empty, late)] == [None] * 5
    assert changed.without == "the file has changed since" and "not to be found" in gone.without
    assert "no frame" in text.without and empty.without == "no frame can be decoded" and late.without.startswith("not decoded")


def test_when_time_is_up_no_other_video_is_begun(files, monkeypatch):
    monkeypatch.setattr(sheet_rejected, "TOGETHER_S", -1.0)
    (one,) = with_pictures([row("a", uri="a", source_bytes=1)], ExtractConfig(), storage_config=StorageConfig(), most=5)
    assert one.picture is None and one.without.startswith("not decoded")
