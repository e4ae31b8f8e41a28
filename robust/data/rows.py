"""The row table: every data set, whatever its layout, is one row a video.

`video_id` is "dataset/method/name" and unique; it is the key that frames are grouped by everywhere, because the same
file name occurs under several methods (FaceForensics++ has a 000_003.mp4 for each of its manipulations).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

import pyarrow as pa

from robust.errors import UserError

REAL, FAKE = 0, 1
SPLITS = ("train", "val", "test", "excluded")

ROW_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("identities", pa.list_(pa.string()), nullable=False),
        pa.field("split", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True)
class VideoRow:
    """One video of a data set.

    Args:
        video_id: "dataset/method/name", unique over all configured data sets.
        uri: where the video lies: a local path or s3://bucket/key.
        label: 1 = fake, 0 = real.
        dataset: the configured name of the data set.
        method: how the fake was made; of a real video the data set's name of the source ("Celeb-real").
        identities: the people in it, prefixed by the data set that numbers them ("celeb_df_v2:id3"): of a fake both the
            target (whose video it is) and the source (whose face was put in).
        split: "train", "val", "test", "excluded", or None where nothing has been decided yet.
    """

    video_id: str
    uri: str
    label: int
    dataset: str
    method: str
    identities: tuple[str, ...]
    split: str | None = None

    def __post_init__(self):
        if self.label not in (REAL, FAKE):
            raise ValueError(f"{self.video_id}: label is {self.label!r}, must be 0 (real) or 1 (fake)")
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"{self.video_id}: split is {self.split!r}, must be one of {', '.join(SPLITS)}")
        if not self.identities:
            raise ValueError(f"{self.video_id}: a video needs at least one identity")

    def with_split(self, split: str | None) -> VideoRow:
        return dataclasses.replace(self, split=split)


def make_row(
    *,
    dataset: str,
    method: str,
    name: str,
    uri: str,
    label: int,
    people: Iterable[str],
    numbered_by: str | None = None,
    split: str | None = None,
) -> VideoRow:
    """Build a row from a layout's own terms.

    Args:
        people: the data set's own ids, without prefix; repetitions are dropped, order is kept.
        numbered_by: the prefix of the identities, default the data set's name. A layout gives its own name here, so
            that two copies of a data set (c23 and c40, or v1 and v2) know each other's people.
    """
    prefix = numbered_by or dataset
    return VideoRow(
        video_id=f"{dataset}/{method}/{name}",
        uri=uri,
        label=label,
        dataset=dataset,
        method=method,
        identities=tuple(f"{prefix}:{person}" for person in dict.fromkeys(people)),
        split=split,
    )


def require_unique_ids(rows: Sequence[VideoRow]) -> None:
    """Raise UserError if two rows share a video_id: their frames and scores would be mixed into one video."""
    repeated = sorted(video_id for video_id, count in Counter(row.video_id for row in rows).items() if count > 1)
    if repeated:
        raise UserError(
            f"{len(repeated)} video ids occur more than once, e.g. {', '.join(repeated[:3])}. "
            "Give each entry of data.datasets its own `name`, and each video its own file name within its method."
        )


def rows_to_table(rows: Sequence[VideoRow]) -> pa.Table:
    """Turn rows into an Arrow table with `ROW_SCHEMA`, in the order given."""
    columns = {name: [getattr(row, name) for row in rows] for name in ROW_SCHEMA.names}
    columns["identities"] = [list(identities) for identities in columns["identities"]]
    return pa.table(columns, schema=ROW_SCHEMA)


def table_to_rows(table: pa.Table) -> list[VideoRow]:
    """The inverse of `rows_to_table`; further columns are ignored.

    Raises:
        UserError: a column of `ROW_SCHEMA` is missing.
    """
    missing = [name for name in ROW_SCHEMA.names if name not in table.column_names]
    if missing:
        raise UserError(f"a table of videos lacks the columns {', '.join(missing)}; write it with rows_to_table")
    records = table.select(ROW_SCHEMA.names).to_pylist()
    return [VideoRow(**{**record, "identities": tuple(record["identities"])}) for record in records]
