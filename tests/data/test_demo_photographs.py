"""Photographs as more people of the demo data, from made pictures: no network, no detector."""

import csv
import json
import os
import struct
import zlib

import cv2
import numpy as np
import pytest

from robust.config import DatasetConfig
from robust.config_file import parse
from robust.config_identity import science
from robust.data import demo
from robust.data.demo import make_demo
from robust.data.demo_photographs import SAME, read_photographs, swap_photographs, views
from robust.data.demo_plan import plan_demo
from robust.data.demo_sources import people
from robust.data.layouts import LAYOUTS
from robust.data.tree import FileTree
from robust.errors import ConfigError, UserError
from tests.data.test_demo import SMALL, contents, made_face, made_people

SIDE = 128


def made_landmarks(image: np.ndarray) -> list[np.ndarray]:
    """Where `made_face` has them at any size of a square picture; in a dark picture there is none."""
    return [] if image.mean() < 20 else [made_face(0, image.shape[0]).landmarks]


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    monkeypatch.setattr(demo, "read_people", made_people)
    monkeypatch.setattr(demo, "mtcnn_landmarks", lambda: made_landmarks)


@pytest.fixture
def album(tmp_path):
    """Eight people, one of them twice, somebody of the demo, nobody, and no picture."""
    folder = tmp_path / "album"
    (folder / "deeper").mkdir(parents=True)
    for number in range(8):
        save(folder / f"{number}.png", made_face(500 + number).image)
    save(folder / "deeper" / "again.jpg", cv2.resize(made_face(503).image, (100, 100), interpolation=cv2.INTER_AREA))
    save(folder / "demo.jpg", made_face(3).image)
    save(folder / "nobody.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def save(path, image) -> None:
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def test_photographs_are_in_training_alone_and_the_rest_stays_to_the_byte(tmp_path, album):
    plain, more = tmp_path / "plain", tmp_path / "more"
    before = make_demo(plain, seed=24, **SMALL)
    after = make_demo(more, seed=24, **SMALL, photographs=album)
    there, now = contents(plain), contents(more)
    same = [name for name in there if name not in ("demo.json", "methods.csv")]
    assert [name for name in same if now[name] != there[name]] == []
    assert after.photographs == 8 and after.real == before.real + 8
    assert after.fakes == {kind: count + 8 for kind, count in before.fakes.items()}
    result = LAYOUTS["celeb_df_v2"](FileTree.open(str(more)), DatasetConfig(layout="celeb_df_v2", uri=str(more)))
    assert result.problems == []
    photographed = {f"celeb_df_v2:id{SMALL['identities'] + number}" for number in range(8)}
    theirs = [row for row in result.rows if photographed & set(row.identities)]
    assert len(theirs) == 8 + 3 * 8 and {row.split for row in theirs} == {"train"}
    assert all(set(row.identities) <= photographed for row in theirs)


def test_what_is_left_out_is_counted_and_listed_with_its_reason(tmp_path, album):
    root = tmp_path / "data"
    summary = make_demo(root, seed=24, **SMALL, photographs=album)
    with (root / "photographs.csv").open() as stream:
        rows = {row["photograph"]: row for row in csv.DictReader(stream)}
    assert {name: row["left_out"] for name, row in rows.items() if not row["identity"]} == {
        "broken.jpg": "not an image",
        "deeper/again.jpg": "a copy of one of the photographs before",
        "demo.jpg": "a copy of one of the demo's own people",
        "nobody.png": "no face found",
    }
    assert len(rows) == 12 and sum(summary.left_out.values()) == 4
    assert json.loads((root / "demo.json").read_text())["summary"]["left_out"] == summary.left_out


def test_another_folder_or_another_picture_in_it_is_another_data_set(tmp_path, album):
    root = tmp_path / "data"
    summary = make_demo(root, seed=24, **SMALL, photographs=album)
    assert make_demo(root, seed=24, **SMALL, photographs=album) == summary
    save(album / "0.png", made_face(600).image)
    with pytest.raises(UserError, match=r"photographs 12 pictures, \w+ \(now 12 pictures, \w+\)"):
        make_demo(root, seed=24, **SMALL, photographs=album)
    with pytest.raises(UserError, match=r"photographs .* \(now None\)"):
        make_demo(root, seed=24, **SMALL)


def test_a_folder_that_will_not_do_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "read_people", lambda *a, **k: pytest.fail("fetched"))
    with pytest.raises(UserError, match="nowhere is no folder"):
        make_demo(tmp_path / "data", seed=24, **SMALL, photographs=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has 0 pictures"):
        make_demo(tmp_path / "data", seed=24, **SMALL, photographs=tmp_path / "empty")


def test_where_nobody_is_left_for_validation_they_are_refused(tmp_path, album):
    """Else a part of them would be drawn for it."""
    assert not plan_demo(people(), seed=24, identities=32, fakes_per_kind=10).val
    with pytest.raises(UserError, match="of 32 people none is left for validation"):
        make_demo(tmp_path / "data", seed=24, **{**SMALL, "identities": 32}, photographs=album)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("splits", [{"folds": 3}, {"official_test": False}])
def test_with_splits_that_are_drawn_anew_they_are_refused(splits):
    demo_data = {"datasets": [{"layout": "celeb_df_v2", "uri": "data"}], "demo": {"enabled": True}}
    parse({"data": {**demo_data, "splits": splits}})
    with pytest.raises(ConfigError, match="data.demo.photographs: its people are for training alone"):
        parse({"data": {**demo_data, "splits": splits, "demo": {"enabled": True, "photographs": "album"}}})


def test_a_run_without_them_keeps_its_identity():
    plain, other = (parse({"data": {"demo": {"photographs": folder}}}) for folder in (None, "album"))
    assert "photographs" not in science(plain.data)["demo"] and science(other.data)["demo"]["photographs"] == "album"


def test_odd_files_are_left_out_and_not_the_end(tmp_path, album):
    """What cannot be decoded in its limits, what is too small or long to look at, and names in another encoding."""
    save(album / "icon.png", np.full((25, 25, 3), 99, np.uint8))
    save(album / "divider.png", np.full((101, 2000, 3), 99, np.uint8))
    header = b"IHDR" + struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    (album / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0" * 64)
    (album / os.fsdecode(b"M\xfcller.png")).write_bytes((album / "0.png").read_bytes()[:50])
    found = read_photographs(album, 96, made_landmarks, [])
    reasons = {name: found.left_out[name] for name in ("icon.png", "divider.png", "bomb.png", "M\\xfcller.png")}
    assert reasons["icon.png"] == "a side of less than 100 pixels" and reasons["divider.png"] == "more than four times as long as wide"
    assert all(reasons.values()) and len(found.portraits) == 9


@pytest.mark.parametrize("count", [2, 7, 12, 539])
def test_every_photograph_is_a_target_as_often_and_never_its_own_source(count):
    swaps = swap_photographs(count, first=72, rng=np.random.default_rng(0))
    assert [swap.target for swap in swaps] == list(range(72, 72 + count))
    assert sorted(swap.source for swap in swaps) == list(range(72, 72 + count))
    assert all(swap.target != swap.source for swap in swaps)


def test_copies_correlate_and_other_faces_do_not():
    """A photograph cut, scaled, lit, compressed or mirrored is the same one; another face is not."""
    for number in range(20):
        face = made_face(number)
        _, packed = cv2.imencode(".jpg", cv2.resize(face.image, (100, 100), interpolation=cv2.INTER_AREA)[10:, 6:], [cv2.IMWRITE_JPEG_QUALITY, 50])
        copy = np.clip(cv2.imdecode(packed, cv2.IMREAD_COLOR) * 0.8 + 20, 0, 255).astype(np.uint8)
        landmarks = face.landmarks * 100 / 128 - (6, 10)
        mirrored = np.stack([copy.shape[1] - 1 - landmarks[:, 0], landmarks[:, 1]], axis=1)[[1, 0, 2, 4, 3]]
        for same in (demo.Portrait(copy, landmarks), demo.Portrait(np.ascontiguousarray(copy[:, ::-1]), mirrored)):
            assert likeness(face, same) > SAME
        assert likeness(face, made_face(number + 100)) < SAME - 0.05


def likeness(first, second) -> float:
    return max(float(views(first)[0] @ view) for view in views(second))


def test_the_largest_face_is_taken(tmp_path):
    save(tmp_path / "a.png", np.full((200, 400, 3), 90, np.uint8))
    save(tmp_path / "b.png", np.random.default_rng(0).integers(0, 255, (200, 400, 3), np.uint8))
    small, large = made_face(0, 100).landmarks, made_face(0, 200).landmarks + (200, 0)
    found = read_photographs(tmp_path, 96, lambda image: [small, large], [])
    assert list(found.portraits) == ["a.png", "b.png"]
    for portrait in found.portraits.values():
        spread = np.ptp(portrait.landmarks[:, 0]) / np.ptp(large[:, 0])
        assert abs(np.ptp(portrait.landmarks[:, 1]) / np.ptp(large[:, 1]) - spread) < 0.01
