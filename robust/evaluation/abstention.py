"""Risk and coverage: how much error is left when the detector may say nothing where it is least sure?

Sure is far from the threshold: |logit - threshold|. The risk at a coverage is the share of errors among the surest samples;
AURC is the mean risk over all coverages (0 is perfect, without order it is the error rate). Under attack, both errors and sureness
are those after it: an attack that makes a model sure of its errors raises AURC above the error rate.
Source: Geifman & El-Yaniv 2017 (selective classification); Geifman et al. 2019 (AURC).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

COVERAGES = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""At which the curve stands in summary.json."""


class SurenessOrder:
    """Samples from the surest to the least sure, ties together.

    Args:
        logits: (n,).
        labels: (n,) 1 = fake.
    """

    def __init__(self, logits: np.ndarray, labels: np.ndarray, *, threshold: float = 0.0):
        sureness = np.abs(logits - threshold)
        self.order = np.argsort(-sureness, kind="stable")
        self.wrong = ((logits > threshold) != (labels == 1))[self.order].astype(float)
        ranked = sureness[self.order]
        self.group_ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def aurc(self, weights: np.ndarray) -> np.ndarray:
        """(B, n) weights -> (B,) areas; tied samples are answered together."""
        counts, risks = self._curve(weights)
        answered = np.diff(counts, axis=1, prepend=0)
        return np.divide((answered * risks).sum(axis=1), counts[:, -1], out=np.full(len(counts), np.nan), where=counts[:, -1] > 0)

    def risk(self, coverages: tuple[float, ...] = COVERAGES) -> list[float]:
        """Risk at the smallest answerable share of samples that is at least each coverage."""
        counts, risks = self._curve(np.ones((1, len(self.order))))
        at = np.searchsorted(counts[0], np.array(coverages) * len(self.order) - 1e-9)
        return risks[0, np.minimum(at, len(risks[0]) - 1)].tolist()

    def _curve(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ranked = weights[:, self.order]
        counts = np.cumsum(ranked, axis=1, dtype=float)[:, self.group_ends]
        wrong = np.cumsum(ranked * self.wrong, axis=1, dtype=float)[:, self.group_ends]
        return counts, np.divide(wrong, counts, out=np.zeros(counts.shape), where=counts > 0)


def aurc(logits: np.ndarray, labels: np.ndarray, *, threshold: float = 0.0) -> Callable[[np.ndarray], np.ndarray]:
    """AURC as a function of weights (B, n)."""
    return SurenessOrder(logits, labels, threshold=threshold).aurc
