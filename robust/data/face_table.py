"""The face crops of a run as tables, for training, evaluation and benchmarks; shards as such are in robust/data/shards.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robust.data.shards import FACE_SCHEMA, READ_THREADS, SUBJECT, face_key, read_status, status_key
from robust.errors import UserError
from robust.storage import explain_arrow


def videos_by_shard(status: pa.Table, *, split: str | None = None) -> dict[str, list[str]]:
    """The shards that hold faces (of one split), by key in order, with the videos to read from each."""
    shards: dict[str, list[str]] = {}
    columns = (status.column(name).to_pylist() for name in ("shard", "video_id", "split", "frames_found"))
    for shard, video_id, video_split, found in zip(*columns):
        if found and split in (None, video_split):
            shards.setdefault(shard, []).append(video_id)
    return {shard: shards[shard] for shard in sorted(shards)}


def read_faces(
    storage,
    run: str,
    *,
    split: str | None = None,
    columns: Sequence[str] | None = None,
    max_frames_per_video: int | None = None,
    subject_only: bool = False,
) -> pa.Table:
    """The face crops of a run as one table, ordered by (video_id, frame_index, track).

    Args:
        split: only this one; shards without it are not opened, row groups without it not fetched.
        columns: of FACE_SCHEMA, in this order; None: all.
        max_frames_per_video: at most so many frames of each video, spread evenly over those with a face.
        subject_only: of each video only the person whom it is about, where extract.people=all kept more.
    Raises:
        UserError: a shard that a status table names is gone.
    """
    wanted = list(FACE_SCHEMA.names if columns is None else columns)
    unknown = [name for name in wanted if name not in FACE_SCHEMA.names]
    if unknown:
        raise ValueError(f"face shards have no columns {', '.join(unknown)}; they have {', '.join(FACE_SCHEMA.names)}")
    shards = videos_by_shard(read_status(storage, run), split=split)
    needed = wanted + [name for name in ("video_id", "frame_index") if name not in wanted]

    def read(item):
        shard, video_ids = item
        return read_shard(storage, run, shard, video_ids, columns=needed, max_frames_per_video=max_frames_per_video,
                          subject_only=subject_only)

    with ThreadPoolExecutor(READ_THREADS) as pool:
        tables = [table for table in pool.map(read, shards.items()) if len(table)]
    empty = pa.schema([FACE_SCHEMA.field(name) for name in needed]).empty_table()
    # Shards hold their videos in order, and one run's hold one range after another: put so, hardly anything is left to sort.
    table = pa.concat_tables([empty, *sorted(tables, key=lambda table: table.column("video_id")[0].as_py())])
    order = pc.sort_indices(table.select(["video_id", "frame_index"]),
                            sort_keys=[("video_id", "ascending"), ("frame_index", "ascending")]).to_numpy()
    table = table.select(wanted)
    return table if np.array_equal(order, np.arange(len(order))) else table.take(order)  # which copies every image


def read_shard(
    storage,
    run: str,
    shard: str,
    video_ids: Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    max_frames_per_video: int | None = None,
    subject_only: bool = False,
    per_person: bool = False,
) -> pa.Table:
    """The crops of these videos out of one shard; for readers that stream shard by shard (see `videos_by_shard`).

    Args:
        per_person: `max_frames_per_video` counts each person's frames, so the subject's are those of `subject_only`.
    """
    wanted = list(FACE_SCHEMA.names if columns is None else columns)
    of_each = ("video_id", "track") if per_person else ("video_id",)
    needed = wanted + [name for name in (*of_each, "frame_index") if name not in wanted]
    filesystem, path = storage.arrow(face_key(run, shard))
    chosen = pc.field("video_id").isin(list(video_ids))
    if subject_only:
        chosen &= pc.field("track") == SUBJECT
    with explain_shard(storage, run, shard):
        table = pq.read_table(path, filesystem=filesystem, columns=needed, use_threads=False, filters=chosen)
    if max_frames_per_video is not None:
        table = table.take(pa.array(_evenly(table, max_frames_per_video, of_each), pa.int64()))
    return table.select(wanted)


@contextlib.contextmanager
def explain_shard(storage, run: str, shard: str) -> Iterator[None]:
    """What goes wrong while a shard is read, as a UserError; only of one that is lost or damaged does it say: extract it again."""
    uri = storage.uri(face_key(run, shard))
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if _is_of_the_store(error):
            with explain_arrow(uri, storage.config):
                raise
        raise UserError(f"face shard {uri} cannot be read ({error}); "
                        f"delete its status table {status_key(run, shard)} and run jobs.extract again") from error


def _is_of_the_store(error: Exception) -> bool:
    """Whether it says nothing about the shard. Damage found by pyarrow is an OSError too, but without a number."""
    if not isinstance(error, OSError) or isinstance(error, FileNotFoundError):
        return False
    return error.errno is not None or any(sign in str(error) for sign in ("AWS Error", "google::cloud"))


def _evenly(table: pa.Table, count: int, of_each: Sequence[str]) -> list[int]:
    """Row numbers of at most `count` frames of each video or person: the centres of `count` equal parts of them."""
    rows: dict[tuple, dict[int, list[int]]] = {}
    for row, (*whose, frame) in enumerate(zip(*(table.column(name).to_pylist() for name in (*of_each, "frame_index")))):
        rows.setdefault(tuple(whose), {}).setdefault(frame, []).append(row)
    kept = []
    for frames in rows.values():
        ordered = sorted(frames)
        parts = min(count, len(ordered))
        kept += [row for i in range(parts) for row in frames[ordered[(2 * i + 1) * len(ordered) // (2 * parts)]]]
    return kept
