"""The figures of the corruption grid: the video AUC of every cell, their mean and the worst of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robust.evaluation import blocks, bootstrap, curves, metrics
from robust.evaluation.bootstrap import Resamples
from robust.evaluation.corruptions import CLEAN, KINDS, Corruption
from robust.evaluation.predictions import identities_of_videos, tracks_of
from robust.evaluation.protocol import estimate, missing

CORRUPTION_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("corruption", pa.string()),  # a name of KINDS, or "clean"
        ("severity", pa.int32()),  # 1 to 5; 0 is clean
        ("video_id", pa.string()),
        ("frame_index", pa.int32()),
        ("label", pa.int8()),  # 1 = fake
        ("method", pa.string()),
        ("identities", pa.list_(pa.string())),
        ("logit", pa.float32()),  # of the corrupted crop
    ]
)


def as_rows(result: pa.Table, model: str, corruption: Corruption) -> pa.Table:
    """Rows of CORRUPTION_SCHEMA from a kept result: the crops of a block and their logits."""
    facts = {"corruption": corruption.name, "severity": corruption.severity}
    return blocks.named(result, CORRUPTION_SCHEMA, model=model, **facts)


def corruption_figures(rows: pa.Table, models: Sequence[str], *, resamples: int, seed: int) -> dict:
    """What summary.json says of the grid.

    Args:
        rows: CORRUPTION_SCHEMA, all models on the same crops.
        models: in the order of the report.
    Returns:
        {"level": "video", "severities", "kinds": [{"name", "title", "unit", "amounts", "source"}], "models": [{"model",
        "clean_auc", "mean_auc", "worst_auc": figures; "worst": {"corruption", "severity"} or None; "cells": [{"corruption",
        "severity", "auc"}]}], "videos", "crops"}
    """
    draws = bootstrap.draw(*identities_of_videos(rows), count=resamples, seed=seed)
    severities = sorted(set(rows.column("severity").to_pylist()) - {CLEAN.severity})
    return {
        "level": "video",
        "severities": severities,
        "kinds": [{"name": name, "title": kind.title, "unit": kind.unit, "source": kind.source,
                   "amounts": [kind.amounts[severity - 1] for severity in severities]} for name, kind in KINDS.items()],
        "models": [_model_figures(rows, model, severities, draws) for model in models],
        "videos": len(draws.video_ids),
        "crops": len(rows.filter((pc.field("model") == models[0]) & (pc.field("corruption") == CLEAN.name))),
    }


def _model_figures(rows: pa.Table, model: str, severities: Sequence[int], draws: Resamples) -> dict:
    of_model = rows.filter(pc.field("model") == model)
    clean, _ = _auc(of_model, CLEAN.name, CLEAN.severity, draws)
    cells, orders = [], []
    for name in KINDS:
        for severity in severities:
            auc, order = _auc(of_model, name, severity, draws)
            cells.append({"corruption": name, "severity": severity, "auc": auc})
            orders.append(order)
    figures = {"model": model, "clean_auc": clean, "cells": cells}
    if clean["value"] is None:
        return {**figures, "mean_auc": clean, "worst_auc": clean, "worst": None}

    def mean(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"auc": np.mean([curves.auc(order.curve(weights)) for order in orders], axis=0)}

    video_ids = np.unique(of_model.column("video_id").to_numpy(zero_copy_only=False).astype(str))
    interval = bootstrap.intervals(draws, video_ids, mean, smooth=("auc",))["auc"]
    worst = min(cells, key=lambda cell: cell["auc"]["value"])
    return {**figures, "mean_auc": estimate(float(np.mean([cell["auc"]["value"] for cell in cells])), interval),
            "worst_auc": worst["auc"], "worst": {key: worst[key] for key in ("corruption", "severity")}}


def _auc(rows: pa.Table, corruption: str, severity: int, draws: Resamples) -> tuple[Mapping, curves.ScoreOrder | None]:
    """The AUC over videos with its interval, and the videos in the order of their scores; None where a class is missing."""
    part = rows.filter((pc.field("corruption") == corruption) & (pc.field("severity") == severity))
    frame_videos = np.array(part.column("video_id").to_pylist(), dtype=str)
    video_ids, scores = metrics.video_scores(part.column("logit").to_numpy(), frame_videos, tracks_of(part))
    _, first = np.unique(frame_videos, return_index=True)
    labels = part.column("label").to_numpy().astype(np.int64)[first]
    try:
        value = metrics.auc(scores, labels)
    except ValueError as error:
        return missing(str(error)), None
    interval = bootstrap.ranking_interval(draws, video_ids, scores, labels, {"auc": curves.auc})["auc"]
    return estimate(value, interval), curves.ScoreOrder(scores, labels)
