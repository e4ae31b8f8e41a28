"""Universal perturbations of an evaluation: how one is kept, what it did to the test crops, and its picture."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from robust.attacks.threat import Linf
from robust.attacks.universal import Universal
from robust.errors import UserError
from robust.evaluation import blocks, bootstrap
from robust.evaluation.gallery import webp
from robust.evaluation.item import Item
from robust.evaluation.predictions import PREDICTION_SCHEMA, identities_of_videos
from robust.evaluation.side_by_side import rates, scores_of, worst_case_beside

UNIVERSAL, SHUFFLED = "universal", "shuffled"
"""Stand for an attack's name in the tables: the pattern, and the control, the same values in other places."""
TENSOR = "patterns"


@dataclasses.dataclass(frozen=True)
class Pattern(Item):
    """A universal perturbation of one model.

    Args:
        epsilon: radius, 0-255 units, Linf.
        key: of its file in storage; the name is a hash of all that it depends on.
    """

    epsilon: float
    key: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A pattern made visible, lossless WebP: mid-grey is no change, black and white are -epsilon and epsilon."""

    model: str
    epsilon: float
    label: int
    image: bytes

    @property
    def gain(self) -> float:
        """How much it is enlarged."""
        return 127.5 / self.epsilon


def to_bytes(universal: Universal) -> bytes:
    """A safetensors file of the (2, 3, H, W) patterns, in [0, 1] units: for reals, for fakes."""
    return save({TENSOR: universal.patterns.detach().float().cpu().contiguous()})


def from_bytes(data: bytes, *, epsilon: float, size: int, name: str) -> Universal:
    """The patterns of a file, for images of size x size.

    Raises:
        UserError: it is damaged, or not such a pattern.
    """
    try:
        patterns = load(data)[TENSOR]
    except (SafetensorError, KeyError, ValueError) as error:
        why = f"is damaged ({type(error).__name__})"
        raise UserError(f"the universal perturbation {name} {why}; delete it and run jobs.evaluate again") from None
    shape, threat = (2, 3, size, size), Linf.from_255(epsilon)
    if (
        tuple(patterns.shape) != shape
        or not patterns.is_floating_point()
        or not patterns.abs().max() <= threat.epsilon + 1e-6
    ):
        why = f"is not {shape} within {epsilon:g}/255"
        raise UserError(f"the universal perturbation {name} {why}; delete it and run jobs.evaluate again")
    return Universal(patterns, threat)


def shuffled(universal: Universal, *, seed: int) -> Universal:
    """The same values, each at another place: as strong a change without the direction."""
    patterns = universal.patterns
    order = torch.randperm(patterns[0].numel(), generator=torch.Generator().manual_seed(seed))
    return Universal(patterns.flatten(1)[:, order.to(patterns.device)].view_as(patterns), universal.threat)


def pictures_of(model: str, pattern: Pattern, patterns: Tensor) -> list[Picture]:
    """One for reals, one for fakes; those that are nothing but zeros (no such crop) are left out."""
    if pattern.epsilon == 0:
        return []
    gain = 127.5 / pattern.epsilon
    return [
        Picture(model, pattern.epsilon, label, webp(0.5 + gain * patterns[label]))
        for label in (1, 0)
        if patterns[label].any()
    ]


def as_rows(result: pa.Table, model: str, pattern: Pattern) -> pa.Table:
    """Rows of PREDICTION_SCHEMA from a kept result: one of UNIVERSAL and one of SHUFFLED for each crop."""
    parts = []
    for attack in (UNIVERSAL, SHUFFLED):
        rows = result.append_column("adversarial", result.column(attack))
        parts.append(blocks.named(rows, PREDICTION_SCHEMA, model=model, attack=attack, epsilon=pattern.epsilon))
    return pa.concat_tables(parts)


def universal_figures(
    predictions: pa.Table,
    rows: pa.Table,
    patterns: Mapping[str, Sequence[Pattern]],
    files: Mapping[str, bytes],
    *,
    steps: int,
    images: int,
    resamples: int,
    seed: int,
) -> dict:
    """What summary.json says of universal perturbations, at logit 0.

    Args:
        predictions: PREDICTION_SCHEMA, of the attacks on each image; has all epsilons of the patterns.
        rows: from `as_rows`, of the same crops.
        patterns: of each model in the report's order, by rising epsilon.
        files: content of each pattern's file by its key.
        images: how many validation crops the patterns were made on.
    Returns:
        {"steps", "images", "per_image": name, "patterns": [{"model", "epsilon", "file", "sha256"}], "records":
        [{"model", "epsilon", "level", "universal", "shuffled", "per_image"}]}; docs/summary.md says what they are.
    """
    each, name = worst_case_beside(predictions, rows)
    draws = bootstrap.draw(*identities_of_videos(rows), count=resamples, seed=seed)
    records, kept = [], []
    for of_epsilon in zip(*patterns.values(), strict=True):
        for model, pattern in zip(patterns, of_epsilon, strict=True):
            kept.append(
                {
                    "model": model,
                    "epsilon": pattern.epsilon,
                    "file": pattern.key,
                    "sha256": hashlib.sha256(files[pattern.key]).hexdigest(),
                }
            )
            for level in ("frame", "video"):
                figures = {
                    title: rates(scores_of(table, model, attack, pattern.epsilon, level), draws)
                    for title, table, attack in (
                        ("universal", rows, UNIVERSAL),
                        ("shuffled", rows, SHUFFLED),
                        ("per_image", each, name),
                    )
                }
                records.append({"model": model, "epsilon": pattern.epsilon, "level": level, **figures})
    return {"steps": steps, "images": images, "per_image": name, "patterns": kept, "records": records}
