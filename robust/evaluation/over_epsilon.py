"""What a whole row of epsilons says in one figure: the minimal epsilon of the fakes, and the area under the robust AUC curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robust.evaluation import bootstrap, curves, minimal_distances
from robust.evaluation.bootstrap import Interval, Resamples

AREA_UP_TO = 16.0
"""Epsilon (0-255 units) at which the area under the robust AUC curve ends, if it was measured so far."""


def flip_counts(clean: np.ndarray, adversarial: np.ndarray, labels: np.ndarray, *, threshold: float = 0.0) -> np.ndarray:
    """For each sample, at which of E rising epsilons it is first turned: its index, E if at none, -1 if it is no caught fake.

    A ball lies in every larger one, so what was turned at a smaller epsilon is turned at all larger ones.

    Args:
        clean: (n,) logits.
        adversarial: (E, n) logits of the worst case at each epsilon.
        labels: (n,) 1 = fake.
    """
    turned = np.concatenate([adversarial <= threshold, np.ones((1, len(clean)), bool)])
    return np.where((labels == 1) & (clean > threshold), turned.argmax(axis=0), -1)


def median_epsilon(first: np.ndarray, epsilons: Sequence[float], weights: np.ndarray) -> np.ndarray:
    """Median of the minimal epsilon of the caught fakes; the share turned is joined by straight lines between epsilons, from 0 at 0.

    A minimal epsilon is only known to lie between two evaluated ones; the line is what is assumed in between.

    Args:
        first: (n,) from `flip_counts`.
        epsilons: E, rising, 0-255 units.
        weights: (B, n).
    Returns:
        (B,); inf where fewer than half were turned at the largest epsilon, nan where nothing was caught.
    """
    at_each = np.stack([weights @ (first == index) for index in range(len(epsilons) + 1)], axis=1)
    caught = at_each.sum(axis=1)
    share = np.divide(at_each.cumsum(axis=1)[:, :-1], caught[:, None], out=np.full((len(weights), len(epsilons)), np.nan),
                      where=caught[:, None] > 0)
    share = np.concatenate([np.zeros((len(weights), 1)), share], axis=1)
    grid = np.array([0.0, *epsilons])
    after = np.clip((share >= 0.5).argmax(axis=1), 1, None)
    rows = np.arange(len(weights))
    below, above = share[rows, after - 1], share[rows, after]
    found = above >= 0.5
    part = np.divide(0.5 - below, above - below, out=np.zeros(len(rows)), where=found & (above > below))
    value = grid[after - 1] + part * (grid[after] - grid[after - 1])
    return np.where(caught > 0, np.where(found, value, np.inf), np.nan)


def minimal_epsilon(
    clean: np.ndarray, adversarial: np.ndarray, labels: np.ndarray, video_ids: np.ndarray, epsilons: Sequence[float], draws: Resamples,
    distance: np.ndarray | None = None,
) -> dict:
    """The record of summary.json: median with its interval, and how many lie between which epsilons.

    Args:
        distance: (n,) of a minimal-norm attack, 0-255 units, inf where it found nothing; None: there was no such attack.
    """
    first = flip_counts(clean, adversarial, labels)
    if distance is not None:
        return minimal_distances.record(minimal_distances.smallest(first, distance, epsilons), video_ids, epsilons, draws)
    bounds = [0.0, *epsilons, None]
    bins = [{"above": bounds[index], "up_to": bounds[index + 1], "count": int((first == index).sum())} for index in range(len(bounds) - 1)]
    among = int((first >= 0).sum())
    record: dict = {"value": None, "low": None, "high": None, "among": among, "bins": bins}
    value = float(median_epsilon(first, epsilons, np.ones((1, len(clean))))[0])
    if among == 0:
        return {**record, "reason": "no fake was caught before the attack"}
    caught = first >= 0
    values = median_epsilon(first[caught], epsilons, draws.weights[:, draws.index(video_ids[caught])])
    units = len(np.unique(draws.units_of(video_ids[caught])))
    ends = bootstrap.percentile(np.where(np.isinf(values), 1e9, values), units=units, exact=True)
    low, high = (None, None) if ends is None else (_known(ends.low), _known(ends.high))
    if value < epsilons[0]:  # nothing was tried below: a straight line from 0 would be a guess
        return {**record, "at_most": float(epsilons[0]), "reason": f"at most {epsilons[0]:g}: more than half of the caught fakes are turned at it"}
    if np.isinf(value):
        return {**record, "low": low, "reason": f"more than {epsilons[-1]:g}: fewer than half of the caught fakes are turned at it"}
    return {**record, "value": value, "low": low, "high": high, "dropped": 0 if ends is None else ends.dropped}


def _known(end: float) -> float | None:
    """None: beyond the largest epsilon that was evaluated."""
    return end if end < 1e9 else None


def area_under_auc(
    clean: np.ndarray, adversarial: np.ndarray, labels: np.ndarray, video_ids: np.ndarray, epsilons: Sequence[float], draws: Resamples
) -> tuple[float, Interval | None, float]:
    """Mean robust AUC over epsilon from 0 to AREA_UP_TO or, if less was measured, to the largest evaluated epsilon.

    The AUC is joined by straight lines, the clean one at 0. Both classes must be there.

    Returns:
        the mean, its interval, and the epsilon that the range ends at.
    """
    grid = np.array([0.0, *epsilons])
    end = min(AREA_UP_TO, float(grid[-1]))
    orders = [curves.ScoreOrder(scores, labels) for scores in (clean, *adversarial)]

    def mean(weights: np.ndarray) -> np.ndarray:
        return mean_up_to(grid, np.stack([curves.auc(order.curve(weights)) for order in orders], axis=1), end)

    interval = bootstrap.intervals(draws, video_ids, lambda weights: {"area": mean(weights)}, smooth={"area"})["area"]
    return float(mean(np.ones((1, len(clean))))[0]), interval, end


def mean_up_to(grid: np.ndarray, values: np.ndarray, end: float) -> np.ndarray:
    """(B,) means over [0, end] of the lines through (B, E) values at (E,) rising points, the first 0."""
    inside = grid < end
    points = np.append(grid[inside], end)
    after = np.clip(np.searchsorted(grid, end), 1, len(grid) - 1)
    part = (end - grid[after - 1]) / (grid[after] - grid[after - 1])
    last = values[:, after - 1] + part * (values[:, after] - values[:, after - 1])
    return np.trapezoid(np.concatenate([values[:, inside], last[:, None]], axis=1), points, axis=1) / end
