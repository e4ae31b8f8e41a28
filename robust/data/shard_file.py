"""A face shard opened for some of its row groups, where `read_shard` would fetch all rows of a video."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from robust.data.face_table import explain_shard
from robust.data.shards import FACE_SCHEMA, face_key


class ShardFile:
    """The crops of one shard: `with ShardFile(storage, run, shard) as file`. Opening it fetches the footer alone.

    Raises:
        UserError: here and while reading: it is gone or damaged.
    """

    def __init__(self, storage, run: str, shard: str):
        self.storage, self.run, self.shard = storage, run, shard
        filesystem, path = storage.arrow(face_key(run, shard))
        with explain_shard(storage, run, shard), contextlib.ExitStack() as opened:
            self._source = opened.enter_context(filesystem.open_input_file(path))
            self._file = pq.ParquetFile(self._source, pre_buffer=True)
            opened.pop_all()  # kept open
        self.size = self._source.size()

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self._source.close()

    @property
    def crops(self) -> int:
        return self._file.metadata.num_rows

    def crops_of_groups(self) -> list[int]:
        """How many crops each row group has."""
        metadata = self._file.metadata
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]

    def image_bytes(self, group: int) -> int:
        """What is fetched for the images of a row group."""
        metadata = self._file.metadata
        return metadata.row_group(group).column(metadata.schema.names.index("image")).total_compressed_size

    def groups_with(self, video_ids: Iterable[str]) -> list[int]:
        """Row groups that may hold one of these videos, by the statistics in the footer."""
        wanted, metadata = sorted(video_ids), self._file.metadata
        column = metadata.schema.names.index("video_id")
        found = []
        for number in range(metadata.num_row_groups):
            statistics = metadata.row_group(number).column(column).statistics
            known = statistics is not None and statistics.has_min_max
            if not known or any(statistics.min <= video_id <= statistics.max for video_id in wanted):
                found.append(number)
        return found

    def read(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """These columns of FACE_SCHEMA of these row groups, in their order; null where the shard is older than a column."""
        there = [name for name in columns if name in self._file.schema_arrow.names]
        with explain_shard(self.storage, self.run, self.shard):
            table = self._file.read_row_groups(list(groups), columns=there, use_threads=False)
        for name in columns:
            if name not in there:
                table = table.append_column(FACE_SCHEMA.field(name), pa.nulls(len(table), FACE_SCHEMA.field(name).type))
        return table.select(list(columns))
