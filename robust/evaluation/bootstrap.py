"""95 % intervals by a bootstrap over people, not over frames.

Frames of one video, and videos that share a face, are not independent; resampling them one by one makes intervals far
too narrow. What is resampled here:

- `components`: videos linked by a shared identity (a fake carries two) form a cluster; whole clusters are drawn with
  replacement. Exact in spirit, but it needs many clusters.
- `identities`: where swaps link nearly everybody into a few clusters (a Celeb-DF test split is one), the identities
  are drawn with replacement instead, and a video counts as often as the product of its identities' counts: the
  pigeonhole bootstrap (Owen 2007, Ann. Appl. Stat. 1(2); Owen & Eckles 2012), which errs on the wide side.

Which one was used, and over how many units, stands beside the figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from robust.data.identity_groups import connected_components
from robust.evaluation.curves import Curve, ScoreOrder

MIN_COMPONENTS = 20
"""With fewer clusters than this a percentile interval over them covers badly."""

LEVEL = 0.95
_CELLS_AT_ONCE = 4_000_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A 95 % interval; `dropped` resamples had no such figure (a class was missing) and were left out."""

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
    order, columns = ScoreOrder(scores, labels), resamples.index(video_ids)
    values = {name: [] for name in figures}
    step = max(1, _CELLS_AT_ONCE // len(scores))
    for start in range(0, len(resamples.weights), step):
        curve = order.curve(resamples.weights[start:start + step][:, columns])
        for name, figure in figures.items():
            values[name].append(figure(curve))
    return {name: percentile(np.concatenate(parts)) for name, parts in values.items()}


def share_interval(resamples: Resamples, video_ids: np.ndarray, hits: np.ndarray, among: np.ndarray) -> Interval | None:
    """Interval of sum(hits) / sum(among).

    A rate of exactly 0 or 1 has no spread to resample, yet is not known exactly: its open end is then the
    Clopper-Pearson bound for as many trials as there are units among the samples.

    Args:
        hits, among: (n,) bool, hits within among.
    """
    columns, videos = resamples.index(video_ids), len(resamples.video_ids)
    top = np.bincount(columns, weights=hits, minlength=videos)
    bottom = np.bincount(columns, weights=among, minlength=videos)
    if bottom.sum() == 0:
        return None
    tops, bottoms = resamples.weights @ top, resamples.weights @ bottom
    interval = percentile(np.divide(tops, bottoms, out=np.full(len(tops), np.nan), where=bottoms > 0))
    if interval is None or 0 < top.sum() < bottom.sum():
        return interval
    open_end = ((1 - LEVEL) / 2) ** (1 / len(np.unique(resamples.units[bottom > 0])))
    if top.sum() == 0:
        return dataclasses.replace(interval, low=0.0, high=1 - open_end)
    return dataclasses.replace(interval, low=open_end, high=1.0)


def percentile(values: np.ndarray) -> Interval | None:
    """The middle 95 % of (B,) values; nan are dropped and counted. None if all are nan."""
    defined = values[np.isfinite(values)]
    if len(defined) == 0:
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), int(len(values) - len(defined)))
