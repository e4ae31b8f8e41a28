"""Face shards: what extraction writes and everything after it reads.

A shard is two Parquet objects in `<run>/faces/<dataset>/`: `<plan>-<content>.parquet` with one row a face crop, and
`<plan>.status.parquet` with one row a video. `<plan>` is a hash of the videos and the extraction settings, `<content>` one
of the first object's bytes. The crops are written first; the status table, written only where there is none yet, is the
commit. Readers start from the status tables, so crops without one (a job was killed in between) are never seen, and of
several writers of one plan exactly one is. `stale.json` lists rows that no longer count (robust/data/stale.py). The whole
protocol is in docs/extraction.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from robust.data.quality import REASONS
from robust.object_stores import MissingObject

SUBJECT = 0
"""The track of the person whom a video is about."""
STATUSES = ("ok", "partial", "no_face", "unreadable")
NUMBER = r"[0-9]+(\.[0-9]+)?"
"""In a reason: what differs between videos that have the same; written as N where they are counted together."""
STATUS_SUFFIX = ".status.parquet"
FACES_SUFFIX = ".parquet"
ROWS_OF_A_GROUP = 32
"""Crops of a row group, the least that is fetched of the images: 5 MB where a crop has 150 kB."""
FORMAT, FORMAT_KEY = 2, b"face_shard_format"
"""Of the crops' objects, told in their footers; docs/extraction.md says what each is. Without it: 1."""
READ_THREADS = 8
FACTS = ("label", "method", "split", "identities")
"""What a row says of a video that its crops carry too."""
CHECKED = ("video_id", "frame_index", "track", "dataset", *FACTS)
"""What `disagreements` looks at of a crop."""

FACE_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("dataset", pa.string()),
        ("frame_index", pa.int32()),  # of the frame in its video, from 0
        ("timestamp_s", pa.float64()),
        ("box", pa.list_(pa.float32(), 4)),  # x0, y0, x1, y1 of the detected face, pixels of the frame
        ("landmarks", pa.list_(pa.float32(), 10)),  # x, y of left eye, right eye, nose, left and right mouth corner
        ("window", pa.list_(pa.int32(), 4)),  # left, top, right, bottom of what was cut out, pixels of the frame
        ("matrix", pa.list_(pa.float32(), 6)),  # instead of the window, of an aligned crop: 2 x 3, to its pixels
        ("score", pa.float32()),
        ("sharpness", pa.float32()),  # robust/data/quality.py
        ("yaw", pa.float32()),  # degrees
        ("track", pa.int32()),  # the person's number in the video; 0 is the subject
        ("label", pa.int8()),
        ("method", pa.string()),
        ("identities", pa.list_(pa.string())),
        ("split", pa.string()),
        ("image", pa.large_binary()),  # the encoded crop; 64-bit offsets, because a table of them passes 2 GiB
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)

STATUS_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("dataset", pa.string()),
        ("method", pa.string()),
        ("label", pa.int8()),
        ("identities", pa.list_(pa.string())),
        ("split", pa.string()),
        ("status", pa.string()),  # one of STATUSES
        ("reason", pa.string()),  # "" for an undamaged video with a face in every frame asked for
        ("frames_asked", pa.int32()),
        ("frames_decoded", pa.int32()),
        ("frames_found", pa.int32()),  # frames with the subject's face
        ("people", pa.int32()),  # tracks of which there are crops
        ("refused", pa.struct([(reason, pa.int32()) for reason in REASONS])),  # faces of theirs that extract.filter refused
        ("shard", pa.string()),  # the shard's name, as in face_key and status_key
        ("source_bytes", pa.int64()),
        ("source_etag", pa.string()),  # or the time of last change; null where not known
        ("fingerprint", pa.string()),  # of the extraction settings
    ]
)


# ---------------------------------------------------------------------------------------------------- names


def shard_key(dataset: str, video_ids: Iterable[str], fingerprint: str) -> str:
    """The name of the plan to extract these videos, "<dataset>/<16 hex digits>", whatever their order."""
    text = json.dumps([fingerprint, sorted(video_ids)])
    return f"{dataset}/{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def shard_name(key: str, faces: bytes) -> str:
    """The name of a shard: its plan's and its content's, "<dataset>/<16 hex digits>-<16 hex digits>"."""
    return f"{plan_of(key)}-{content_hash(faces)}"


def content_hash(faces: bytes) -> str:
    return hashlib.sha256(faces).hexdigest()[:16]


