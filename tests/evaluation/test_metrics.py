"""Figures against scikit-learn and by hand; what does not exist must be an error, not a number."""

import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from robust.evaluation import curves, metrics


def sample(seed, n=200, decimals=1):
    """Scores with many ties, both classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return np.round(rng.normal(labels * 1.2, 1), decimals), labels


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_ap_equal_scikit_learns_also_with_ties_and_weights(seed):
    scores, labels = sample(seed)
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(scores)))
    curve = curves.ScoreOrder(scores, labels).curve(weights)
    for row, weight in enumerate(weights):
        assert curves.auc(curve)[row] == pytest.approx(roc_auc_score(labels, scores, sample_weight=weight))
        expected = average_precision_score(labels, scores, sample_weight=weight)
        assert curves.average_precision(curve)[row] == pytest.approx(expected)
    assert metrics.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


@pytest.mark.parametrize("seed", range(5))
def test_eer_and_tpr_are_read_off_scikit_learns_roc(seed):
    scores, labels = sample(seed)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    crossing = brentq(lambda x: 1 - x - interp1d(fpr, tpr)(x), 0, 1)
    assert metrics.ranking("eer", scores, labels) == pytest.approx(crossing, abs=1e-9)
    assert metrics.ranking("tpr_at_fpr_1", scores, labels) == pytest.approx(tpr[fpr <= 0.01].max())


def test_known_answers_of_perfect_and_reversed_detectors():
    labels = np.array([0, 0, 1, 1])
    perfect, reversed_ = np.array([-2.0, -1, 1, 2]), np.array([2.0, 1, -1, -2])
    assert [metrics.ranking(name, perfect, labels) for name in ("auc", "ap", "eer", "tpr_at_fpr_1")] == [1, 1, 0, 1]
    assert [metrics.ranking(name, reversed_, labels) for name in ("auc", "eer", "tpr_at_fpr_1")] == [0, 1, 0]


def test_weighted_precision_by_hand():
    # From the top: fake, fake, real, fake, fake. Recall 0.5 is reached before the real one, recall 0.75 after it.
    scores, labels = np.array([5.0, 4, 3, 2, 1]), np.array([1, 1, 0, 1, 1])
    curve = curves.ScoreOrder(scores, labels).curve()
    assert curves.log_weighted_precision(curve, recall=0.5) == pytest.approx(0)
    assert curves.log_weighted_precision(curve, recall=0.75) == pytest.approx(np.log(3 / (3 + 100)))
    # Zero precision is the worst cost, not the best: here a perfect ranking cannot be told from none by a zero.
    upside_down = curves.ScoreOrder(-scores, 1 - labels).curve()
    assert curves.log_weighted_precision(upside_down, recall=0.1) < -4


def test_attack_success_counts_only_fakes_caught_before():
    labels = np.array([1, 1, 1, 1, 0, 0, 0])
    clean = np.array([2.0, 1, 3, -1, -1, -2, 1])
    attacked = np.array([-1.0, 0, 2, -5, 1, -1, 4])
    # Caught: 3 of 4 fakes. Turned: the first two (a logit of exactly 0 is called real). Passed reals: 2, turned: 1.
    assert metrics.fake_to_real(clean, attacked, labels, threshold=0).value() == pytest.approx(2 / 3)
    assert metrics.real_to_fake(clean, attacked, labels, threshold=0).value() == pytest.approx(1 / 2)
    assert metrics.still_correct(clean, attacked, labels, threshold=0).value() == pytest.approx(2 / 7)
    # At another threshold only one fake was caught, and it stays caught.
    assert metrics.fake_to_real(clean, attacked, labels, threshold=2.5).value() == 1.0
    assert metrics.fake_to_real(clean, attacked, labels, threshold=1.5).hits.sum() == 1


def test_robust_accuracy_is_clean_accuracy_less_what_the_attack_turned():
    rng = np.random.default_rng(0)
    labels, clean = rng.integers(0, 2, 500), rng.normal(0, 1, 500)
    attacked = clean + rng.normal(0, 1, 500)
    turned = sum(share(clean, attacked, labels, threshold=0.3).hits.sum()
                 for share in (metrics.fake_to_real, metrics.real_to_fake))
    robust = metrics.still_correct(clean, attacked, labels, threshold=0.3).value()
    assert robust == pytest.approx(metrics.accuracy(clean, labels, threshold=0.3) - turned / 500)


@pytest.mark.parametrize(
    ("reals", "fpr", "threshold"),
    [
        ([3.0, 2, 1, 0], 0.0, 3.0),
        ([3.0, 2, 1, 0], 0.25, 2.0),  # one of four may lie above
        ([3.0, 2, 1, 0], 0.49, 2.0),
        ([3.0, 3, 3, 0], 0.25, 3.0),  # ties at the threshold are called real
        ([3.0, 2, 1, 0], 0.01, 3.0),  # too few reals for 1 %: the largest
        ([7.0], 0.01, 7.0),
    ],
)
def test_frozen_threshold_is_the_smallest_that_keeps_the_false_positive_rate(reals, fpr, threshold):
    scores, labels = np.array([*reals, 100.0]), np.array([0] * len(reals) + [1])
    assert metrics.frozen_threshold(scores, labels, fpr=fpr) == threshold
    below = np.nextafter(threshold, -np.inf)
    assert np.mean(np.array(reals) > threshold) <= fpr < np.mean(np.array(reals) > below)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_equal_error_threshold(shift):
    reals, fakes = np.array([0.0, 1.0, 2.0, 4.0]) + shift, np.array([1.5, 3.0, 5.0, 6.0]) + shift
    scores, labels = np.concatenate([reals, fakes]), np.repeat([0, 1], 4)
    threshold = metrics.equal_error_threshold(scores, labels)
    assert threshold == pytest.approx(2.5 + shift)  # one real of four above, one fake of four below
    assert (reals > threshold).mean() == (fakes <= threshold).mean() == 0.25


def test_equal_error_threshold_where_nothing_overlaps_is_between():
    assert metrics.equal_error_threshold(np.array([-3.0, -1.0, 2.0, 5.0]), np.array([0, 0, 1, 1])) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="reals and fakes"):
        metrics.equal_error_threshold(np.array([1.0]), np.array([1]))


def test_frozen_threshold_on_a_hundred_reals_lets_exactly_one_above():
    reals = np.random.default_rng(1).permutation(np.arange(100.0))
    assert metrics.frozen_threshold(reals, np.zeros(100, int), fpr=0.01) == 98.0


@pytest.mark.parametrize(
    ("scores", "labels", "says"),
    [
        ([1.0, np.nan], [0, 1], "not finite"),
        ([1.0, 2.0], [1, 1], "only fakes"),
        ([1.0, 2.0], [0, 0], "only reals"),
        ([1.0, 2.0], [0, 2], "labels must be"),
        ([], [], "at least one"),
        ([1.0], [0, 1], "as many scores as labels"),
    ],
)
def test_a_figure_that_does_not_exist_is_an_error(scores, labels, says):
    with pytest.raises(ValueError, match=says):
        metrics.auc(np.array(scores), np.array(labels, dtype=int))


def test_rates_and_thresholds_over_nothing_are_errors():
    with pytest.raises(ValueError, match="no samples"):
        metrics.fake_to_real(np.array([-1.0]), np.array([-2.0]), np.array([1]), threshold=0).value()
    with pytest.raises(ValueError, match="without real"):
        metrics.frozen_threshold(np.array([1.0]), np.array([1]))
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        metrics.frozen_threshold(np.array([1.0]), np.array([0]), fpr=1.0)


def test_videos_are_grouped_by_their_full_id():
    # FaceForensics++ has 000_003 under every method: two videos, not one.
    ids = np.array(["ff/Deepfakes/000_003", "ff/FaceSwap/000_003", "ff/Deepfakes/000_003"])
    videos, scores = metrics.video_scores(np.array([1.0, 5.0, 2.0]), ids)
    assert videos.tolist() == ["ff/Deepfakes/000_003", "ff/FaceSwap/000_003"]
    assert scores.tolist() == [1.5, 5.0]

def test_of_several_people_in_a_video_the_most_fake_looking_counts():
    videos = np.array(["b", "a", "a", "a", "b", "a"])
    tracks = np.array([0, 1, 0, 1, 0, 0])
    logits = np.array([-1.0, 4.0, -9.0, 2.0, -3.0, -1.0])  # a: person 0 has mean -5, person 1 mean 3
    ids, scores = metrics.video_scores(logits, videos, tracks)
    assert ids.tolist() == ["a", "b"] and scores.tolist() == [3.0, -2.0]
    _, alone = metrics.video_scores(logits, videos, np.zeros(6, int))
    assert alone.tolist() == metrics.video_scores(logits, videos)[1].tolist() == [-1.0, -2.0]

