"""Score curves: what every threshold would catch, for one sample or for many weighted resamples at once.

All ranking figures (AUC, AP, EER, TPR at an FPR, weighted precision) are read off one pair of arrays, the true and the
false positives at each distinct score. With a leading axis of resamples a bootstrap costs one pass, not one thousand.
"""

from __future__ import annotations

import dataclasses

import numpy as np

DFDC_ALPHA = 100.0
"""Weight of a false positive in the DFDC preview's weighted precision.

Source: Dolhansky et al. 2019, "The Deepfake Detection Challenge (DFDC) Preview Dataset", section 4.
"""

PRECISION_FLOOR = 1e-6
"""Weighted precision below this counts as this, so that its logarithm stays finite."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Weighted counts of the samples called fake at each threshold, from the highest distinct score down.

    Args:
        tp: (B, K) fakes called fake, for B resamples at K thresholds.
        fp: (B, K) reals called fake.
    The last column holds all fakes and all reals. A resample without one of the classes has no curve: its figures are
    nan, which the caller counts.
    """

    tp: np.ndarray
    fp: np.ndarray

    @property
    def fakes(self) -> np.ndarray:
        return self.tp[:, -1]

    @property
    def reals(self) -> np.ndarray:
        return self.fp[:, -1]

    @property
    def is_defined(self) -> np.ndarray:
        return (self.fakes > 0) & (self.reals > 0)


class ScoreOrder:
    """Scores sorted once, ties together; turns any weights of the samples into a curve.

    Args:
        scores: (n,) logits, higher = more fake.
        labels: (n,) 1 = fake.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray):
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.is_fake = labels[self.order] == 1
        self.group_ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def curve(self, weights: np.ndarray | None = None) -> Curve:
        """Args: weights: (B, n) >= 0, how often each sample is in each resample; None: each once (B = 1)."""
        if weights is None:
            weights = np.ones((1, len(self.order)))
        ranked = weights[:, self.order]
        tp = np.cumsum(ranked * self.is_fake, axis=1, dtype=np.float64)[:, self.group_ends]
        fp = np.cumsum(ranked * ~self.is_fake, axis=1, dtype=np.float64)[:, self.group_ends]
        return Curve(tp, fp)


def auc(curve: Curve) -> np.ndarray:
    """Area under the ROC curve: chance that a fake scores above a real one, ties counting half. (B,)"""
    tp, fp = _from_origin(curve.tp), _from_origin(curve.fp)
    area = (np.diff(fp, axis=1) * (tp[:, 1:] + tp[:, :-1]) / 2).sum(axis=1)
    return _divide(area, curve.fakes * curve.reals)


def average_precision(curve: Curve) -> np.ndarray:
    """Mean precision over the recalls at which it is reached, without interpolation (as scikit-learn). (B,)"""
    precision = _divide(curve.tp, curve.tp + curve.fp, empty=0.0)
    recall_steps = np.diff(_from_origin(curve.tp), axis=1)
    return np.where(curve.is_defined, _divide((precision * recall_steps).sum(axis=1), curve.fakes), np.nan)


def equal_error_rate(curve: Curve) -> np.ndarray:
    """The error where the ROC curve, joined by straight lines, crosses FPR = 1 - TPR. (B,)"""
    fpr = _from_origin(_divide(curve.fp, curve.reals[:, None]))
    fnr = 1 - _from_origin(_divide(curve.tp, curve.fakes[:, None]))
    after = np.argmax(fpr >= fnr, axis=1)  # fpr - fnr rises from -1 to 1, so `after` is at least 1
    rows, before = np.arange(len(after)), np.maximum(after - 1, 0)
    gap_before = (fnr - fpr)[rows, before]
    gap_after = (fpr - fnr)[rows, after]
    share = _divide(gap_before, gap_before + gap_after, empty=0.0)
    value = fpr[rows, before] + share * (fpr[rows, after] - fpr[rows, before])
    return np.where(curve.is_defined, value, np.nan)


def tpr_at_fpr(curve: Curve, *, fpr: float) -> np.ndarray:
    """The largest share of fakes caught by a threshold that calls at most `fpr` of the reals fake. (B,)"""
    rates = _divide(curve.fp, curve.reals[:, None])
    allowed = rates <= fpr + 1e-12
    tpr = np.where(allowed, _divide(curve.tp, curve.fakes[:, None]), 0.0).max(axis=1)
    return np.where(curve.is_defined, tpr, np.nan)


def log_weighted_precision(curve: Curve, *, recall: float, alpha: float = DFDC_ALPHA) -> np.ndarray:
    """Natural log of TP / (TP + alpha * FP) at the highest threshold that reaches `recall`. (B,)

    alpha stands for how much rarer fakes are in deployment than in the test set. 0 is perfect; the floor is
    log(PRECISION_FLOOR).
    Source: the DFDC preview paper, equation 1.
    """
    reached = curve.tp >= recall * curve.fakes[:, None] - 1e-9
    at = np.argmax(reached, axis=1)
    rows = np.arange(len(at))
    tp, fp = curve.tp[rows, at], curve.fp[rows, at]
    precision = _divide(tp, tp + alpha * fp, empty=0.0)
    value = np.log(np.maximum(precision, PRECISION_FLOOR))
    return np.where(curve.is_defined, value, np.nan)


def _from_origin(counts: np.ndarray) -> np.ndarray:
    """Puts the threshold above all scores, where nothing is called fake, in front."""
    return np.concatenate([np.zeros((len(counts), 1)), counts], axis=1)


def _divide(top: np.ndarray, bottom: np.ndarray, *, empty: float = np.nan) -> np.ndarray:
    top, bottom = np.broadcast_arrays(np.asarray(top, float), np.asarray(bottom, float))
    return np.divide(top, bottom, out=np.full(top.shape, empty), where=bottom > 0)
