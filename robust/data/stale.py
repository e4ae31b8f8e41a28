"""Status rows that no longer count: marked by every extraction, removed only when somebody asks for it.

Marking writes one small list (`stale.json`) and touches no shard, so that nothing is lost by a data set that was not
mounted. Removing takes whole shards away where nothing in them counts, and rewrites the others without the stale rows.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robust.data.shards import (
    FACE_SCHEMA,
    FACES_SUFFIX,
    STATUS_SUFFIX,
    Committed,
    delete_shard,
    face_key,
    read_committed,
    replace_shard,
    write_stale,
)

EXAMPLES = 5


def mark_stale(storage, run: str, committed: Committed, stale: Mapping[tuple[str, str], str]) -> Committed:
    """Makes `stale` the run's list of rows that do not count; writes nothing if it is that already."""
    if committed.stale != stale:
        write_stale(storage, run, stale)
    return dataclasses.replace(committed, stale=dict(stale))


def describe_stale(stale: Mapping[tuple[str, str], str]) -> list[str]:
    """One sentence a kind of reason, with how many rows and some of them; and what to do."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for (shard, video_id), reason in sorted(stale.items()):
        kinds[_kind(reason)].append(f"{video_id} in {shard} ({reason})")
    told = [f"{len(rows)} status rows no longer count, {kind}: {'; '.join(rows[:EXAMPLES])}{' ...' * (len(rows) > EXAMPLES)}"
            for kind, rows in sorted(kinds.items())]
    return told + (["python -m jobs.extract --remove-stale removes them and their crops"] if told else [])


def count_reasons(stale: Mapping[tuple[str, str], str]) -> dict[str, int]:
    return dict(sorted(Counter(_kind(reason) for reason in stale.values()).items()))


def _kind(reason: str) -> str:
    """A reason without what is different from video to video."""
    if reason.startswith("its file"):
        return "the file was changed"
    return "the video is in another shard too" if reason.startswith("also in") else reason


@dataclasses.dataclass(frozen=True)
class Removed:
    """What `remove_stale` did.

    Args:
        rows: stale status rows that are gone, with their crops.
        shards: shards of which nothing is left.
        rewritten: shards that were written anew without their stale rows.
        leftovers: objects of crops that no status table named, such as a killed job leaves.
    """

    rows: int
    shards: int
    rewritten: int
    leftovers: int


def remove_stale(storage, run: str) -> Removed:
    """Removes what `stale.json` lists and the crops that nobody committed. No extraction of the run may be under way.

    Killed at any moment and started again, it goes on: a shard is replaced by one write of its status table.
    """
    committed = read_committed(storage, run)
    stale: dict[str, set[str]] = defaultdict(set)
    for shard, video_id in committed.stale:
        stale[shard].add(video_id)
    rows = shards = rewritten = 0
    for shard, videos in sorted(stale.items()):
        statuses = committed.table.filter(pc.field("shard") == shard)
        left = statuses.filter(~pc.field("video_id").isin(sorted(videos)))
        rows += len(statuses) - len(left)
        if len(statuses) == 0:  # by an earlier removal that was killed before it came to the list
            continue
        if len(left) == 0:
            delete_shard(storage, run, shard)
            shards += 1
        else:
            replace_shard(storage, run, shard, _faces_of(storage, run, shard, left.column("video_id")), left)
            rewritten += 1
    if committed.stale:
        write_stale(storage, run, {})
    return Removed(rows, shards, rewritten, _remove_leftovers(storage, run))


def _faces_of(storage, run: str, shard: str, video_ids: pa.ChunkedArray) -> pa.Table:
    """The crops of these videos in a shard."""
    data = pa.BufferReader(storage.read_bytes(face_key(run, shard)))
    return pq.read_table(data, filters=pc.field("video_id").isin(video_ids.to_pylist()), schema=FACE_SCHEMA)


def leftovers(committed: Committed, run: str) -> list[str]:
    """Keys of crops that no status table names."""
    named = {face_key(run, shard) for shard in committed.table.column("shard").unique().to_pylist()}
    return [key for key in committed.keys
            if key.endswith(FACES_SUFFIX) and not key.endswith(STATUS_SUFFIX) and key not in named]


def _remove_leftovers(storage, run: str) -> int:
    found = leftovers(read_committed(storage, run), run)
    for key in found:
        storage.delete(key)
    return len(found)