def plan_of(shard: str) -> str:
    """The plan's part of a shard's name; runs of older versions have shards named by their plan alone."""
    folder, _, name = shard.rpartition("/")
    return f"{folder}/{name.partition('-')[0]}" if folder else name.partition("-")[0]


def face_key(run: str, shard: str) -> str:
    return f"{run}/faces/{shard}{FACES_SUFFIX}"


def status_key(run: str, shard: str) -> str:
    """Of a shard's or its plan's name."""
    return f"{run}/faces/{plan_of(shard)}{STATUS_SUFFIX}"


def stale_key(run: str) -> str:
    return f"{run}/faces/stale.json"


# ---------------------------------------------------------------------------------------------------- writing


def write_shard(
    storage, run: str, key: str, faces: Sequence[Mapping] | pa.Table, statuses: Sequence[Mapping] | pa.Table
) -> str:
    """Writes the crops of some videos, then, if nobody has yet, the status table that makes them visible.

    Args:
        key: from `shard_key`.
        faces: rows of FACE_SCHEMA.
        statuses: rows of STATUS_SCHEMA, one a video; `shard` is filled in here.
    Returns:
        The name of the shard that is committed under the key, ours or an earlier one.
    Raises:
        ValueError: crops and status rows contradict each other, see `disagreements`.
    """
    name, crops, table = encode_shard(key, faces, statuses)
    storage.write_bytes(face_key(run, name), crops)
    if storage.write_bytes(status_key(run, key), table, if_absent=True):
        return name
    committed = _name_in(storage, run, key)
    if committed != name:  # ours came out otherwise, as on another kind of processor; theirs is the one that counts
        storage.delete(face_key(run, name))
    return committed


def replace_shard(storage, run: str, shard: str, faces: pa.Table, statuses: pa.Table) -> str:
    """Puts other rows in a committed shard's place, under the same plan; readers see the old ones or the new ones."""
    name, crops, table = encode_shard(plan_of(shard), faces, statuses)
    storage.write_bytes(face_key(run, name), crops)
    storage.write_bytes(status_key(run, name), table)
    if name != shard:
        storage.delete(face_key(run, shard))
    return name


def encode_shard(
    key: str, faces: Sequence[Mapping] | pa.Table, statuses: Sequence[Mapping] | pa.Table
) -> tuple[str, bytes, bytes]:
    """(name, crops, status table) of a shard as they are stored; the same rows in any order give the same bytes.

    Raises:
        ValueError: as `write_shard`.
    """
    faces = _as_table(faces, FACE_SCHEMA).sort_by([(name, "ascending") for name in ("video_id", "frame_index", "track")])
    statuses = _as_table(statuses, STATUS_SCHEMA).sort_by("video_id")
    if told := disagreements(faces.select(CHECKED), statuses):
        raise ValueError(f"shard {key}: {told[0]}")
    crops = _parquet(faces.replace_schema_metadata({FORMAT_KEY: str(FORMAT)}), row_group_size=ROWS_OF_A_GROUP)
    name = shard_name(key, crops)
    column = statuses.schema.get_field_index("shard")
    statuses = statuses.set_column(column, "shard", pa.array([name] * len(statuses), pa.string()))
    return name, crops, _parquet(statuses)


def delete_plan(storage, run: str, plan: str) -> None:
    """Takes back the shard that is committed under a plan, if one is."""
    try:
        name = _name_in(storage, run, plan)
    except MissingObject:
        return
    delete_shard(storage, run, name)


def delete_shard(storage, run: str, shard: str) -> None:
    """Takes a committed shard back by its name, as its status rows tell it: first the commit, then the crops."""
    storage.delete(status_key(run, shard))
    storage.delete(face_key(run, shard))


def _name_in(storage, run: str, shard: str) -> str:
    """The name of the shard that is committed under this plan. Raises MissingObject: none is."""
    names = storage.read_table(status_key(run, shard)).column("shard").to_pylist()
    return names[0] if names else shard


def _as_table(rows: Sequence[Mapping] | pa.Table, schema: pa.Schema) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows.select(schema.names).cast(schema)
    return pa.Table.from_pylist(list(rows), schema=schema)


