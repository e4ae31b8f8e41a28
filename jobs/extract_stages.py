"""The stages of jobs.extract as Ray Data runs them: each takes and gives Arrow tables with one row a video."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import telemetry
from jobs.extract_tally import DECODE, DETECT, WRITE, Teller
from jobs.video_tasks import rows_of
from robust.config import ExtractConfig, StorageConfig
from robust.data.decoder_process import DecodeLimits, shared_decoder
from robust.data.extraction import Source, decode_source, faces_of, frames_wanted
from robust.data.faces import build_detector
from robust.data.rows import ROW_SCHEMA, VideoRow, rows_to_table, table_to_rows
from robust.data.shard_plan import ShardPlan
from robust.data.shards import FACE_SCHEMA, STATUS_SCHEMA, write_shard
from robust.data.video import DecodedVideo
from robust.storage import Storage

PLAN_SCHEMA = ROW_SCHEMA.append(pa.field("shard", pa.string())).append(pa.field("shard_videos", pa.int32()))

FRAMES_SCHEMA = pa.schema(
    [
        pa.field("frames", pa.large_binary()),  # (N, H, W, 3) uint8
        pa.field("shape", pa.list_(pa.int64())),
        pa.field("indices", pa.list_(pa.int64())),
        pa.field("timestamps_s", pa.list_(pa.float64())),
        pa.field("decoding", pa.string()),  # DecodedVideo.status
        pa.field("reason", pa.string()),
        pa.field("source_bytes", pa.int64()),
        pa.field("source_version", pa.string()),
    ]
)
"""What decoding adds to a video's row."""
DECODED_SCHEMA = pa.schema([*PLAN_SCHEMA, *FRAMES_SCHEMA])

CROPS_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string()),
        pa.field("shard_videos", pa.int32()),
        pa.field("faces", pa.list_(pa.struct(FACE_SCHEMA))),
        pa.field("status", pa.struct(STATUS_SCHEMA)),
    ]
)


# ---------------------------------------------------------------------------------------------------- the input


def rows_of_a_shard(plans: Sequence[ShardPlan], *, most: int) -> int:
    """How many rows each shard takes up in `plan_table`: `most`, or the next power of two where all are smaller."""
    largest = max(len(plan.rows) for plan in plans)
    return min(most, 2 ** (largest - 1).bit_length())


def plan_table(plans: Sequence[ShardPlan], rows: int) -> pa.Table:
    """The videos of all shards in order, PLAN_SCHEMA.

    Each shard takes up exactly `rows` rows: a smaller one is filled with rows without a video, so that cutting the
    stream into equal batches gives the shards again.
    """
    tables = []
    for plan in plans:
        blanks = rows - len(plan.rows)
        table = pa.concat_tables([rows_to_table(plan.rows), _blank_rows(blanks)])
        table = table.append_column("shard", pa.array([plan.key] * len(table), pa.string()))
        tables.append(table.append_column("shard_videos", pa.array([len(plan.rows)] * len(table), pa.int32())))
    return pa.concat_tables(tables).cast(PLAN_SCHEMA).combine_chunks()


def _blank_rows(count: int) -> pa.Table:
    blank = {"video_id": "", "uri": "", "label": 0, "dataset": "", "method": "", "identities": [], "split": None}
    return pa.Table.from_pylist([blank] * count, schema=ROW_SCHEMA)


def _row(plan: pa.Table) -> VideoRow | None:
    """The video of a table of one row; None if the row only fills a shard."""
    return table_to_rows(plan)[0] if plan.column("video_id")[0].as_py() else None


# ---------------------------------------------------------------------------------------------------- decoding


class Decode:
    """Tasks -> DECODED_SCHEMA, one video at a time: raw frames are large."""

    def __init__(self, config: ExtractConfig, storage_config: StorageConfig, tell: Teller | None = None):
        self.config, self.storage_config, self.tell = config, storage_config, tell or Teller()

    def __call__(self, tasks: pa.Table) -> Iterator[pa.Table]:
        cv2.setNumThreads(1)
        for plan in rows_of(tasks):
            with self.tell.during(DECODE):
                frames = self.decode(_row(plan))
            yield with_frames(plan, frames)
        self.tell.tell()

    def decode(self, row: VideoRow | None) -> dict:
        """The columns that decoding adds; none of them for a row that only fills a shard."""
        if row is None:
            return {}
        decoded, source = decode_source(row, count=frames_wanted(row, self.config), storage_config=self.storage_config,
                                        limits=DecodeLimits.of(self.config))
        return frames_record(decoded, source)


def frames_record(decoded: DecodedVideo, source: Source | None) -> dict:
    """A row of FRAMES_SCHEMA; the frames are not copied."""
    return {
        "frames": decoded.frames.data,
        "shape": list(decoded.frames.shape),
        "indices": decoded.indices.tolist(),
        "timestamps_s": decoded.timestamps_s.tolist(),
        "decoding": decoded.status,
        "reason": decoded.reason,
        "source_bytes": source.size if source else None,
        "source_version": source.version if source else None,
    }


def with_frames(row: pa.Table, frames: dict) -> pa.Table:
    """A table of one row with the columns of FRAMES_SCHEMA behind its own; `frames` may lack some, or all."""
    added = [_one(frames.get(field.name), field.type) for field in FRAMES_SCHEMA]
    return pa.table([*row.columns, *added], schema=pa.schema([*row.schema, *FRAMES_SCHEMA]))


