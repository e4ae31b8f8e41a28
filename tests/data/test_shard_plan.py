"""Whole shards, the same ones after a kill, and none left that contradicts the data set."""

import dataclasses

import pyarrow as pa
import pytest

from robust.config import ExtractConfig
from robust.data.rows import VideoRow
from robust.data.shard_plan import (
    CROP_SIDE,
    MOST_VIDEOS,
    PIXEL_BYTES,
    SHARD_BYTES,
    plan_shards,
    stale_rows,
    videos_of_a_shard,
)
from robust.data.shards import STATUS_SCHEMA
from robust.data.tree import FoundFile


def rows(count, *, dataset="d", split="train"):
    return [VideoRow(f"{dataset}/m/{i:03d}-{split}", "u", i % 2, dataset, "m", (f"{dataset}:{i}",), split)
            for i in range(count)]


def plan(videos, size=8):
    return plan_shards(videos, videos_per_shard=size, fingerprint="f")


VIDEOS = rows(30) + rows(9, split="test") + rows(17, dataset="e") + rows(3, dataset="e", split="val")


def test_every_video_is_in_one_shard_of_one_data_set_and_split():
    plans = plan(VIDEOS)
    assert sorted(row.video_id for one in plans for row in one.rows) == sorted(row.video_id for row in VIDEOS)
    for one in plans:
        assert len({(row.dataset, row.split) for row in one.rows}) == 1
        assert one.key.startswith(f"{one.rows[0].dataset}/")
    assert [len(one.rows) for one in plans] == [8, 1, 8, 8, 8, 6, 8, 8, 1, 3]
    assert len({one.key for one in plans}) == len(plans)
    assert plan(VIDEOS[::-1]) == plans


@pytest.mark.parametrize("finished", [{0}, {3}, {1, 2, 5}, {9}, set(range(9))])
def test_what_is_left_after_a_kill_is_cut_at_the_same_places(finished):
    plans = plan(VIDEOS)
    done = {row.video_id for number in finished for row in plans[number].rows}
    left = plan([row for row in VIDEOS if row.video_id not in done])
    assert left == [one for number, one in enumerate(plans) if number not in finished]


@pytest.mark.parametrize(("settings", "videos"), [
    ({}, 64), ({"frames_train": 100}, 16), ({"frames_train": 5, "frames_test": 100}, 16), ({"image_format": "webp"}, 128),
    ({"image_format": "jpeg"}, 128), ({"image_format": "jpeg", "jpeg_quality": 100}, 64), ({"max_crop": 128}, 128),
    ({"max_crop": 4096}, 64), ({"frames_train": 1, "frames_test": 1}, MOST_VIDEOS), ({"frames_train": 10_000}, 1),
    ({"videos_per_shard": 7}, 7), ({"videos_per_shard": 7000}, 7000),
])
def test_so_many_videos_are_a_shard_as_weigh_128_mb(settings, videos):
    config = ExtractConfig(**settings)
    assert videos_of_a_shard(config) == videos
    if config.videos_per_shard is None and 1 < videos < MOST_VIDEOS and config.image_format != "jpeg":
        crop = PIXEL_BYTES[config.image_format] * min(CROP_SIDE, config.max_crop) ** 2
        assert 0.7 < videos * max(config.frames_train, config.frames_test) * crop / SHARD_BYTES < 1.42


def status_of(videos, fingerprint="f", **facts):
    plans = plan(videos)
    records = [
        {**{name: getattr(row, name) for name in ("video_id", "label", "method", "split", "uri", "dataset")},
         "identities": list(row.identities), "shard": one.key, "fingerprint": fingerprint, "source_bytes": 7,
         "source_etag": "2026-01-02T03:04:05.000006+00:00", **facts}
        for one in plans for row in one.rows
    ]
    return plans, pa.Table.from_pylist(records, schema=STATUS_SCHEMA).sort_by([("video_id", "ascending"), ("shard", "ascending")])


def files_of(videos, size=7, version="2026-01-02T03:04:05.000006+00:00"):
    return {row.video_id: FoundFile(size, version) for row in videos}


