"""Face crops of a split that is too large for memory: in a local file, from which the system reads what is drawn."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robust.data.face_table import read_shard, videos_by_shard
from robust.data.shards import FACE_SCHEMA, face_key, read_status

ORDER = ("video_id", "frame_index")
IMAGE = "image"


def stored_bytes(storage, run: str, *, split: str) -> int:
    """Size of the shards that hold a split's faces."""
    shards = videos_by_shard(read_status(storage, run), split=split)
    if not shards:
        return 0
    keys = {face_key(run, shard) for shard in shards}
    folder = next(iter(keys)).rsplit("/", 2)[0]
    return sum(size or 0 for some in storage.scan(folder) for key, size, _ in some if key in keys)


class MappedImages(Sequence):
    """Encoded images of a column, in another order; each is read when it is asked for."""

    def __init__(self, column: pa.ChunkedArray, order: np.ndarray):
        self.column, self.order = column, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> pa.BinaryScalar:
        return self.column[int(self.order[index])]


def faces_on_disk(
    storage, run: str, *, split: str, columns: Sequence[str], subject_only: bool = False, keep: pc.Expression | None = None
) -> tuple[pa.Table, MappedImages]:
    """The faces that `read_faces` would give, in the same order, with the images in a file that is mapped into memory.

    The file has no name any more when this returns: it goes with the process, however that ends. TMPDIR says where there is room for it.

    Args:
        columns: of FACE_SCHEMA, "image" among them.
        keep: which rows.
    Returns:
        the other columns, and the images.
    """
    needed = [*columns, *(name for name in ORDER if name not in columns)]
    schema = pa.schema([FACE_SCHEMA.field(name) for name in needed])
    shards = videos_by_shard(read_status(storage, run), split=split)
    with tempfile.TemporaryDirectory(prefix="faces-") as folder:
        path = Path(folder) / "faces.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for shard, video_ids in shards.items():  # one after the other: no more than one is in memory
                table = read_shard(storage, run, shard, video_ids, columns=needed, subject_only=subject_only)
                writer.write_table(table if keep is None else table.filter(keep))
        mapped = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    order = pc.sort_indices(mapped.select(ORDER), sort_keys=[(name, "ascending") for name in ORDER])
    facts = mapped.select([name for name in columns if name != IMAGE]).take(order)
    return facts, MappedImages(mapped.column(IMAGE), order.to_numpy())
