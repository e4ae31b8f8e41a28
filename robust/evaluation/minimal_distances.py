"""The minimal epsilon of each caught fake as a minimal-norm attack measured it, where it did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robust.data.shards import SUBJECT
from robust.evaluation import bootstrap
from robust.evaluation.bootstrap import Resamples
from robust.evaluation.predictions import tracks_of

BELOW = (0.25, 0.5)
"""Bins below the smallest evaluated epsilon, as shares of it: a distance is known there too."""
_NEVER = 1e9
"""Stands for a fake that nothing turned, so that percentiles can be taken."""


def of_frames(predictions: pa.Table, model: str) -> np.ndarray | None:
    """(n,) the smallest distance of each subject's frame, 0-255 units, as `Scores.subjects`; None: no such attack."""
    if "distance" not in predictions.column_names:
        return None
    found = predictions.filter((pc.field("model") == model) & pc.field("distance").is_valid())
    if len(found) == 0:
        return None
    found = found.filter(pa.array(tracks_of(found) == SUBJECT))
    one = found.group_by(["video_id", "frame_index"]).aggregate([("distance", "min")])
    one = one.sort_by([("video_id", "ascending"), ("frame_index", "ascending")])
    return one.column("distance_min").to_numpy().astype(np.float64)


def smallest(first: np.ndarray, distance: np.ndarray, epsilons: Sequence[float]) -> np.ndarray:
    """(n,) the smallest epsilon that turned a fake: measured, or evaluated where that is smaller; nan: not caught.

    Args:
        first: (n,) from `over_epsilon.flip_counts`.
        distance: (n,) 0-255 units, inf where none was found.
    """
    evaluated = np.append(np.asarray(epsilons, np.float64), np.inf)[first]
    return np.where(first >= 0, np.minimum(evaluated, distance), np.nan)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) the smallest of (n,) values up to which half of the (B, n) weights lie; nan where they are all 0."""
    order = np.argsort(values, kind="stable")
    sums = weights[:, order].cumsum(axis=1)
    place = (sums >= sums[:, -1:] / 2).argmax(axis=1)
    return np.where(sums[:, -1] > 0, values[order][place], np.nan)


def record(minimal: np.ndarray, video_ids: np.ndarray, epsilons: Sequence[float], draws: Resamples) -> dict:
    """As `over_epsilon.minimal_epsilon`, of exact values.

    Args:
        minimal: (n,) from `smallest`.
    """
    caught = ~np.isnan(minimal)
    minimal, video_ids = np.where(np.isinf(minimal), _NEVER, minimal)[caught], video_ids[caught]
    positive = [float(epsilon) for epsilon in epsilons if epsilon > 0]
    edges = [0.0, *(share * positive[0] for share in BELOW), *positive]
    place = np.searchsorted(edges, minimal, side="left") - 1  # an edge belongs to the bin below it
    bins = [
        {"above": above, "up_to": up_to, "count": int((place == index).sum())}
        for index, (above, up_to) in enumerate(zip(edges, [*edges[1:], None], strict=True))
    ]
    found: dict = {"value": None, "low": None, "high": None, "among": len(minimal), "bins": bins, "exact": True}
    if len(minimal) == 0:
        return {**found, "reason": "no fake was caught before the attack"}
    found["value"] = _known(weighted_median(minimal, np.ones((1, len(minimal))))[0])
    values = weighted_median(minimal, draws.weights[:, draws.index(video_ids)])
    ends = bootstrap.percentile(values, units=len(np.unique(draws.units_of(video_ids))), exact=True)
    if ends is not None:
        found |= {"low": _known(ends.low), "high": _known(ends.high), "dropped": ends.dropped}
    if found["value"] is None:
        found["reason"] = "no perturbation was found for half of the caught fakes"
    return found


def _known(end: float) -> float | None:
    """None: nothing was found at all."""
    return float(end) if end < _NEVER else None
