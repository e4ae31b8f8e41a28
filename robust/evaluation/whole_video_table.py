"""The figures of the whole-video attack beside the worst case frame by frame: same videos, same epsilon."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from robust.evaluation import bootstrap
from robust.evaluation.attack_block import Cell
from robust.evaluation.predictions import identities_of_videos
from robust.evaluation.side_by_side import only, rates, scores_of, worse_of, worst_case_beside

JOINT = "whole_video"
"""Stands for an attack's name in a Cell and in the tables."""


def whole_video_figures(
    predictions: pa.Table, rows: pa.Table, models: Sequence[str], items: Sequence[Cell], *, resamples: int, seed: int
) -> dict:
    """What summary.json says of the attack, over videos at logit 0.

    Args:
        predictions: PREDICTION_SCHEMA, of the frame-wise attacks.
        rows: PREDICTION_SCHEMA, the attack JOINT on the same crops.
        models: in the order of the report.
        items: one an epsilon, each an epsilon of the predictions.
    Returns:
        {"steps", "restarts", "frame_wise": name, "videos", "frames", "records": [{"model", "epsilon", "joint",
        "frame_wise", "either", "only_joint", "only_frame_wise"}]}; docs/summary.md says what they are.
    Raises:
        UserError: the crops or the clean logits are not those of the predictions.
    """
    frame_wise, name = worst_case_beside(predictions, rows)
    draws = bootstrap.draw(*identities_of_videos(rows), count=resamples, seed=seed)
    records = []
    for item in items:
        for model in models:
            joint = scores_of(rows, model, JOINT, item.epsilon, "video")
            single = scores_of(frame_wise, model, name, item.epsilon, "video")
            records.append(
                {
                    "model": model,
                    "epsilon": item.epsilon,
                    "joint": rates(joint, draws),
                    "frame_wise": rates(single, draws),
                    "either": rates(worse_of([joint, single]), draws),
                    "only_joint": only(joint, single, draws),
                    "only_frame_wise": only(single, joint, draws),
                }
            )
    return {
        "steps": items[0].steps,
        "restarts": items[0].restarts,
        "frame_wise": name,
        "videos": len(draws.video_ids),
        "frames": len(rows) // (len(models) * len(items)),
        "records": records,
    }