def test_nothing_is_stale_when_nothing_changed_or_videos_came():
    _, status = status_of(VIDEOS)
    assert stale_rows(status, VIDEOS, fingerprint="f") == {}
    assert stale_rows(status, VIDEOS, fingerprint="f", files=files_of(VIDEOS)) == {}
    assert stale_rows(status, VIDEOS + rows(5, dataset="new"), fingerprint="f") == {}
    moved = [dataclasses.replace(row, uri="elsewhere") for row in VIDEOS]  # a copy has a time of its own
    assert stale_rows(status, moved, fingerprint="f", files=files_of(moved, version="2026-02-01T00:00:00+00:00")) == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"split": "test"}, "split was train, is test"), ({"label": 1}, "label was 0, is 1"),
     ({"identities": ("d:other",)}, "other identities"), (None, "no longer in the data set")],
)
def test_of_a_changed_video_its_own_row_is_stale_and_no_other(change, reason):
    plans, status = status_of(VIDEOS)
    changed = plans[3].rows[0]
    assert (changed.split, changed.label) == ("train", 0)
    now = [row for row in VIDEOS if row != changed] + ([dataclasses.replace(changed, **change)] if change else [])
    assert stale_rows(status, now, fingerprint="f") == {(plans[3].key, changed.video_id): reason}


@pytest.mark.parametrize(
    ("file", "reason"),
    [(FoundFile(8, None), "had 7 bytes, has 8"), (FoundFile(7, "2026-01-02T03:04:05.000007+00:00"), "was changed at"),
     (FoundFile(7, "2026-01-02T03:04:06+00:00"), "was changed at"),
     (FoundFile(7, "2026-01-02T03:04:05+00:00"), None),  # a store that tells whole seconds only
     (FoundFile(7, None), None), (FoundFile(7, "an-etag"), None)],
)
def test_a_file_that_changed_is_known_by_its_size_or_time(file, reason):
    plans, status = status_of(VIDEOS)
    stale = stale_rows(status, VIDEOS, fingerprint="f", files={**files_of(VIDEOS), VIDEOS[0].video_id: file})
    assert {video_id for _, video_id in stale} == ({VIDEOS[0].video_id} if reason else set())
    assert all(reason in told for told in stale.values())


def test_a_file_that_was_missing_is_extracted_when_it_is_there():
    _, status = status_of(VIDEOS, source_bytes=None, source_etag=None)
    assert len(stale_rows(status, VIDEOS, fingerprint="f", files=files_of(VIDEOS))) == len(VIDEOS)
    assert stale_rows(status, VIDEOS, fingerprint="f") == {}


def test_of_a_video_in_two_shards_one_row_counts():
    plans, status = status_of(VIDEOS)
    twice = status.filter(pa.compute.field("shard") == plans[0].key).to_pylist()
    again = pa.Table.from_pylist([{**row, "shard": "d/z"} for row in twice], schema=STATUS_SCHEMA)
    both = pa.concat_tables([status, again]).sort_by([("video_id", "ascending"), ("shard", "ascending")])
    stale = stale_rows(both, VIDEOS, fingerprint="f")
    assert stale == {("d/z", row["video_id"]): f"also in shard {plans[0].key}" for row in twice}
    # ... and where the first no longer agrees, the second counts.
    changed = both.to_pylist()
    for record in changed:
        record["fingerprint"] = "old" if record["shard"] == plans[0].key else "f"
    stale = stale_rows(pa.Table.from_pylist(changed, schema=STATUS_SCHEMA), VIDEOS, fingerprint="f")
    assert set(stale) == {(plans[0].key, row["video_id"]) for row in twice}


def test_other_settings_make_everything_stale():
    _, status = status_of(VIDEOS)
    assert len(stale_rows(status, VIDEOS, fingerprint="g")) == len(VIDEOS)


def test_a_changed_file_or_fact_makes_another_shard_of_the_same_videos():
    def key(videos, files, taken=()):
        (one,) = plan_shards(videos, videos_per_shard=8, fingerprint="f", files=files, taken=taken)
        return one.key

    videos = rows(3)
    first = key(videos, files_of(videos))
    assert first == key(videos[::-1], files_of(videos))
    newer = {**files_of(videos), videos[1].video_id: FoundFile(7, "2026-03-01T00:00:00+00:00")}
    relabelled = [*videos[:2], dataclasses.replace(videos[2], label=1)]
    others = {key(videos, newer), key(videos, files_of(videos, size=9)), key(relabelled, files_of(videos)),
              key(videos, files_of(videos), taken={first})}
    assert len(others) == 4 and first not in others
