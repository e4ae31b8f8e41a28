"""Attacks beside each other: the figures of each on the same samples, and what one does that another does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robust.evaluation.bootstrap import Resamples
from robust.evaluation.metrics import Share, still_correct
from robust.evaluation.predictions import (
    PREDICTION_SCHEMA,
    Scores,
    cells_of,
    frame_scores,
    require_consistent,
    with_extra_fields,
)
from robust.evaluation.protocol import NOTHING_COUNTED, attack_figures, share_figure
from robust.evaluation.worst_case import WORST, with_worst_case


def worst_case_beside(predictions: pa.Table, rows: pa.Table) -> tuple[pa.Table, str]:
    """The predictions at the epsilons of `rows` with their worst case, and its name: of a single attack its own.

    Args:
        predictions, rows: PREDICTION_SCHEMA, of the same models.
    Raises:
        UserError: the crops or the clean logits are not the same.
    """
    table = predictions.filter(pc.is_in(predictions.column("epsilon"), value_set=pc.unique(rows.column("epsilon"))))
    wanted = [*PREDICTION_SCHEMA.names, "track"]
    require_consistent(pa.concat_tables([with_extra_fields(part).select(wanted) for part in (table, rows)]))
    table = with_worst_case(table)
    names = {attack for attack, _ in cells_of(table)}
    return table, WORST if WORST in names else min(names)


def rates(scores: Scores, draws: Resamples) -> dict:
    """{"fake_to_real", "real_to_fake", "robust_auc"} at logit 0, with intervals."""
    figures = attack_figures(scores, draws, {"zero": 0.0})
    return {
        "fake_to_real": figures["at"]["zero"]["fake_to_real"],
        "real_to_fake": figures["at"]["zero"]["real_to_fake"],
        "robust_auc": figures["robust_auc"],
    }


def scores_of(table: pa.Table, model: str, attack: str, epsilon: float, level: str) -> Scores:
    """The samples of one cell, `level` frame or video."""
    frames = frame_scores(table, model, attack, epsilon)
    return frames.videos() if level == "video" else frames.subjects()


def worse_of(attacked: Sequence[Scores]) -> Scores:
    """Of each sample the score that is furthest on the wrong side; all of the same samples in the same order."""
    first = attacked[0]
    wrong = (1 - 2 * first.labels) * np.stack([scores.adversarial for scores in attacked])
    return dataclasses.replace(first, adversarial=(1 - 2 * first.labels) * wrong.max(axis=0))


def only(one: Scores, other: Scores, draws: Resamples) -> dict:
    """Of the samples that were right before, those that `one` turns and `other` does not, at logit 0."""
    right = (one.clean > 0) == (one.labels == 1)
    kept_one, kept_other = (
        still_correct(scores.clean, scores.adversarial, scores.labels, threshold=0.0).hits for scores in (one, other)
    )
    return share_figure(Share(hits=kept_other & ~kept_one, among=right), one.video_ids, draws, if_none=NOTHING_COUNTED)
