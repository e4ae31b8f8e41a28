"""The strip of images in the report: a face as it was, perturbed, and the perturbation made visible."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from torch import Tensor, nn

from robust.data.inputs import to_tensor
from robust.data.shards import SUBJECT
from robust.evaluation.attack_block import Cell, perturb
from robust.evaluation.predictions import tracks_of

GAIN = 10
"""How much the perturbation is enlarged in its picture, around mid-grey."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A face crop of the test split."""

    video_id: str
    frame_index: int
    label: int
    method: str


@dataclasses.dataclass(frozen=True)
class Attacked:
    """What one model made of it; images are lossless WebP, logits those of the tables."""

    model: str
    clean_logit: float
    adversarial_logit: float
    perturbed: bytes
    difference: bytes


@dataclasses.dataclass(frozen=True)
class Strip:
    """One row of the gallery."""

    example: Example
    clean: bytes
    attacked: tuple[Attacked, ...]


def choose_examples(predictions: pa.Table, model: str, cell: Cell, count: int) -> list[Example]:
    """Fakes that the model caught before the attack, one a video, taken from the methods in turn; the same every time."""
    caught = _rows(predictions, model, cell).filter((pc.field("label") == 1) & (pc.field("clean") > 0))
    queues: dict[str, dict[str, Example]] = {}
    for row in caught.select(["video_id", "frame_index", "label", "method"]).to_pylist():
        queues.setdefault(row["method"], {}).setdefault(row["video_id"], Example(**row))
    turns = [(turn, method, example) for method, queue in queues.items() for turn, example in enumerate(queue.values())]
    return [example for _, _, example in sorted(turns, key=lambda entry: entry[:2])[:count]]


def make_strips(
    examples: Sequence[Example], pictures: Mapping[str, Sequence[tuple]], predictions: pa.Table, cell: Cell
) -> list[Strip]:
    """Puts pictures and logits together.

    Args:
        pictures: for each model, (clean, perturbed, difference) of each example.
    """
    logits = {}
    for model in pictures:
        for row in _rows(predictions, model, cell).to_pylist():
            logits[model, row["video_id"], row["frame_index"]] = (row["clean"], row["adversarial"])
    strips = []
    for index, example in enumerate(examples):
        seen = tuple(
            Attacked(model, *logits[model, example.video_id, example.frame_index], *shown[index][1:])
            for model, shown in pictures.items()
        )
        strips.append(Strip(example, next(iter(pictures.values()))[index][0], seen))
    return strips


def _rows(predictions: pa.Table, model: str, cell: Cell) -> pa.Table:
    """The subjects' crops of one cell."""
    rows = predictions.filter(
        (pc.field("model") == model) & (pc.field("attack") == cell.attack) & (pc.field("epsilon") == cell.epsilon)
    )
    return rows.filter(pa.array(tracks_of(rows) == SUBJECT))


def attack_examples(model: nn.Module, pixels: np.ndarray, labels: Tensor, cell: Cell, *, seed: int) -> list[tuple[bytes, bytes]]:
    """(perturbed, difference) pictures of crops, by the very attack of the tables.

    Args:
        pixels: (n, H, W, 3) uint8 at the model's input size.
        labels: (n,) 1 = fake, on the model's device.
    """
    x = to_tensor(pixels).to(labels.device)
    x_adv = perturb(model, x, labels, cell, seed=seed)
    return [(webp(after), webp(0.5 + GAIN * (after - before))) for before, after in zip(x, x_adv, strict=True)]


def webp(image: Tensor | np.ndarray) -> bytes:
    """A lossless picture of (3, H, W) floats, clipped to [0, 1], or of (H, W, 3) uint8."""
    if not isinstance(image, np.ndarray):
        image = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()
