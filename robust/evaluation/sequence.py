"""What of a suite is computed and when: attacks only on what is still robust, one run for all epsilons where it can.

Sequential suites are AutoAttack's idea (Croce & Hein 2020, arXiv 2003.01690): the attacks of one epsilon run one after
another, each only on the crops that those before it have not settled. Theirs asks for one verdict an image; here a crop
is settled only if nothing that is later read off at a threshold could change, see `settled`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from robust.attacks.minimal_norm import logits_at_each, minimal_perturbation
from robust.attacks.threat import Linf
from robust.evaluation import blocks
from robust.evaluation.attack_block import Cell, attack_block, batches, logits
from robust.evaluation.metrics import video_scores
from robust.evaluation.passes import Counted, Passes, with_passes
from robust.evaluation.predictions import CROP, FULL_SCHEMA, tracks_of, with_extra_fields

ALL_EPSILONS = {"fmn"}
"""Attacks that find the smallest perturbation: one run tells of every epsilon."""


@dataclasses.dataclass(frozen=True)
class Curve(Cell):
    """An attack of ALL_EPSILONS, run once; `epsilon` is the largest of `epsilons` (0-255 units, rising)."""

    epsilons: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class OnRobust(Cell):
    """A cell of a sequential suite.

    Args:
        after: the cells whose results say what is still robust; they name theirs in turn, so a result's name depends on
            all attacks before it.
        frame_thresholds, video_thresholds: every logit that a verdict is read off at.
    """

    after: tuple[Cell, ...] = ()
    frame_thresholds: tuple[float, ...] = (0.0,)
    video_thresholds: tuple[float, ...] = (0.0,)


def plan_items(cells: Sequence[Cell], thresholds: Mapping[str, float] | None) -> list[Cell]:
    """What is computed on every block, in order: each item after those that it needs.

    Args:
        cells: attacks in the suite's order, each at every epsilon.
        thresholds: the model's frozen ones as in `EvaluatedModel.thresholds`; None: every attack runs on all crops.
    """
    epsilons = tuple(sorted({cell.epsilon for cell in cells}))
    at = {
        level: tuple(sorted({0.0, *(value for name, value in (thresholds or {}).items() if name.startswith(level))}))
        for level in ("frame", "video")
    }
    before: dict[float, tuple[Cell, ...]] = {epsilon: () for epsilon in epsilons}
    items: list[Cell] = []
    for cell in cells:
        facts = vars(cell)
        if cell.attack in ALL_EPSILONS:
            item: Cell = Curve(**{**facts, "epsilon": epsilons[-1], "epsilons": epsilons})
            before[cell.epsilon] = (*before[cell.epsilon], item)
        elif thresholds is None:
            item = cell
        else:
            item = OnRobust(
                **facts, after=before[cell.epsilon], frame_thresholds=at["frame"], video_thresholds=at["video"]
            )
            before[cell.epsilon] = (item,)
        if item not in items:
            items.append(item)
    return items


def settled(
    logits: np.ndarray,
    labels: np.ndarray,
    video_ids: np.ndarray,
    frame_thresholds: Sequence[float],
    video_thresholds: Sequence[float],
    tracks: np.ndarray | None = None,
) -> np.ndarray:
    """Which crops an attacker need not touch again: (n,) bool.

    A fake is turned at a threshold if its logit is not above it, a real if it is. A crop is settled if it is turned at
    every frame threshold and its video, by the mean of its crops (of several people the highest), at every video
    threshold. More attacks only go further the same way, so every rate, of frames and of videos, stays what it is. A
    video that holds out keeps all its crops in the attack: each may still pull the mean.

    Args:
        logits: (n,) the worst so far, of whole videos.
        tracks: (n,) the person's number in the video; None: one person each.
    """
    videos, means = video_scores(logits, video_ids, tracks)
    mean_of_crop = means[np.searchsorted(videos, video_ids)]

    def turned(values: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
        return np.where(labels == 1, values <= min(thresholds), values > max(thresholds))

    return turned(logits.astype(np.float64), frame_thresholds) & turned(mean_of_crop, video_thresholds)


def worse(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The logit that is more wrong, for each crop."""
    return np.where(labels == 1, np.minimum(first, second), np.maximum(first, second))


def measure(
    model: nn.Module,
    crops: pa.Table,
    pixels: np.ndarray,
    item: Cell,
    before: Sequence[pa.Table],
    *,
    batch_size: int,
    seed: int,
    device: str = "cpu",
    surrogates: Sequence[nn.Module] = (),
) -> pa.Table:
    """The kept result of one item on one block: the crops with `clean` and `adversarial` logits, and the passes.

    Of an OnRobust item `adversarial` is the worst so far, x itself among it, and `attacked` tells which crops this
    attack ran on. Of a Curve `adversarial` is a list over its epsilons, and `distance` the length of the smallest
    perturbation found, in 0-255 units: 0 where the crop is called wrong as it is, infinite where none was found.

    Args:
        before: results of `item.after` on the same crops.
        surrogates, and the others: as of `attack_block.attack_block`.
    """
    counted, others = Counted(model), [Counted(surrogate) for surrogate in surrogates]
    labels = crops.column("label").to_numpy()
    settings = {"batch_size": batch_size, "seed": seed, "device": device}
    attacked = np.ones(len(labels), bool)
    if isinstance(item, Curve):
        clean, adversarial, distance = all_epsilons(counted, pixels, labels, item, **settings)
        result = crops.append_column("clean", pa.array(clean, pa.float32()))
        result = result.append_column("adversarial", pa.array(list(adversarial.T), pa.list_(pa.float32())))
        result = result.append_column("distance", pa.array(distance, pa.float32()))
    elif isinstance(item, OnRobust):
        clean, adversarial, attacked = on_robust(counted, crops, pixels, item, before, surrogates=others, **settings)
        result = blocks.block_result(crops, clean, adversarial).append_column("attacked", pa.array(attacked))
    else:
        clean, adversarial = attack_block(counted, pixels, labels, item, surrogates=others, **settings)
        result = blocks.block_result(crops, clean, adversarial)
    epsilons = len(item.epsilons)
    return with_passes(
        result,
        Passes(
            crops=len(labels) * epsilons,
            attacked=int(attacked.sum()) * epsilons,
            forwards=counted.forwards,
            gradients=counted.gradients,
            surrogate_forwards=sum(one.forwards for one in others),
            surrogate_gradients=sum(one.gradients for one in others),
        ),
    )


