"""95 % intervals by a bootstrap over people, not over frames.

Frames of one video, and videos that share a face, are not independent; resampling them one by one makes intervals far
too narrow. What is resampled here:

- `components`: videos linked by a shared identity (a fake carries two) form a cluster; whole clusters are drawn with
  replacement. Exact in spirit, but it needs many clusters.
- `identities`: where swaps link nearly everybody into a few clusters (a Celeb-DF test split is one), the identities
  are drawn with replacement instead, and a video counts as often as the product of its identities' counts: the
  pigeonhole bootstrap (Owen 2007, Ann. Appl. Stat. 1(2); Owen & Eckles 2012), which errs on the wide side.

Smooth figures (AUC, AP, rates) do not get their interval from the resamples but from leaving each of these units out
once, `jackknife.py`, as a percentile interval over few clusters covers too seldom. The others (EER, TPR at an FPR, weighted
precision, medians) have percentile intervals, whose quantiles lie as much further out as Student's t is wider than the
normal distribution (Hesterberg 2015, The American Statistician 69(4)).

Which one was used, and over how many units, stands beside the figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

import numpy as np
from scipy.stats import norm, t

from robust.data.identity_groups import connected_components
from robust.evaluation import jackknife
from robust.evaluation.curves import Curve, ScoreOrder

MIN_COMPONENTS = 10
"""With fewer clusters than this identities are resampled instead."""
SMOOTH = frozenset({"auc", "ap"})
"""Ranking figures that change little with any one cluster: their intervals are jackknife.py's."""
SHARES = frozenset({"auc", "ap", "eer", "tpr_at_fpr_1", "tpr_at_fpr_5"})
"""Ranking figures that lie in [0, 1]."""
ROUNDING = 1e-9

LEVEL = 0.95
_CELLS_AT_ONCE = 4_000_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A 95 % interval; `dropped` resamples had no such figure (a class was missing) and were left out; 0 for a jackknife."""

    low: float
    high: float
    dropped: int


@dataclasses.dataclass(frozen=True)
class Resamples:
    """How often each video is in each resample; the same draws serve every figure, so figures can be compared.

    Args:
        video_ids: (V,) sorted and unique.
        weights: (B, V) counts >= 0.
        units: (V, 2) indices of the clusters or identities that each video belongs to (the same twice for one).
        kind: "components" or "identities".
    """

    video_ids: np.ndarray
    weights: np.ndarray
    units: np.ndarray
    kind: str

    @property
    def unit_count(self) -> int:
        return len(np.unique(self.units))

    def index(self, video_ids: np.ndarray) -> np.ndarray:
        """(n,) columns of these videos."""
        return np.searchsorted(self.video_ids, video_ids)

    def units_of(self, video_ids: np.ndarray) -> np.ndarray:
        """(n, 2) units of these videos."""
        return self.units[self.index(video_ids)]


def draw(video_ids: Sequence[str], identities: Sequence[Sequence[str]], *, count: int, seed: int) -> Resamples:
    """Draws `count` resamples of V videos.

    Args:
        video_ids: V ids; duplicates (frames) are allowed, their identities must agree.
        identities: for each, one identity or more; only the first two are resampled over when `kind` is identities.
    Raises:
        ValueError: no videos, or a video without identity.
    """
    by_video = dict(sorted(zip(video_ids, (tuple(people) for people in identities), strict=True)))
    if not by_video:
        raise ValueError("a bootstrap needs at least one video")
    nameless = [video_id for video_id, people in by_video.items() if not people]
    if nameless:
        raise ValueError(f"{len(nameless)} videos have no identity, the first is {nameless[0]}")
    components = connected_components(list(by_video.values()))
    rng = np.random.default_rng(seed)
    if components.max() + 1 >= MIN_COMPONENTS:
        units, kind = np.stack([components, components], axis=1), "components"
    else:
        units, kind = _identity_units(list(by_video.values())), "identities"
    unit_count = int(units.max()) + 1
    counts = rng.multinomial(unit_count, np.full(unit_count, 1 / unit_count), size=count)
    pair = units[:, 0] != units[:, 1]
    weights = counts[:, units[:, 0]] * np.where(pair, counts[:, units[:, 1]], 1)
    return Resamples(np.array(list(by_video)), weights.astype(np.float32), units, kind)


def _identity_units(groups: Sequence[Sequence[str]]) -> np.ndarray:
    names = sorted({person for group in groups for person in group[:2]})
    number = {name: index for index, name in enumerate(names)}
    return np.array([(number[group[0]], number[group[min(1, len(group) - 1)]]) for group in groups])


def ranking_interval(
    resamples: Resamples,
    video_ids: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    figures: dict[str, Callable[[Curve], np.ndarray]],
) -> dict[str, Interval | None]:
    """Intervals of several ranking figures of the same scores.

    Args:
        video_ids: (n,) the video of each sample; a sample counts as often as its video.
        scores, labels: (n,).
        figures: by name, functions of a Curve.
    Returns:
        by name; None where no resample had the figure.
    """
    order = ScoreOrder(scores, labels)

    def evaluate(weights):
        curve = order.curve(weights)
        return {name: figure(curve) for name, figure in figures.items()}

    found = intervals(resamples, video_ids, evaluate, smooth=SMOOTH & figures.keys())
    units = min(len(np.unique(resamples.units_of(video_ids[labels == label]))) for label in np.unique(labels))
    return {name: _opened(interval, units) if name in SHARES else interval for name, interval in found.items()}


def _opened(interval: Interval | None, units: int) -> Interval | None:
    """A figure that is 0 or 1 in every resample, as of perfectly parted scores, is not known exactly either.

    Where the AUC is a, all fakes lie above all reals with probability a^units at most: so it is where a share 1 - a of the fakes lies below all reals.
    """
    if interval is None or not (interval.high < ROUNDING or interval.low > 1 - ROUNDING):
        return interval
    open_end = _open_end(units)
    return dataclasses.replace(interval, low=0.0, high=1 - open_end) if interval.high < ROUNDING else dataclasses.replace(interval, low=open_end, high=1.0)


def _open_end(units: int) -> float:
    """Clopper-Pearson's lower bound of a share that was 1 in so many trials."""
    return ((1 - LEVEL) / 2) ** (1 / units)


