"""Verdicts of many videos in storage: what jobs.detect_many writes, and readers of it.

A shard is one Parquet object, `<folder>/verdicts/<plan>.parquet`, one row a video; `<plan>` is a hash of its videos
(path, size, version) and the settings. It is written whole and only where there is none, which is its commit: of
several writers of one plan exactly one is. `stale.parquet` beside them lists rows that no longer count, because the
video was changed or is gone; it is a small list, and no shard is ever changed. docs/detection.md has the columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robust.data.shards import READ_THREADS, shard_key
from robust.detection import Verdict
from robust.errors import UserError
from robust.object_stores import MissingObject

SHARDS = "verdicts"
SUFFIX = ".parquet"
STALE, SKIPPED = "stale.parquet", "skipped.parquet"

VERDICT_SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # relative to the input
        ("uri", pa.string()),
        ("size", pa.int64()),  # bytes, as listed; null: it was gone when it was to be read
        ("version", pa.string()),  # as listed: ETag or time of change, "" where the store tells none; null with size
        ("status", pa.string()),  # ok, partial, no_face or unreadable
        ("reason", pa.string()),  # why it is undecided, or what else should be known; "" if nothing
        ("verdict", pa.string()),  # fake, real or undecided
        ("score", pa.float64()),  # logit, positive for fake; null if undecided
        ("threshold", pa.float64()),  # fake above it
        ("frames_decoded", pa.int32()),
        ("frames_with_face", pa.int32()),  # of the person whose score it is
        ("people", pa.int32()),  # judged ones
        ("other_faces", pa.int32()),  # most faces in one frame that are not this person's
        ("frame_index", pa.list_(pa.int32())),  # of each decoded frame, in the video from 0
        ("frame_time_s", pa.list_(pa.float64())),
        ("frame_score", pa.list_(pa.float64())),  # its logit; null without this person's face
        ("model", pa.string()),  # SHA-256 of its weights
        ("settings", pa.string()),  # fingerprint of input, model, thresholds and extraction
        ("shard", pa.string()),  # the plan's name
    ]
)
STALE_SCHEMA = pa.schema([("shard", pa.string()), ("path", pa.string()), ("reason", pa.string())])
FACTS = ("path", "size", "version", "shard", "status", "reason", "verdict", "score")
"""What the job itself needs of all rows at once."""


def verdict_row(
    verdict: Verdict, *, size: int | None, version: str | None, model: str, settings: str, shard: str
) -> dict:
    """A row of VERDICT_SCHEMA. Args: size, version: as listed, None if the file was gone; model: its SHA-256."""
    same = {name: getattr(verdict, name) for name in VERDICT_SCHEMA.names if hasattr(verdict, name)}
    return {
        **same,
        "path": verdict.name,
        "size": size,
        "version": version,
        "frame_index": [frame.frame_index for frame in verdict.frames],
        "frame_time_s": [frame.timestamp_s for frame in verdict.frames],
        "frame_score": [frame.logit for frame in verdict.frames],
        "model": model,
        "settings": settings,
        "shard": shard,
    }


# ---------------------------------------------------------------------------------------------------- names


def plan_key(videos: pa.Table, settings: str, taken: Collection[str]) -> str:
    """The name of the shard of these videos (VIDEO_SCHEMA), "verdicts/<16 hex digits>".

    Args:
        taken: names of shards that are there, whose rows no longer count: never used again.
    """
    identities, attempt = _identities(videos).to_pylist(), 0
    key = shard_key(SHARDS, identities, settings)
    while key in taken:
        attempt += 1
        key = shard_key(SHARDS, identities, f"{settings} {attempt}")
    return key


def list_shards(storage, folder: str) -> list[str]:
    """Names of the shards that are committed, sorted."""
    top = f"{folder}/{SHARDS}"
    keys = [key for key in storage.list(top) if key.endswith(SUFFIX)]
    return [f"{SHARDS}{key.removeprefix(top).removesuffix(SUFFIX)}" for key in keys]


# ---------------------------------------------------------------------------------------------------- writing, reading


def write_verdicts(storage, folder: str, shard: str, rows: pa.Table) -> bool:
    """Commits a shard; False: somebody has before, and theirs counts. The same rows give the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA).sort_by("path"), sink, compression="zstd",
                   write_page_checksum=True)
    return storage.write_bytes(f"{folder}/{shard}{SUFFIX}", sink.getvalue().to_pybytes(), if_absent=True)