def on_robust(
    model: nn.Module,
    crops: pa.Table,
    pixels: np.ndarray,
    item: OnRobust,
    before: Sequence[pa.Table],
    *,
    batch_size: int,
    seed: int,
    device: str,
    surrogates: Sequence[nn.Module],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) clean logits, (n,) the worst so far after this attack, and (n,) bool: which crops it ran on."""
    labels = crops.column("label").to_numpy()
    if before:
        clean = before[-1].column("clean").to_numpy()
    else:
        images = batches(model, pixels, labels, batch_size=batch_size, device=device)
        clean = np.concatenate([logits(model, x) for _, x, _ in images])
    worst = clean
    for cell, result in zip(item.after, before, strict=True):
        worst = worse(worst, adversarial_of(cell, result, item.epsilon), labels)
    video_ids = np.array(crops.column("video_id").to_pylist(), dtype=str)
    attacked = ~settled(worst, labels, video_ids, item.frame_thresholds, item.video_thresholds, tracks_of(crops))
    if attacked.any():
        seen, found = attack_block(
            model,
            pixels[attacked],
            labels[attacked],
            item,
            batch_size=batch_size,
            seed=seed,
            device=device,
            surrogates=surrogates,
        )
        clean, worst = clean.copy(), worst.copy()
        clean[attacked] = (
            seen  # as this attack saw them: must be the same, which check_predictions asks of every attack
        )
        worst[attacked] = worse(worst[attacked], found, labels[attacked])
    return clean, worst, attacked


def all_epsilons(
    model: nn.Module, pixels: np.ndarray, labels: np.ndarray, item: Curve, *, batch_size: int, seed: int, device: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) clean logits, (E, n) logits at each epsilon and (n,) minimal distances in 0-255 units, from one run."""
    parts = []
    for _, x, y in batches(model, pixels, labels, batch_size=batch_size, device=device):
        generator = torch.Generator().manual_seed(seed)
        found = minimal_perturbation(model, x, y, Linf, steps=item.steps, restarts=item.restarts, generator=generator)
        clean, at_each = logits_at_each(model, x, y, [Linf.from_255(epsilon) for epsilon in item.epsilons], *found)
        parts.append([tensor.cpu().numpy() for tensor in (clean.float(), at_each.float(), 255 * found[1].double())])
    clean, adversarial, distance = zip(*parts, strict=True)
    return np.concatenate(clean), np.concatenate(adversarial, axis=1), np.concatenate(distance)


def adversarial_of(item: Cell, result: pa.Table, epsilon: float) -> np.ndarray:
    """(n,) logits of a kept result at one epsilon."""
    column = result.column("adversarial")
    if isinstance(item, Curve):
        column = pc.list_element(column, item.epsilons.index(epsilon))
    return column.to_numpy()


def as_predictions(result: pa.Table, model: str, item: Cell) -> Iterator[pa.Table]:
    """Rows of the predictions table from a kept result, a table for each epsilon; `model` is the name in the report."""
    result = with_extra_fields(result)
    kept = result.drop_columns("adversarial")
    for epsilon in item.epsilons:
        rows = kept.append_column("adversarial", pa.array(adversarial_of(item, result, epsilon), pa.float32()))
        yield blocks.named(rows, FULL_SCHEMA, model=model, attack=item.attack, epsilon=epsilon)


def accumulate(predictions: pa.Table, attacks: Sequence[str]) -> pa.Table:
    """The predictions of a sequential suite: each row is after this attack and those before, `attacked` by all of them.

    Args:
        predictions: as `check_predictions` returns them, each model and epsilon with every attack on every crop.
        attacks: in the suite's order.
    Raises: ValueError: some predictions are of another attack.
    """
    predictions = with_extra_fields(predictions)
    keys = ["model", "epsilon", *CROP]
    rank = pc.index_in(predictions.column("attack"), value_set=pa.array(attacks))
    if rank.null_count:
        others = sorted(set(predictions.column("attack").to_pylist()) - set(attacks))
        raise ValueError(f"there are predictions of {others}, which are not among the attacks {list(attacks)}")
    table = predictions.append_column("rank", rank).sort_by([(key, "ascending") for key in (*keys, "rank")])
    grid = (-1, len(attacks))
    labels = table.column("label").to_numpy().reshape(grid).astype(np.float32)
    sign = 1 - 2 * labels
    worst = sign * np.maximum.accumulate(sign * table.column("adversarial").to_numpy().reshape(grid), axis=1)
    attacked = np.logical_and.accumulate(table.column("attacked").to_numpy().reshape(grid), axis=1)
    for name, values in (("adversarial", worst), ("attacked", attacked)):
        place = table.schema.get_field_index(name)
        table = table.set_column(
            place, predictions.schema.field(name), pa.array(values.ravel(), predictions.schema.field(name).type)
        )
    return table.drop_columns("rank").sort_by(
        [(key, "ascending") for key in ("model", "attack", "epsilon", *CROP)]
    )