def _one(value, kind: pa.DataType) -> pa.Array:
    """An array of one value; bytes are not copied on the way."""
    if isinstance(value, memoryview):
        data = pa.py_buffer(value) if value.nbytes else pa.py_buffer(b"")
        return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(np.array([0, value.nbytes], np.int64)), data])
    return pa.array([value], kind)


def decoded_of(table: pa.Table) -> tuple[DecodedVideo, Source | None]:
    """What `with_frames` put into a table of one row; the frames stay where they are."""
    record = {name: table.column(name)[0] for name in FRAMES_SCHEMA.names}
    pixels = np.frombuffer(record["frames"].as_buffer(), np.uint8)
    video = DecodedVideo(
        frames=pixels.reshape(record["shape"].as_py()),
        indices=np.array(record["indices"].as_py(), np.int64),
        timestamps_s=np.array(record["timestamps_s"].as_py(), np.float64),
        status=record["decoding"].as_py(),
        reason=record["reason"].as_py(),
    )
    size = record["source_bytes"].as_py()
    return video, None if size is None else Source("", size, record["source_version"].as_py())


# ---------------------------------------------------------------------------------------------------- detection


class Detect:
    """DECODED_SCHEMA -> CROPS_SCHEMA; the detector is loaded once an actor."""

    def __init__(self, config: ExtractConfig, settings: str, threads: int = 1, tell: Teller | None = None):
        import torch  # not above: decoding and writing do without, and start sooner

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        self.config, self.settings, self.tell = config, settings, tell or Teller()
        self.detector = build_detector(config, threads=threads)

    def __call__(self, videos: pa.Table) -> Iterator[pa.Table]:
        for number in range(len(videos)):
            video = videos.slice(number, 1)
            row = _row(video)
            yield self.crops(video, row, *(decoded_of(video) if row else (None, None)))
        self.tell.tell()

    def crops(
        self, plan: pa.Table, row: VideoRow | None, decoded: DecodedVideo | None, source: Source | None
    ) -> pa.Table:
        """CROPS_SCHEMA of one video; no status for a row that only fills a shard."""
        faces, status = [], None
        if row is not None:
            with self.tell.during(DETECT):
                faces, status = faces_of(row, decoded, self.config, self.detector, source=source, fingerprint=self.settings)
            self.tell.video(status)
        shard = {name: plan.column(name)[0].as_py() for name in ("shard", "shard_videos")}
        return pa.Table.from_pylist([{**shard, "faces": faces, "status": status}], schema=CROPS_SCHEMA)


class DecodeAndDetect(Detect):
    """Tasks -> CROPS_SCHEMA in one process: without a GPU to feed, frames need not travel."""

    def __init__(self, config: ExtractConfig, storage_config: StorageConfig, settings: str, threads: int = 1, tell: Teller | None = None):
        shared_decoder(DecodeLimits.of(config)).start()  # it comes up while the detector is loaded
        super().__init__(config, settings, threads, tell)
        self.storage_config = storage_config

    def __call__(self, tasks: pa.Table) -> Iterator[pa.Table]:
        for plan in rows_of(tasks):
            row, decoded, source = _row(plan), None, None
            if row is not None:
                count = frames_wanted(row, self.config)
                with self.tell.during(DECODE):
                    decoded, source = decode_source(row, count=count, storage_config=self.storage_config,
                                                    limits=DecodeLimits.of(self.config))
            yield self.crops(plan, row, decoded, source)
        self.tell.tell()


# ---------------------------------------------------------------------------------------------------- writing


class Write:
    """CROPS_SCHEMA of exactly one shard -> its STATUS_SCHEMA rows, after both are in storage."""

    def __init__(self, storage: Storage, run: str, tell: Teller | None = None):
        self.storage, self.run, self.tell = storage, run, tell or Teller()

    def __call__(self, videos: pa.Table) -> pa.Table:
        with self.tell.during(WRITE):
            statuses = self.write(videos)
        self.tell.tell()
        return statuses

    def write(self, videos: pa.Table) -> pa.Table:
        videos = videos.filter(pc.is_valid(videos.column("status")))
        shard = only_shard(videos.column("shard").to_pylist(), expected=videos.column("shard_videos").to_pylist())
        faces = _table(pc.list_flatten(videos.column("faces")), FACE_SCHEMA)
        statuses = _table(videos.column("status"), STATUS_SCHEMA)
        telemetry.hear_storage(self.run)
        write_shard(self.storage, self.run, shard, faces, statuses)
        return statuses


def _table(structs: pa.ChunkedArray, schema: pa.Schema) -> pa.Table:
    chunks = [pa.RecordBatch.from_struct_array(chunk) for chunk in structs.chunks]
    return pa.Table.from_batches(chunks, schema=schema) if chunks else schema.empty_table()


def only_shard(keys: list[str], *, expected: list[int]) -> str:
    """The one shard that all rows are of. Raises RuntimeError: they are of several, or only a part of it."""
    if len(set(keys)) != 1 or len(keys) != expected[0]:
        found = json.dumps({key: keys.count(key) for key in sorted(set(keys))})
        raise RuntimeError(f"a shard must be written as a whole, got videos of {found}, expected {expected[:1]}")
    return keys[0]
