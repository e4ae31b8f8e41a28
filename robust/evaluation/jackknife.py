"""Intervals of smooth figures (AUC, rates): every cluster of videos is left out once; Student's t on the logit scale.

A percentile bootstrap over few clusters is too narrow and lies to the wrong side where a figure is near 1
(benchmarks/interval_coverage.py has both beside each other). So:

- the variance is that of the figure without each unit in turn, times (U - 1), which with few units errs on the wide side;
- where units are identities, and a fake belongs to two, a pair's own noise is counted once for each of its two people.
  It is measured by leaving out the pairs, and taken away once. What is left is at least half of the whole;
- the interval is symmetric on the logit scale, so it stays in [0, 1] and reaches further towards 1/2;
- its width is that of Student's t with U - 1 degrees of freedom.

Sources: Efron & Stein 1981 (jackknife variance); Cameron, Gelbach & Miller 2011 (multi-way clusters: what is counted twice is
taken away); Obuchowski 1997 (AUC of clustered data).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.special import expit
from scipy.stats import t as student

MAX_UNITS = 200
"""More units than this are left out in as many groups, so that the cost does not grow with their number."""


@dataclasses.dataclass(frozen=True)
class Deletions:
    """Which samples are there when a unit is left out.

    Args:
        units: (U, n) of 0 and 1, one row a unit that has samples.
        pairs: (P, n), one row a pair of units; None where every sample belongs to one unit.
        videos: how many videos there are.
    """

    units: np.ndarray
    pairs: np.ndarray | None
    videos: int

    @property
    def unit_count(self) -> int:
        return len(self.units)


def deletions(units: np.ndarray, *, videos: int) -> Deletions:
    """Args: units: (n, 2) the units of each sample, the same twice if it has one; videos: of these samples."""
    groups = _grouped(units)
    rows = np.array([(groups != unit).all(axis=1) for unit in np.unique(groups)], np.float32)
    two = groups[:, 0] != groups[:, 1]
    if not two.any():
        return Deletions(rows, None, videos)
    pair = np.where(two, groups.min(axis=1) * (groups.max() + 1) + groups.max(axis=1), -1)
    names = np.unique(pair[two])
    names = [part for part in np.array_split(names, min(len(names), 2 * MAX_UNITS))]
    return Deletions(rows, np.array([~np.isin(pair, part) for part in names], np.float32), videos)


def _grouped(units: np.ndarray) -> np.ndarray:
    """Neighbouring numbers are of neighbouring names, so that groups are dealt, not cut."""
    present, index = np.unique(units, return_inverse=True)
    return index.reshape(units.shape) % min(len(present), MAX_UNITS)


def interval(value: float, figure: Callable[[np.ndarray], np.ndarray], left_out: Deletions, *, level: float) -> tuple[float, float] | None:
    """The ends of the interval, or None if a unit cannot be left out: the figure rests on that one alone.

    Args:
        value: of all samples, in [0, 1].
        figure: (B, n) weights of the samples -> (B,) values.
    """
    count = left_out.unit_count
    if count < 2:
        return None
    variance = _variance(value, figure(left_out.units), left_out.videos)
    if left_out.pairs is not None and len(left_out.pairs) > 1:
        twice = _variance(value, figure(left_out.pairs), left_out.videos)
        if np.isfinite(twice):
            variance = max(variance - twice, variance / 2)
    if not np.isfinite(variance):
        return None
    middle, reach = _logit(np.array(value), left_out.videos), student.ppf((1 + level) / 2, count - 1) * np.sqrt(variance)
    low, high = (float(_share(middle + side * reach, left_out.videos)) for side in (-1, 1))
    return min(low, value), max(high, value)  # equal but for rounding where there is no spread


def _variance(value: float, without: np.ndarray, videos: int) -> float:
    """nan if a value is."""
    change = _logit(without, videos) - _logit(np.array(value), videos)
    return (len(without) - 1) / len(without) * float(np.sum(change**2))


def _logit(share: np.ndarray, videos: int) -> np.ndarray:
    """With half a video on each side, so that 0 and 1 are finite."""
    return np.log((share * videos + 0.5) / ((1 - share) * videos + 0.5))


def _share(logit: np.ndarray, videos: int) -> np.ndarray:
    return np.clip((expit(logit) * (videos + 1) - 0.5) / videos, 0, 1)
