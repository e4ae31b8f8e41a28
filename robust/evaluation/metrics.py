"""Figures of a detector from its scores, clean and under attack.

Conventions: fake = 1, a logit above the threshold is called fake. The ranking figures are held to scikit-learn's by the
tests; what scikit-learn lacks (attack success, frozen threshold, log weighted precision) is defined here, once.
A figure that does not exist (one class only, nothing caught) is a ValueError, never a number.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from robust.evaluation import curves

FROZEN_FPR = 0.01
"""The operating point that thresholds are frozen at, on clean validation reals."""

WEIGHTED_PRECISION_RECALLS = (0.1, 0.5, 0.9)

RANKINGS = {
    "auc": curves.auc,
    "ap": curves.average_precision,
    "eer": curves.equal_error_rate,
    "tpr_at_fpr_1": lambda curve: curves.tpr_at_fpr(curve, fpr=0.01),
    "tpr_at_fpr_5": lambda curve: curves.tpr_at_fpr(curve, fpr=0.05),
    **{
        f"log_weighted_precision_at_recall_{recall:g}": (
            lambda curve, recall=recall: curves.log_weighted_precision(curve, recall=recall)
        )
        for recall in WEIGHTED_PRECISION_RECALLS
    },
}
"""Figures of the order of the scores, by name: function of a `curves.Curve` -> (B,)."""


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve. Raises ValueError if a class is missing or a score is not finite."""
    return ranking("auc", scores, labels)


def ranking(name: str, scores: np.ndarray, labels: np.ndarray) -> float:
    """One of RANKINGS for (n,) scores and (n,) labels."""
    scores, labels = check(scores, labels)
    require_both_classes(labels)
    return float(RANKINGS[name](curves.ScoreOrder(scores, labels).curve())[0])


def accuracy(scores: np.ndarray, labels: np.ndarray, *, threshold: float = 0.0) -> float:
    """Share of samples on the right side of the threshold."""
    scores, labels = check(scores, labels)
    return float(np.mean((scores > threshold) == (labels == 1)))


def frozen_threshold(scores: np.ndarray, labels: np.ndarray, *, fpr: float = FROZEN_FPR) -> float:
    """The smallest threshold t for which the share of real scores > t is at most `fpr`.

    That is the (k + 1)-th largest real score, where k = floor(fpr * number of reals) may lie above it. A score equal
    to t is called real, so ties at t do no harm. With fewer than 1 / fpr reals k is 0 and t is the largest real score.

    Args:
        scores: (n,) logits on clean validation data, of frames or of videos: whatever the threshold will be used for.
        labels: (n,) 1 = fake; the fakes play no part.
        fpr: in [0, 1).
    Raises:
        ValueError: no reals, a score that is not finite, or fpr out of range.
    """
    scores, labels = check(scores, labels)
    if not 0 <= fpr < 1:
        raise ValueError(f"a threshold can be frozen at a false positive rate in [0, 1), not {fpr}")
    reals = np.sort(scores[labels == 0])[::-1]
    if len(reals) == 0:
        raise ValueError("a threshold cannot be frozen without real samples")
    return float(reals[math.floor(fpr * len(reals) + 1e-9)])


