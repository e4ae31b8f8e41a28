"""Whether face shards are what was written, and the status table what the data set says: for `jobs.extract --verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from robust.data.rows import VideoRow
from robust.data.shard_plan import stale_rows
from robust.data.shards import (
    CHECKED,
    FACE_SCHEMA,
    FACTS,
    FORMAT,
    FORMAT_KEY,
    STATUS_SCHEMA,
    Committed,
    content_hash,
    disagreements,
    face_key,
    plan_of,
    status_key,
)
from robust.data.tree import FoundFile
from robust.errors import UserError
from robust.object_stores import MissingObject

CHECKED_STATUS = ("video_id", "shard", "status", "frames_found", "dataset", *FACTS)
EXAMPLES = 3


def check_shard(storage, run: str, plan: str) -> list[str]:
    """What is wrong with the shard committed under this plan, each as a sentence that names the object.

    Reads both objects whole: the crops' bytes against the hash in their name, the status table's pages against their
    CRC, and each against the other.
    """
    try:
        statuses = _read(storage, status_key(run, plan), CHECKED_STATUS, STATUS_SCHEMA)
        shard = _only_shard(statuses, plan, storage.uri(status_key(run, plan)))
        crops = _read(storage, face_key(run, shard), CHECKED, FACE_SCHEMA, shard=shard)
    except _Wrong as wrong:
        return [str(wrong)]
    return [f"{storage.uri(face_key(run, shard))}: {problem}" for problem in disagreements(crops, statuses)]


class _Wrong(Exception):
    """A sentence about an object with which nothing more can be done."""


def _read(storage, key: str, columns: Sequence[str], schema: pa.Schema, *, shard: str = "") -> pa.Table:
    """Columns of a Parquet object; if it is the crops of a shard, its bytes are compared with the hash in the shard's name."""
    uri = storage.uri(key)
    try:
        data = storage.read_bytes(key)
    except MissingObject:
        raise _Wrong(f"{uri} is missing") from None
    except UserError as error:
        raise _Wrong(f"{uri} cannot be read ({error})") from None
    content = shard.rpartition("/")[2].partition("-")[2]  # none in older versions
    if content and content_hash(data) != content:
        raise _Wrong(f"{uri} is not what was written: its content has the hash {content_hash(data)}")
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        written = (file.schema_arrow.metadata or {}).get(FORMAT_KEY, b"1").decode("ascii", "replace")
        if written not in map(str, range(1, FORMAT + 1)):
            raise _Wrong(f"{uri} is a shard of format {written[:20]}, this version knows formats up to {FORMAT}; use a newer one")
        if missing := [name for name in columns if name not in file.schema_arrow.names]:
            raise _Wrong(f"{uri} has no columns {', '.join(missing)}")
        there = file.schema_arrow  # in the footer, which has no checksum
        if changed := [field.name for field in there if field.name not in schema.names or field.type != schema.field(field.name).type]:
            raise _Wrong(f"{uri} has columns that no version writes: {', '.join(changed)}")
        # Without a hash all pages are read, for their checksums.
        return file.read(columns=list(columns) if content else None, use_threads=False).select(list(columns))
    except (OSError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise _Wrong(f"{uri} is not a whole Parquet file ({str(error).splitlines()[0][:200]})") from None


def _only_shard(statuses: pa.Table, plan: str, uri: str) -> str:
    shards = sorted(set(map(str, statuses.column("shard").to_pylist())))
    if len(shards) != 1 or plan_of(shards[0]) != plan:
        raise _Wrong(f"{uri} does not belong to its name: its rows are of {', '.join(shards) or 'no shard'}")
    return shards[0]


def check_table(
    committed: Committed, rows: Sequence[VideoRow], *, fingerprint: str, files: Mapping[str, FoundFile]
) -> list[str]:
    """What is wrong with the status table as a whole: each video of the data set has one row that counts, others none."""
    status = committed.current()
    known = set(status.column("video_id").to_pylist())
    missing = [row.video_id for row in rows if row.video_id not in known]
    told = [f"{len(missing)} videos have no status row, e.g. {', '.join(missing[:EXAMPLES])}"] if missing else []
    now = stale_rows(committed.table, rows, fingerprint=fingerprint, files=files)
    unmarked = [f"{video_id} in {shard} ({reason})" for (shard, video_id), reason in sorted(now.items())
                if (shard, video_id) not in committed.stale]
    if unmarked:
        told.append(f"{len(unmarked)} status rows no longer agree with the data set: {'; '.join(unmarked[:EXAMPLES])}"
                    f"{' ...' if len(unmarked) > EXAMPLES else ''}")
    there = set(zip(committed.table.column("shard").to_pylist(), committed.table.column("video_id").to_pylist()))
    wronged = [key for key in committed.stale if key in there and key not in now]
    if wronged:
        told.append(f"{len(wronged)} status rows are listed as stale, and agree with the data set: "
                    f"{', '.join(video_id for _, video_id in sorted(wronged)[:EXAMPLES])}")
    return told
