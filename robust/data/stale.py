"""Status rows that no longer count: marked by every extraction, removed only when somebody asks for it.

Marking writes one small list (`stale.json`) and touches no shard, so that nothing is lost by a data set that was not
mounted. Removing takes whole shards away where nothing in them counts, and rewrites the others without the stale rows.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robust.data.shards import (
    FACE_SCHEMA,
    FACES_SUFFIX,
    READ_THREADS,
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
    shards = committed.table.column("shard").to_pylist()
    there: dict[str, list[int]] = defaultdict(list)  # lacks those that a removal took which was killed before the list
    for number, shard in enumerate(shards):
        if shard in stale:
            there[shard].append(number)

    gone, rewritten, rows = [], [], 0
    for shard, numbers in sorted(there.items()):  # one at a time: the crops of one may be a hundred megabytes
        statuses = committed.table.take(pa.array(numbers, pa.int64()))
        left = statuses.filter(~pc.field("video_id").isin(sorted(stale[shard])))
        rows += len(statuses) - len(left)
        if len(left) == 0:
            gone.append(shard)
        else:
            rewritten.append(replace_shard(storage, run, shard, _faces_of(storage, run, shard, left.column("video_id")), left))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        list(pool.map(lambda shard: delete_shard(storage, run, shard), gone))
        if committed.stale:
            write_stale(storage, run, {})
        left_over = crops_without(({*shards} - there.keys()).union(rewritten), run, storage.list(f"{run}/faces"))
        list(pool.map(storage.delete, left_over))
    return Removed(rows, len(gone), len(rewritten), len(left_over))


def _faces_of(storage, run: str, shard: str, video_ids: pa.ChunkedArray) -> pa.Table:
    """The crops of these videos in a shard."""
    data = pa.BufferReader(storage.read_bytes(face_key(run, shard)))
    return pq.read_table(data, filters=pc.field("video_id").isin(video_ids.to_pylist()), schema=FACE_SCHEMA)


def leftovers(committed: Committed, run: str) -> list[str]:
    """Keys of crops that no status table names."""
    return crops_without(set(committed.table.column("shard").unique().to_pylist()), run, committed.keys)


def crops_without(shards: set[str], run: str, keys: Iterable[str]) -> list[str]:
    """Those of these keys that are crops of none of these shards."""
    named = {face_key(run, shard) for shard in shards}
    return [key for key in keys if key.endswith(FACES_SUFFIX) and not key.endswith(STATUS_SUFFIX) and key not in named]
