"""Expected calibration error: does a probability of 0.8 mean that 8 of 10 are fake?

The probability is the sigmoid of the logit as it stands: nothing was fitted to make it one (a model trained here is shifted so
that logit 0 has equal errors, which is no calibration either), and it depends on the share of fakes among the samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit

BINS = 15
"""Equal in width, of the probability of fake in [0, 1]."""


def expected_error(logits: np.ndarray, labels: np.ndarray, *, bins: int = BINS) -> Callable[[np.ndarray], np.ndarray]:
    """The error as a function of weights: over bins, |mean probability - share of fakes|, weighted by the bins' samples.

    Args:
        logits: (n,) of fake.
        labels: (n,) 1 = fake.
    Returns:
        (B, n) weights -> (B,) errors in [0, 1]; nan where all weights are 0.
    Source: Guo et al. 2017, eq. 3, in the binary form (the probability of fake, not of the predicted class).
    """
    probability = expit(np.asarray(logits, float))
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gap = np.zeros((len(place), bins))
    gap[np.arange(len(place)), place] = probability - labels

    def error(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(axis=1)
        return np.divide(np.abs(weights @ gap).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)

    return error
