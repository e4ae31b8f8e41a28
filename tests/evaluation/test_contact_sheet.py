"""The contact sheet as a page: its counts are the table's, names in it are text, it asks nobody and stays small."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from robust.config_file import parse
from robust.data.images import encode_image
from robust.data.rows import VideoRow
from robust.data.shards import read_committed, shard_key, write_shard
from robust.data.sheet_crops import Bounds
from robust.evaluation.contact_sheet import MOST_REJECTED, contact_sheet, count_groups, mark_of, plain, totals
from tests.data.test_shards import face, status

NASTY = "d/m/</figcaption><script>alert('x')</script>&\u202egpj.\n\"onload=\"x"
NOISE = encode_image(np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8))


@pytest.fixture
def config(tmp_path):
    return parse({"run": {"name": "r"}, "storage": {"uri": str(tmp_path / "storage")}, "extract": {"margin": 0.25}})


def record(video_id: str, frames: int, split: str, label: int, method: str, people, **changes) -> dict:
    return {**status(video_id, frames, split), "label": label, "method": method, "identities": people, "dataset": "d", **changes}


def write(storage, records, image=NOISE) -> None:
    faces = [{**face(one["video_id"], frame, one["split"]), "image": image,
              **{name: one[name] for name in ("label", "method", "identities")}}
             for one in records for frame in range(one["frames_found"])]
    write_shard(storage, "r", shard_key("d", [one["video_id"] for one in records], "f"), faces, records)


def small(storage) -> None:
    write(storage, [record("d/real/1", 3, "train", 0, "real", ["d:a"]), record("d/swap/2", 2, "train", 1, "swap", ["d:a", "d:b"]),
                    record(NASTY, 1, "train", 1, "swap", ["d:a", "d:c"])])
    write(storage, [record("d/real/4", 8, "test", 0, "real", ["d:e"]),
                    record("d/real/5", 0, "test", 0, "real", ["d:e"], status="unreadable", reason="<b>broken</b> after 7 s")])


class Elements(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags, self.links, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data", "xlink:href")]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data):
        self.text.append(data)


def sheet_of(storage, config, **bounds):
    committed = read_committed(storage, "r")
    status = committed.current()
    return contact_sheet(storage, config, committed, status, mark_of(committed, status, config), **bounds)


def test_the_page_says_what_the_table_says_and_is_the_same_again(local_storage, config):
    small(local_storage)
    page = sheet_of(local_storage, config)
    assert page == sheet_of(local_storage, config)
    elements = Elements(page)
    words = " ".join(" ".join(elements.text).split())
    assert "5 videos gave 14 face crops; 1 video is not ok" in words
    assert "train real · real d 1 1 3 37.5 % 1" in words and "fake · swap d 2 2 3 18.8 % 3" in words
    assert "all of train 3 3 6 25.0 % 3" in words and "real · real d 2 1 8 50.0 % 1" in words
    assert "Nobody is in two splits" in words
    assert "unreadable 1 <b>broken</b> after N s d/real/5" in words and "no frame can be decoded" in words
    assert page.count("<figure") == 3 + 3 + 8 + 4 * 4  # all crops of the three groups; of each measure one of each video
    assert 'class="changed"><th><code>extract.margin' in page and page.count('class="changed"') == 1


def test_names_are_text_and_nothing_is_asked_for_outside(local_storage, config):
    small(local_storage)
    page = sheet_of(local_storage, config)
    elements = Elements(page)
    assert not {"script", "iframe", "link", "object", "form", "base"} & set(elements.tags)
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in elements.links)
    assert "default-src 'none'" in page and not re.search(r"url\(|@import|https?://", page)
    assert "\u202e" not in page and "alert(&#39;x&#39;)" in page and "<b>broken" not in page
    assert plain("a" * 50 + "b" * 500, 20) == "a" * 6 + "…" + "b" * 13 and len(plain("ä" * 300)) == 100


def test_the_mark_changes_with_the_table_alone(local_storage, config):
    small(local_storage)

    def mark():
        committed = read_committed(local_storage, "r")
        return mark_of(committed, committed.current(), config)

    first = mark()
    page = sheet_of(local_storage, config)
    assert page.startswith(first) and first == mark() and first.startswith("<!doctype html>\n<!--")
    write(local_storage, [record("d/real/9", 1, "val", 0, "real", ["d:z"])])
    assert mark() != first


@pytest.mark.parametrize(("image", "frames", "size", "told"), [
    (NOISE, 3, 64, "videos_per_shard=128"),  # 64 videos of 3 crops of 50 kB are 10 MB
    (NOISE, 3, 256, None), (NOISE, 3, None, None),  # and no more than 128 are worth the loss
    (NOISE * 40, 3, 16, None), (NOISE * 40, 3, 64, "videos_per_shard=16"),  # these are 6 MB a video
])
def test_the_page_says_how_many_videos_would_make_a_better_shard(local_storage, tmp_path, image, frames, size, told):
    config = parse({"run": {"name": "r"}, "storage": {"uri": str(tmp_path / "storage")},
                    "extract": {"frames_train": 3, "frames_test": 3, "videos_per_shard": size}})
    records = [record(f"d/real/{number}", frames, "train", 0, "real", ["d:a"]) for number in range(2)]
    write(local_storage, records, image)
    page = sheet_of(local_storage, config)
    assert f"so a full shard of {size or 128} videos about" in page
    assert "extract.videos_per_shard" not in page.replace(f"extract.{told}<", "")
    assert told is None or f"<code>extract.{told}</code>" in page


def test_people_in_two_splits_are_told(local_storage, config):
    write(local_storage, [record("d/m/1", 1, "train", 0, "m", ["d:a"])])
    write(local_storage, [record("d/m/2", 1, "test", 0, "m", ["d:a"])])
    page = sheet_of(local_storage, config)
    assert "<b>1 people are in more than one split.</b>" in page


@pytest.mark.parametrize("person, other", [("d:video:real/a0", "d:video:real/a1"), ("dfdc:abc", "dfdc:abd")])
def test_that_people_are_not_known_is_told_in_place_of_that_nobody_is_in_two_splits(local_storage, config, person, other):
    write(local_storage, [record("d/m/1", 1, "train", 0, "m", [person])])
    write(local_storage, [record("d/m/2", 1, "test", 0, "m", [other]), record("d/m/3", 1, "test", 0, "m", ["d:anna", other])])
    words = " ".join(" ".join(Elements(sheet_of(local_storage, config)).text).split())
    assert "The people in 3 videos are not known:" in words and "Nobody" not in words


def test_every_picture_has_its_share_of_five_megabytes_and_groups_are_bounded(local_storage, config):
    # Noise makes the largest pictures there are; long names, and a kind of reason of each video's own.
    rows = [record(f"d/{'m' * 150}{group:03d}/{'n' * 200}", 3, "train", 1, f"{'m' * 150}{group:03d}", ["d:a"], status="partial",
                   reason="why" * 60 + chr(97 + group)) for group in range(24)]
    write(local_storage, rows)
    page = sheet_of(local_storage, config, bounds=Bounds(groups=20, crops=40, worst=4))
    pictures = page.count("data:image/webp")
    assert "4 smaller groups" in page and pictures == 40 + 4 * 4
    most = Bounds().crops + 4 * Bounds().worst + MOST_REJECTED
    assert len(page.encode()) < 5_000_000 * pictures / most


def test_counts_of_groups_and_people():
    rows = [dataclasses.asdict(VideoRow(str(i), "", i % 2, "d", "m", ("x", str(i % 3)), "val")) | {
        "frames_found": i % 3, "frames_asked": 2, "status": "ok"} for i in range(6)]
    real, fake = count_groups(rows)
    names = ("videos", "with_faces", "asked", "faces", "people")
    assert real["group"].label == 0 and [real[name] for name in names] == [3, 2, 6, 3, 4]
    assert fake["faces"] == 3 and totals(rows)["shared"] == 0 and totals(rows)["faces"] == 6
