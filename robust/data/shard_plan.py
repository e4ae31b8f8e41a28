"""Which videos go into which shard, and which status rows are no longer what the data set says.

The plan is a function of the videos alone: those that are left are cut, in order, into shards of equal size, each of
one data set and one split (so that a reader of one split opens only its shards). A job that is killed leaves whole
shards behind; what is left is then cut at the same places, and the second job writes the very shards that the first
one would have written.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime

import pyarrow as pa

from robust.config import ExtractConfig
from robust.data.rows import VideoRow
from robust.data.shards import FACTS, shard_key
from robust.data.tree import FoundFile

SHARD_BYTES = 128e6
"""Of a full shard, in the middle of the 64 to 256 MB that use a network well."""
MOST_VIDEOS = 128
"""Of a shard: what a killed job does anew is the shards under way, and progress is told shard by shard."""
CROP_SIDE = 300
"""Pixels of a crop's side where `max_crop` allows it; a shard planned for 128 MB is 64 to 256 MB from 0.7 to 1.4 times that."""
PIXEL_BYTES = {"png": 1.2, "webp": 0.6, "jpeg": 0.36}
"""Of such a crop, jpeg at quality 95; docs/extraction.md#size-of-a-shard tells on what this was measured."""
JPEG_100 = 0.8
"""The same of quality 100."""


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    key: str
    rows: tuple[VideoRow, ...]


def videos_of_a_shard(config: ExtractConfig) -> int:
    """`videos_per_shard`, or the power of two whose shards come nearest to SHARD_BYTES.

    A function of the settings alone: the data would tell better, but what is left after a kill must be cut as the
    whole was.
    """
    if config.videos_per_shard is not None:
        return config.videos_per_shard
    frames = max(config.frames_train, config.frames_test)
    videos = videos_that_weigh(SHARD_BYTES, of_each=frames * crop_bytes(config))
    return min(MOST_VIDEOS, videos)


def videos_that_weigh(size: float, *, of_each: float) -> int:
    """The power of two, 1 or more, that gives nearest to `size` bytes."""
    return 2 ** max(0, round(math.log2(size / of_each)))


def crop_bytes(config: ExtractConfig) -> float:
    """Of a crop as it is stored, where faces are large; docs/extraction.md#size-of-a-shard has the figures behind it."""
    of_a_pixel = PIXEL_BYTES[config.image_format]
    if config.image_format == "jpeg":
        of_a_pixel += (JPEG_100 - of_a_pixel) * (config.jpeg_quality - 95) / 5
    return of_a_pixel * min(CROP_SIDE, config.max_crop) ** 2


def plan_shards(
    rows: Sequence[VideoRow],
    *,
    videos_per_shard: int,
    fingerprint: str,
    files: Mapping[str, FoundFile] | None = None,
    taken: Container[str] = frozenset(),
) -> list[ShardPlan]:
    """Cuts videos into shards, ordered by (dataset, split, video_id); only a group's last shard is smaller.

    Args:
        fingerprint: of the extraction settings.
        files: {video_id: its file}; a changed file, like a changed fact of FACTS, makes another shard of it.
        taken: keys that are committed already, with rows that no longer count: never used again.
    """
    groups: dict[tuple[str, str], list[VideoRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.video_id):
        groups[row.dataset, row.split or ""].append(row)
    plans = []
    for (dataset, _), members in sorted(groups.items()):
        for start in range(0, len(members), videos_per_shard):
            part = tuple(members[start:start + videos_per_shard])
            plans.append(ShardPlan(_free_key(dataset, part, fingerprint, files or {}, taken), part))
    return plans


def _free_key(dataset: str, part: Iterable[VideoRow], fingerprint: str, files: Mapping[str, FoundFile],
              taken: Container[str]) -> str:
    """A file may become again what it was long ago; its stale crops then hold the key that comes first to mind."""
    videos = [_identity(row, files.get(row.video_id)) for row in part]
    key, attempt = shard_key(dataset, videos, fingerprint), 0
    while key in taken:
        attempt += 1
        key = shard_key(dataset, videos, f"{fingerprint} {attempt}")
    return key


def _identity(row: VideoRow, file: FoundFile | None) -> str:
    facts = [row.video_id, *(getattr(row, name) for name in FACTS)]
    return json.dumps([*facts, *((file.size, file.version) if file else ())])


def stale_rows(
    status: pa.Table, rows: Sequence[VideoRow], *, fingerprint: str, files: Mapping[str, FoundFile] | None = None
) -> dict[tuple[str, str], str]:
    """{(shard, video_id): why} of the status rows that are not what the data set says now.

    Args:
        status: all committed rows, ordered by video_id and shard; of several that agree the first counts.
        files: {video_id: its file as it is now}.
    """
    known, files = {row.video_id: row for row in rows}, files or {}
    stale: dict[tuple[str, str], str] = {}
    counting: dict[str, str] = {}
    for record in status.select(["video_id", "shard", "uri", "source_bytes", "source_etag", "fingerprint", *FACTS]).to_pylist():
        video_id, shard = record["video_id"], record["shard"]
        reason = _why_stale(record, known.get(video_id), files.get(video_id), fingerprint)
        if reason is None and counting.setdefault(video_id, shard) != shard:
            reason = f"also in shard {counting[video_id]}"
        if reason is not None:
            stale[shard, video_id] = reason
    return stale


def _why_stale(record: dict, row: VideoRow | None, file: FoundFile | None, fingerprint: str) -> str | None:
    if row is None:
        return "no longer in the data set"
    if record["fingerprint"] != fingerprint:
        return "extracted with other settings"
    for name in ("label", "method", "split"):
        if record[name] != getattr(row, name):
            return f"{name} was {record[name]}, is {getattr(row, name)}"
    if record["identities"] != list(row.identities):
        return "other identities"
    return None if file is None else _why_changed(record, file, moved=record["uri"] != row.uri)


def _why_changed(record: dict, file: FoundFile, *, moved: bool) -> str | None:
    """A copy elsewhere has its own time of change, so a video that moved is compared by its size alone."""
    if record["source_bytes"] is None:
        return "its file was missing, and is there now"
    if record["source_bytes"] != file.size:
        return f"its file had {record['source_bytes']} bytes, has {file.size}"
    if not moved and not same_version(record["source_etag"], file.version):
        return f"its file was changed at {file.version}, after its crops were made from that of {record['source_etag']}"
    return None


def same_version(one: str | None, other: str | None) -> bool:
    """Whether two versions of a file may be the same one: some stores tell the time of change to the second only.

    True where either is not known, or where they are not both times.
    """
    if one is None or other is None or one == other:
        return True
    try:
        first, second = datetime.fromisoformat(one), datetime.fromisoformat(other)
        whole = 0 in (first.microsecond, second.microsecond)
        return first.replace(microsecond=0) == second.replace(microsecond=0) if whole else first == second
    except (ValueError, TypeError):
        return True