def disagreements(crops: pa.Table, statuses: pa.Table) -> list[str]:
    """What crops (columns CHECKED) and status rows of a shard say differently of a video, each as a sentence."""
    told = []
    videos = {record["video_id"]: record for record in statuses.to_pylist()}
    if len(videos) != len(statuses):
        told.append("a video has two status rows")
    found: dict[str, set[int]] = {}
    for crop in crops.to_pylist():
        video_id = crop["video_id"]
        record = videos.get(video_id)
        if record is None:
            told.append(f"crops of {video_id}, which has no status row")
            continue
        if crop["track"] == SUBJECT:
            found.setdefault(video_id, set()).add(crop["frame_index"])
        told += [f"{video_id}: {name} is {crop[name]} in the crops, {record[name]} in the status table"
                 for name in ("dataset", *FACTS) if crop[name] != record[name]]
    for video_id, record in videos.items():
        if record["status"] not in STATUSES:
            told.append(f"{video_id}: unknown status {record['status']!r}")
        if record["frames_found"] != (frames := len(found.get(video_id, ()))):
            told.append(f"{video_id}: crops of {frames} frames, {record['frames_found']} in the status table")
    return list(dict.fromkeys(told))


def _parquet(table: pa.Table, *, row_group_size: int = 256) -> bytes:
    """The same table always gives the same bytes; statistics only where readers filter."""
    sink = pa.BufferOutputStream()
    images = {"image": "NONE"} if "image" in table.column_names else {}
    pq.write_table(
        table,
        sink,
        row_group_size=row_group_size,
        compression={name: images.get(name, "ZSTD") for name in table.column_names},
        use_dictionary=["video_id", "dataset", "method", "split"],
        write_statistics=[name for name in ("video_id", "split", "frame_index") if name in table.column_names],
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()


# ---------------------------------------------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class Committed:
    """Everything that is committed in a run, also what no longer counts.

    Args:
        table: rows of STATUS_SCHEMA ordered by video_id and shard.
        stale: {(shard, video_id): why this row does not count}, as stale.json tells.
        keys: all objects of the run's faces folder.
    """

    table: pa.Table
    stale: dict[tuple[str, str], str]
    keys: tuple[str, ...]

    def current(self) -> pa.Table:
        """One row a video: of the rows that count, should there be several, the one whose shard's name comes first."""
        kept, last = [], None
        pairs = zip(self.table.column("shard").to_pylist(), self.table.column("video_id").to_pylist())
        for number, (shard, video_id) in enumerate(pairs):
            if (shard, video_id) not in self.stale and video_id != last:
                kept.append(number)
                last = video_id
        return self.table.take(pa.array(kept, pa.int64())) if len(kept) < len(self.table) else self.table


def read_status(storage, run: str) -> pa.Table:
    """One row a video of everything extracted in this run that counts, ordered by video_id; empty before extraction."""
    return read_committed(storage, run).current()


def read_committed(storage, run: str) -> Committed:
    """All status rows of a run, and which of them are stale: one listing and a small read a shard."""
    keys = tuple(storage.list(f"{run}/faces"))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = pool.map(lambda key: _status_table(storage, key), [key for key in keys if key.endswith(STATUS_SUFFIX)])
        table = pa.concat_tables([STATUS_SCHEMA.empty_table(), *read])
    stale = read_stale(storage, run) if stale_key(run) in keys else {}
    return Committed(table.sort_by([("video_id", "ascending"), ("shard", "ascending")]), stale, keys)


def _status_table(storage, key: str) -> pa.Table:
    try:
        table = storage.read_table(key)
    except MissingObject:  # taken back since it was listed
        return STATUS_SCHEMA.empty_table()
    for field in STATUS_SCHEMA:
        if field.name not in table.column_names:  # written by a version that did not have it
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return _as_table(table, STATUS_SCHEMA)


def read_stale(storage, run: str) -> dict[tuple[str, str], str]:
    """{(shard, video_id): reason} of the rows that no longer count; empty where there is no such list."""
    try:
        rows = storage.read_json(stale_key(run))["rows"]
    except MissingObject:
        return {}
    return {(shard, video_id): reason for shard, video_id, reason in rows}


def write_stale(storage, run: str, stale: Mapping[tuple[str, str], str]) -> None:
    """Writes the list of rows that no longer count, or takes it away if there are none."""
    if not stale:
        storage.delete(stale_key(run))
        return
    rows = [[shard, video_id, reason] for (shard, video_id), reason in sorted(stale.items())]
    storage.write_json(stale_key(run), {"about": "status rows that no longer count: shard, video_id, why", "rows": rows})
