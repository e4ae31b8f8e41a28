"""Which videos go into which shard, and which shards are already what they should be.

The plan is a function of the videos alone: those that are left are cut, in order, into shards of equal size, each of
one data set and one split (so that a reader of one split opens only its shards). A job that is killed leaves whole
shards behind; what is left is then cut at the same places, and the second job writes the very shards that the first
one would have written.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa

from robust.data.rows import VideoRow
from robust.data.shards import shard_key


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    key: str
    rows: tuple[VideoRow, ...]


def plan_shards(rows: Sequence[VideoRow], *, videos_per_shard: int, fingerprint: str) -> list[ShardPlan]:
    """Cuts videos into shards, ordered by (dataset, split, video_id); only a group's last shard is smaller."""
    groups: dict[tuple[str, str], list[VideoRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.video_id):
        groups[row.dataset, row.split or ""].append(row)
    plans = []
    for (dataset, _), members in sorted(groups.items()):
        for start in range(0, len(members), videos_per_shard):
            part = tuple(members[start:start + videos_per_shard])
            plans.append(ShardPlan(shard_key(dataset, (row.video_id for row in part), fingerprint), part))
    return plans


def stale_shards(status: pa.Table, rows: Sequence[VideoRow], *, fingerprint: str) -> dict[str, str]:
    """Shards that hold a video which is no longer what the data set says, and why.

    A shard is taken back as a whole, so that no video is ever in two: a split that changed must not leave the crops
    of one person in training and in test.
    """
    known = {row.video_id: row for row in rows}
    stale: dict[str, str] = {}
    for record in status.to_pylist():
        if (reason := _why_stale(record, known.get(record["video_id"]), fingerprint)) is not None:
            stale.setdefault(record["shard"], f"{record['video_id']}: {reason}")
    return stale


def _why_stale(record: dict, row: VideoRow | None, fingerprint: str) -> str | None:
    if row is None:
        return "no longer in the data set"
    if record["fingerprint"] != fingerprint:
        return "extracted with other settings"
    for name in ("label", "method", "split"):
        if record[name] != getattr(row, name):
            return f"{name} was {record[name]}, is {getattr(row, name)}"
    return "other identities" if record["identities"] != list(row.identities) else None