def intervals(
    resamples: Resamples,
    video_ids: np.ndarray,
    evaluate: Callable[[np.ndarray], dict[str, np.ndarray]],
    *,
    smooth: Collection[str] = (),
) -> dict[str, Interval | None]:
    """Intervals of any figures of n samples.

    Args:
        video_ids: (n,) the video of each sample.
        evaluate: (B, n) weights of the samples -> by name (B,) values; nan where a figure does not exist.
        smooth: names of those in [0, 1] that have a jackknife interval; the others a percentile one.
    """
    whole = evaluate(np.ones((1, len(video_ids))))
    found: dict[str, Interval | None] = {}
    if smooth:
        left_out = jackknife.deletions(resamples.units_of(video_ids), videos=len(np.unique(video_ids)))
        for name in whole.keys() & set(smooth):
            ends = jackknife.interval(
                float(whole[name][0]), lambda weights, name=name: _in_parts(evaluate, weights)[name], left_out, level=LEVEL)
            found[name] = None if ends is None else Interval(*ends, 0)
    if whole.keys() - found.keys():
        units = len(np.unique(resamples.units_of(video_ids)))
        values = _in_parts(evaluate, resamples.weights, resamples.index(video_ids))
        found |= {name: percentile(values[name], units=units) for name in whole if name not in found}
    return {name: found[name] for name in whole}


def _in_parts(evaluate, weights: np.ndarray, columns: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
    """Few rows of the weights at once, for the memory's sake."""
    width = len(columns) if isinstance(columns, np.ndarray) else weights.shape[1]
    step = max(1, _CELLS_AT_ONCE // width)
    parts = [evaluate(weights[start:start + step][:, columns]) for start in range(0, len(weights), step)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def share_interval(resamples: Resamples, video_ids: np.ndarray, hits: np.ndarray, among: np.ndarray) -> Interval | None:
    """Interval of sum(hits) / sum(among).

    A rate of exactly 0 or 1 has no spread to resample, yet is not known exactly: its open end is then the
    Clopper-Pearson bound for as many trials as there are units among the samples.

    Args:
        hits, among: (n,) bool, hits within among.
    """
    if not among.any():
        return None
    hits, video_ids = (hits & among)[among].astype(float), video_ids[among]
    units, value = resamples.units_of(video_ids), float(hits.mean())
    if 0 < value < 1:
        left_out = jackknife.deletions(units, videos=len(np.unique(video_ids)))
        ends = jackknife.interval(value, lambda weights: _ratio(weights @ hits, weights.sum(axis=1)), left_out, level=LEVEL)
        return None if ends is None else Interval(*ends, 0)
    open_end = _open_end(len(np.unique(units)))
    return Interval(0.0, 1 - open_end, 0) if value == 0 else Interval(open_end, 1.0, 0)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)


def percentile(values: np.ndarray, *, units: int, exact: bool = False) -> Interval | None:
    """The middle of (B,) values, 95 % and the more the fewer units; nan are dropped and counted. None if all are nan.

    Args:
        exact: the ends are values that occur, not means of two neighbours.
    Source: Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 4.1: the expanded percentile interval.
    """
    defined = values[np.isfinite(values)]
    if len(defined) == 0 or units < 2:
        return None
    tail = norm.cdf(np.sqrt(units / (units - 1)) * t.ppf((1 - LEVEL) / 2, units - 1))
    low, high = np.quantile(defined, [tail, 1 - tail], method="inverted_cdf" if exact else "linear")
    return Interval(float(low), float(high), int(len(values) - len(defined)))
