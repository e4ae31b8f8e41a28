"""ECE against scikit-learn's reliability curve and by hand."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve

from robust.evaluation.calibration import BINS, expected_error


@pytest.mark.parametrize("seed", range(4))
def test_ece_is_read_off_scikit_learns_reliability_curve(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, 500)
    labels = (rng.random(500) < expit(0.5 * logits)).astype(int)
    shares, means = calibration_curve(labels, expit(logits), n_bins=BINS, strategy="uniform")
    counts, _ = np.histogram(expit(logits), bins=np.linspace(0, 1, BINS + 1))
    expected = np.sum(counts[counts > 0] * np.abs(shares - means)) / 500
    assert expected_error(logits, labels)(np.ones((1, 500)))[0] == pytest.approx(expected)


def test_ece_by_hand_and_with_weights():
    # Two bins: at 0.9 two of three are fake, at 0.2 none of one: (3 * |0.9 - 2/3| + 1 * |0.2 - 0|) / 4.
    logits, labels = logit(np.array([0.9, 0.9, 0.9, 0.2])), np.array([1, 1, 0, 0])
    error = expected_error(logits, labels)
    weights = np.array([[1.0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert error(weights)[:2] == pytest.approx([(3 * (0.9 - 2 / 3) + 0.2) / 4, 0.1]) and np.isnan(error(weights)[2])


def test_certainty_that_is_right_has_no_error_and_one_that_is_wrong_all():
    logits = np.array([-100.0, 100.0])
    assert expected_error(logits, np.array([0, 1]))(np.ones((1, 2)))[0] == pytest.approx(0)
    assert expected_error(logits, np.array([1, 0]))(np.ones((1, 2)))[0] == pytest.approx(1)