def equal_error_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The threshold, midway between two neighbouring scores, where the shares of reals above and fakes not above differ least.

    Args:
        scores: (n,) logits on clean validation data.
        labels: (n,) 1 = fake; both classes.
    """
    scores, labels = check(scores, labels)
    distinct = np.unique(scores)
    between = np.concatenate([distinct[:1] - 1, (distinct[1:] + distinct[:-1]) / 2, distinct[-1:] + 1])
    reals, fakes = np.sort(scores[labels == 0]), np.sort(scores[labels == 1])
    if len(reals) == 0 or len(fakes) == 0:
        raise ValueError("an equal error threshold needs reals and fakes")
    false_alarms = 1 - np.searchsorted(reals, between, side="right") / len(reals)
    missed = np.searchsorted(fakes, between, side="right") / len(fakes)
    return float(between[np.argmin(np.abs(false_alarms - missed))])


@dataclasses.dataclass(frozen=True)
class Share:
    """A rate as two masks over samples: `among` are counted, `hits` are those of them that fulfil it. Both (n,) bool."""

    hits: np.ndarray
    among: np.ndarray

    def value(self) -> float:
        if not self.among.any():
            raise ValueError("a rate over no samples does not exist")
        return float(self.hits.sum() / self.among.sum())


def correct(logits: np.ndarray, labels: np.ndarray, *, threshold: float) -> Share:
    """Accuracy as a Share."""
    right = (logits > threshold) == (labels == 1)
    return Share(hits=right, among=np.ones(len(right), bool))


def caught(logits: np.ndarray, labels: np.ndarray, *, threshold: float) -> Share:
    """True positive rate: fakes called fake."""
    fakes = labels == 1
    return Share(hits=fakes & (logits > threshold), among=fakes)


def false_alarms(logits: np.ndarray, labels: np.ndarray, *, threshold: float) -> Share:
    """False positive rate: reals called fake."""
    reals = labels == 0
    return Share(hits=reals & (logits > threshold), among=reals)


def fake_to_real(clean: np.ndarray, adversarial: np.ndarray, labels: np.ndarray, *, threshold: float) -> Share:
    """Attack success: of the fakes caught before the attack, those called real after it.

    Fakes that were missed anyway are not counted: they are clean error, not attack success.
    """
    was_caught = (labels == 1) & (clean > threshold)
    return Share(hits=was_caught & (adversarial <= threshold), among=was_caught)


def real_to_fake(clean: np.ndarray, adversarial: np.ndarray, labels: np.ndarray, *, threshold: float) -> Share:
    """Of the reals passed as real before the attack, those called fake after it."""
    was_passed = (labels == 0) & (clean <= threshold)
    return Share(hits=was_passed & (adversarial > threshold), among=was_passed)


def still_correct(clean: np.ndarray, adversarial: np.ndarray, labels: np.ndarray, *, threshold: float) -> Share:
    """Robust accuracy: right before and after the attack (the attacker may also leave an image as it is)."""
    before, after = correct(clean, labels, threshold=threshold), correct(adversarial, labels, threshold=threshold)
    return Share(hits=before.hits & after.hits, among=before.among)


def check(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raises ValueError unless these are n finite scores and n labels that are 0 or 1, n >= 1."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape or len(scores) == 0:
        raise ValueError(f"need as many scores as labels, at least one; got {scores.shape} and {labels.shape}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 (real) or 1 (fake), got {sorted(set(labels.tolist()))[:5]}")
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise ValueError(f"{len(bad)} of {len(scores)} scores are not finite, the first at index {bad[0]}")
    return scores, labels


def require_both_classes(labels: np.ndarray) -> None:
    if labels.min() == labels.max():
        raise ValueError(f"only {'fakes' if labels[0] == 1 else 'reals'} here; a ranking figure needs both classes")


def video_scores(
    logits: np.ndarray, video_ids: np.ndarray, tracks: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean logit of each video; of one with several people the mean of the person who looks most fake.

    A video is fake if anybody in it is, and the forger picks whom: a mean over everybody would let one fake face hide
    among real ones.

    Args:
        logits: (n,) frame logits.
        video_ids: (n,) full ids "dataset/method/name"; the same file name under two methods is two videos.
        tracks: (n,) the person's number in the video; None: one person each.
    Returns:
        (V,) sorted unique video ids and (V,) scores.
    """
    ids, index = np.unique(np.asarray(video_ids), return_inverse=True)
    if tracks is None or not np.any(tracks):
        return ids, _means(logits, index, len(ids))
    people, person = np.unique(np.stack([index, np.asarray(tracks, np.int64)]), axis=1, return_inverse=True)
    scores = np.full(len(ids), -np.inf)
    np.maximum.at(scores, people[0], _means(logits, person.reshape(-1), people.shape[1]))
    return ids, scores


def _means(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    sums = np.bincount(group, weights=np.asarray(values, dtype=np.float64), minlength=groups)
    return sums / np.bincount(group, minlength=groups)
