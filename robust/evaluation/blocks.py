"""How the test crops are cut into blocks of work, and under which names their results are kept.

The cut depends on the crops and on `evaluate.block_size` only, never on the cluster, so any number of machines computes
the same blocks; a result's name is a hash of all that it depends on, so a job that was stopped finds it again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from robust.data.face_table import read_shard
from robust.data.images import decode_image
from robust.data.inputs import resize
from robust.errors import UserError
from robust.evaluation.attack_block import Cell, block_hash
from robust.evaluation.item import Item
from robust.evaluation.predictions import PREDICTION_SCHEMA

SPLIT = "test"
"""The split that is evaluated."""
CROP_COLUMNS = ("video_id", "frame_index", "label", "method", "identities", "image")
RESULT_COLUMNS = ("video_id", "frame_index", "label", "method", "identities")
TRACK = "track"
"""The person's number in the video, 0 is the subject: a further column of a result where everybody is judged."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole videos of one face shard.

    Args:
        shard: its key.
        video_ids: in order.
        crops: how many face crops they have; of several people no more than about so many.
        content: hash of where the crops come from: videos, their source files and the extraction's settings.
    """

    shard: str
    video_ids: tuple[str, ...]
    crops: int
    content: str


def plan_blocks(
    status: pa.Table, *, split: str, block_size: int, max_frames: int | None = None, everybody: bool = False
) -> list[Block]:
    """Packs videos into blocks of at most `block_size` crops (a longer video is a block of its own).

    Args:
        status: status table of the extraction, one row a video.
        max_frames: at most so many crops of a person are used.
        everybody: all people of a video, not its subject alone; results of the one are never taken for the other's.
    """
    def crops_of(videos: list[Mapping]) -> int:
        return sum(_crops(row, max_frames) * ((everybody and row["people"]) or 1) for row in videos)

    videos = [row for row in status.to_pylist() if row["split"] == split and row["frames_found"] > 0]
    videos.sort(key=lambda row: (row["shard"], row["video_id"]))
    blocks: list[Block] = []
    pending: list[Mapping] = []
    for video in videos:
        full = crops_of([*pending, video]) > block_size
        if pending and (full or pending[0]["shard"] != video["shard"]):
            blocks.append(_block(pending, max_frames, crops_of(pending), everybody))
            pending = []
        pending.append(video)
    return blocks + [_block(pending, max_frames, crops_of(pending), everybody)] if pending else blocks


def _crops(video: Mapping, max_frames: int | None) -> int:
    return min(video["frames_found"], max_frames or video["frames_found"])


def _block(videos: list[Mapping], max_frames: int | None, crops: int, everybody: bool) -> Block:
    facts = ("video_id", "label", "frames_found", "source_bytes", "source_etag", "fingerprint")
    head = [videos[0]["shard"], max_frames, *(["everybody"] if everybody else [])]
    text = json.dumps([head, *([video[fact] for fact in facts] for video in videos)])
    return Block(
        shard=videos[0]["shard"],
        video_ids=tuple(video["video_id"] for video in videos),
        crops=crops,
        content=hashlib.sha256(text.encode()).hexdigest(),
    )


VERSION = 4
"""Raised when an attack or a measurement computes otherwise, so that no result of before is taken for one of now.

It is part of the name of whatever is kept: results of blocks, gates and universal patterns.
"""


def result_name(block: Block, item: Item, *, model: str, batch_size: int, seed: int) -> str:
    """The name of a block's result for one item; `model` is the hash of the weights."""
    return block_hash(version=VERSION, content=block.content, model=model, batch_size=batch_size, seed=seed, **dataclasses.asdict(item))


def read_block(
    storage, run: str, block: Block, *, size: int, max_frames: int | None = None, everybody: bool = False
) -> tuple[pa.Table, np.ndarray]:
    """The crops of a block at the model's input size.

    Args:
        size: the model's input size, pixels.
        max_frames, everybody: as of `plan_blocks`.
    Returns:
        a table of RESULT_COLUMNS (and TRACK of everybody), ordered by video, frame and track, and (n, size, size, 3)
        uint8 pixels.
    Raises:
        UserError: a crop cannot be decoded.
    """
    crops, images = read_crops(storage, run, block, max_frames=max_frames, everybody=everybody)
    return crops, resize(images, size)


def read_crops(
    storage, run: str, block: Block, *, max_frames: int | None = None, everybody: bool = False
) -> tuple[pa.Table, list[np.ndarray]]:
    """As `read_block`, but the images as they are stored: n times (H, W, 3) uint8."""
    table = read_shard(storage, run, block.shard, block.video_ids, columns=(*CROP_COLUMNS, TRACK),
                       max_frames_per_video=max_frames, subject_only=not everybody, per_person=True)
    table = table.sort_by([(name, "ascending") for name in ("video_id", "frame_index", TRACK)])
    images = []
    for row in table.select(["video_id", "frame_index", "image"]).to_pylist():
        try:
            images.append(decode_image(row["image"]))
        except ValueError as error:
            raise UserError(
                f"the crop of {row['video_id']} frame {row['frame_index']} is damaged ({error}); extract it again"
            ) from None
    return table.select((*RESULT_COLUMNS, TRACK) if everybody else RESULT_COLUMNS), images


def block_result(crops: pa.Table, clean: np.ndarray, adversarial: np.ndarray) -> pa.Table:
    """What is kept of a block: its crops with their logits."""
    table = crops.append_column("clean", pa.array(clean, pa.float32()))
    return table.append_column("adversarial", pa.array(adversarial, pa.float32()))


def as_predictions(result: pa.Table, model: str, cell: Cell) -> pa.Table:
    """Rows of the predictions table from a kept result; `model` is the name in the report."""
    return named(result, PREDICTION_SCHEMA, model=model, attack=cell.attack, epsilon=cell.epsilon)


def named(result: pa.Table, schema: pa.Schema, **facts) -> pa.Table:
    """A kept result as rows of a table of the evaluation: `facts` (which model, attack, epsilon) stand in every row.

    Args:
        schema: the table's; its columns are those of the result and the facts, what else the result has is left out,
            but for TRACK.
    """
    if TRACK in result.column_names and TRACK not in schema.names:
        schema = schema.append(pa.field(TRACK, pa.int32()))
    for name, value in facts.items():
        field = schema.field(name)
        result = result.append_column(field, pa.repeat(pa.scalar(value, field.type), len(result)))
    return result.select(schema.names).cast(schema)