def read_verdicts(
    storage, folder: str, *, shards: Sequence[str] | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """All rows of some shards, or of all, also those that no longer count (`read_current` leaves them out).

    Raises:
        UserError: an object is no Parquet file, or lacks a column.
    """
    names = list(VERDICT_SCHEMA.names if columns is None else columns)
    schema = pa.schema([VERDICT_SCHEMA.field(name) for name in names])

    def read(shard: str) -> pa.Table:
        key = f"{folder}/{shard}{SUFFIX}"
        try:  # whole: some 100 KB in one request
            data = pa.BufferReader(storage.read_bytes(key))
            return pq.read_table(data, columns=names, use_threads=False, page_checksum_verification=True).cast(schema)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise UserError(f"{storage.uri(key)} is not a readable shard of verdicts ({why}); delete it and run "
                            "jobs.detect_many again") from error

    wanted = list_shards(storage, folder) if shards is None else shards
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return pa.concat_tables([schema.empty_table(), *pool.map(read, wanted)])


def read_current(storage, folder: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One row a video, those that count, sorted by path."""
    names = list(VERDICT_SCHEMA.names if columns is None else columns)
    rows = read_verdicts(storage, folder, columns=list(dict.fromkeys([*names, "shard", "path"])))
    try:
        stale = storage.read_table(f"{folder}/{STALE}")
    except MissingObject:
        stale = STALE_SCHEMA.empty_table()
    return rows.filter(pc.invert(pc.is_in(_places(rows), value_set=_places(stale)))).sort_by("path").select(names)


def write_stale(storage, folder: str, stale: pa.Table) -> None:
    storage.write_table(f"{folder}/{STALE}", stale)


# ---------------------------------------------------------------------------------------------------- what counts


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Committed rows against a listing.

    Args:
        missing: listed videos without a row that counts, VIDEO_SCHEMA, sorted by path.
        current: rows that count, one a video, sorted by path.
        stale: the others, STALE_SCHEMA.
    """

    missing: pa.Table
    current: pa.Table
    stale: pa.Table


def compare(listed: pa.Table, rows: pa.Table, *, with_vanished: bool = False) -> Comparison:
    """Which listed videos (VIDEO_SCHEMA, sorted by path) have a row, and which rows no longer count.

    Args:
        rows: FACTS of all committed rows.
        with_vanished: also count rows of videos that were listed and gone when they were to be read: right after a run,
            whose listing it was. The next one looks again.
    """
    vanished = pc.is_null(rows["size"])
    counts = pc.is_in(_identities(rows), value_set=_identities(listed))
    if with_vanished:
        counts = pc.or_(counts, pc.and_(vanished, pc.is_in(rows["path"], value_set=listed["path"])))
    order = [("path", "ascending"), ("vanished", "ascending"), ("shard", "ascending")]
    counting = rows.append_column("vanished", vanished).filter(counts).sort_by(order).drop_columns("vanished")
    repeated = _repeats(counting["path"])
    current, twice = counting.filter(pc.invert(repeated)), counting.filter(repeated)
    other = rows.filter(pc.invert(counts))
    changed = pc.is_in(other["path"], value_set=listed["path"])
    reasons = pc.if_else(changed, "the file was changed, or was missing when it was judged", "no longer in the input")
    stale = pa.concat_tables([_stale(other, reasons), _stale(twice, pa.repeat("also in another shard", len(twice)))])
    missing = listed.filter(pc.invert(pc.is_in(listed["path"], value_set=current["path"])))
    return Comparison(missing, current, stale.sort_by([("shard", "ascending"), ("path", "ascending")]))


def _stale(rows: pa.Table, reasons) -> pa.Table:
    return pa.table([rows["shard"], rows["path"], reasons], schema=STALE_SCHEMA)


def _identities(table: pa.Table) -> pa.ChunkedArray:
    """Path, size and version as one text; null where one of them is."""
    parts = [pc.cast(table[name], pa.large_string()) for name in ("path", "size", "version")]
    return pc.binary_join_element_wise(*parts, pa.scalar("\0", pa.large_string()))


def _places(table: pa.Table) -> pa.ChunkedArray:
    parts = [pc.cast(table[name], pa.large_string()) for name in ("shard", "path")]
    return pc.binary_join_element_wise(*parts, pa.scalar("\0", pa.large_string()))


def _repeats(paths: pa.ChunkedArray) -> pa.Array:
    """Whether a path is that of the row before it."""
    whole = paths.combine_chunks() if isinstance(paths, pa.ChunkedArray) else paths
    if len(whole) == 0:
        return pa.array([], pa.bool_())
    return pa.concat_arrays([pa.array([False]), pc.equal(whole[1:], whole[:-1])])
