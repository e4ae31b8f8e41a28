"""Whole shards, the same ones after a kill, and none left that contradicts the data set."""

import dataclasses

import pyarrow as pa
import pytest

from robust.data.rows import VideoRow
from robust.data.shard_plan import plan_shards, stale_shards
from robust.data.shards import STATUS_SCHEMA


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


def status_of(videos, fingerprint="f"):
    plans = plan(videos)
    records = [
        {**{name: getattr(row, name) for name in ("video_id", "label", "method", "split", "uri", "dataset")},
         "identities": list(row.identities), "shard": one.key, "fingerprint": fingerprint}
        for one in plans for row in one.rows
    ]
    return plans, pa.Table.from_pylist(records, schema=STATUS_SCHEMA)


def test_nothing_is_stale_when_nothing_changed_or_videos_came():
    _, status = status_of(VIDEOS)
    assert stale_shards(status, VIDEOS, fingerprint="f") == {}
    assert stale_shards(status, VIDEOS + rows(5, dataset="new"), fingerprint="f") == {}
    moved = [dataclasses.replace(row, uri="elsewhere") for row in VIDEOS]
    assert stale_shards(status, moved, fingerprint="f") == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"split": "test"}, "split was train, is test"), ({"label": 1}, "label was 0, is 1"),
     ({"identities": ("d:other",)}, "other identities"), (None, "no longer in the data set")],
)
def test_one_changed_video_makes_its_shard_stale_and_no_other(change, reason):
    plans, status = status_of(VIDEOS)
    changed = plans[3].rows[0]
    assert (changed.split, changed.label) == ("train", 0)
    now = [row for row in VIDEOS if row != changed] + ([dataclasses.replace(changed, **change)] if change else [])
    stale = stale_shards(status, now, fingerprint="f")
    assert list(stale) == [plans[3].key] and stale[plans[3].key] == f"{changed.video_id}: {reason}"


def test_other_settings_make_everything_stale():
    plans, status = status_of(VIDEOS)
    assert set(stale_shards(status, VIDEOS, fingerprint="g")) == {one.key for one in plans}
