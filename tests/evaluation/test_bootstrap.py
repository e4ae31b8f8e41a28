"""Intervals: do they cover the truth, do they resample people, are they repeatable?"""

import numpy as np
import pytest
from scipy.stats import norm

from robust.data.identity_groups import connected_components
from robust.evaluation import bootstrap, curves


def auc_interval(resamples, video_ids, scores, labels):
    return bootstrap.ranking_interval(resamples, video_ids, scores, labels, {"auc": curves.auc})["auc"]


def eer_interval(resamples, video_ids, scores, labels):
    return bootstrap.ranking_interval(resamples, video_ids, scores, labels, {"eer": curves.equal_error_rate})["eer"]


def simulated_study(rng, *, people=60, videos=3):
    """One identity, several videos, all real or all fake, with an effect of the person; AUC is known in closed form."""
    labels = np.repeat(np.arange(people) % 2, videos)
    person = np.repeat(np.arange(people), videos)
    scores = labels * 1.0 + rng.normal(0, 0.8, people)[person] + rng.normal(0, 0.6, people * videos)
    ids = np.array([f"d/m/{index:04d}" for index in range(people * videos)])
    return ids, [(f"d:{index}",) for index in person], scores, labels


def test_coverage_of_a_known_auc_and_the_frame_bootstrap_that_would_fail():
    truth = norm.cdf(1.0 / np.sqrt(2 * (0.8**2 + 0.6**2)))
    rng = np.random.default_rng(0)
    covered, covered_ignoring_people, trials = 0, 0, 400
    for trial in range(trials):
        ids, people, scores, labels = simulated_study(rng)
        by_person = bootstrap.draw(ids, people, count=300, seed=trial)
        by_video = bootstrap.draw(ids, [(video_id,) for video_id in ids], count=300, seed=trial)
        for resamples, add in ((by_person, True), (by_video, False)):
            interval = auc_interval(resamples, ids, scores, labels)
            inside = interval.low <= truth <= interval.high
            covered, covered_ignoring_people = covered + (inside and add), covered_ignoring_people + (inside and not add)
    assert 0.93 <= covered / trials <= 0.97
    assert covered_ignoring_people / trials < 0.85


def test_coverage_of_a_rate_when_swaps_link_everybody():
    # Every fake joins two of 16 people: one component, so identities are resampled. Truth: 50 % of videos are hit.
    rng, covered, trials = np.random.default_rng(3), 0, 150
    pairs = [(a, b) for a in range(16) for b in range(16) if a < b and (a + b) % 2]
    ids = np.array([f"d/swap/{a:02d}_{b:02d}" for a, b in pairs])
    for trial in range(trials):
        effect = rng.normal(0, 1, 16)
        hits = np.array([effect[a] + effect[b] + rng.normal(0, 1) > 0 for a, b in pairs])
        resamples = bootstrap.draw(ids, [(f"d:{a}", f"d:{b}") for a, b in pairs], count=300, seed=trial)
        interval = bootstrap.share_interval(resamples, ids, hits, np.ones(len(hits), bool))
        covered += interval.low <= 0.5 <= interval.high
    assert resamples.kind == "identities" and resamples.unit_count == 16
    assert 0.91 <= covered / trials <= 0.99


def test_identities_that_share_a_fake_are_one_component():
    groups = [("a",), ("b", "c"), ("c", "d"), ("e",), ("d",)]
    assert connected_components(groups).tolist()[1:] != [0, 0, 0, 0]
    numbers = connected_components(groups)
    assert numbers[1] == numbers[2] == numbers[4]
    assert len({numbers[0], numbers[1], numbers[3]}) == 3


def test_videos_of_one_component_are_drawn_together():
    people = [(f"p{index // 3}",) for index in range(90)]
    ids = [f"d/m/{index:03d}" for index in range(90)]
    weights = bootstrap.draw(ids, people, count=50, seed=0).weights.reshape(50, 30, 3)
    assert (weights == weights[:, :, :1]).all()
    assert (weights[:, :, 0].sum(axis=1) == 30).all()


def test_same_seed_same_interval_other_seed_another():
    ids, people, scores, labels = simulated_study(np.random.default_rng(0))
    first, again, other = (eer_interval(bootstrap.draw(ids, people, count=200, seed=seed), ids, scores, labels)
                           for seed in (1, 1, 2))
    assert first == again != other


def test_order_of_the_rows_does_not_matter():
    ids, people, scores, labels = simulated_study(np.random.default_rng(0))
    shuffle = np.random.default_rng(1).permutation(len(ids))
    first = auc_interval(bootstrap.draw(ids, people, count=100, seed=1), ids, scores, labels)
    people = [people[index] for index in shuffle]
    resamples = bootstrap.draw(ids[shuffle], people, count=100, seed=1)
    again = auc_interval(resamples, ids[shuffle], scores[shuffle], labels[shuffle])
    assert (again.low, again.high) == pytest.approx((first.low, first.high), abs=1e-12)


def test_resamples_without_a_class_are_dropped_and_counted():
    # One person is the only real one: a resample lacks that one with probability (1 - 1/30)^30 = 0.36.
    ids = np.array([f"d/m/{index:02d}" for index in range(30)])
    labels, scores = (np.arange(30) > 0).astype(int), np.arange(30.0)
    resamples = bootstrap.draw(ids, [(name,) for name in ids], count=2000, seed=0)
    assert eer_interval(resamples, ids, scores, labels).dropped / 2000 == pytest.approx(0.36, abs=0.05)
    assert auc_interval(resamples, ids, scores, labels) is None  # the spread of reals is not to be known from one of them


def test_a_rate_of_zero_or_one_still_has_an_open_end():
    ids = np.array([f"d/m/{index:02d}" for index in range(30)])
    resamples = bootstrap.draw(ids, [(name,) for name in ids], count=100, seed=0)
    among = np.ones(30, bool)
    none, every = (bootstrap.share_interval(resamples, ids, hits, among) for hits in (~among, among))
    assert (none.low, every.high) == (0, 1)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 30)) == pytest.approx(1 - every.low)
    assert bootstrap.share_interval(resamples, ids, ~among, ~among) is None


def test_frames_of_a_video_do_not_narrow_the_interval():
    ids, people, scores, labels = simulated_study(np.random.default_rng(0))
    resamples = bootstrap.draw(ids, people, count=300, seed=1)
    once = auc_interval(resamples, ids, scores, labels)
    repeated = auc_interval(resamples, *(np.repeat(array, 10) for array in (ids, scores, labels)))
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))


def test_a_video_without_identity_is_an_error():
    with pytest.raises(ValueError, match="d/m/1"):
        bootstrap.draw(["d/m/0", "d/m/1"], [("a",), ()], count=10, seed=0)


def test_without_clusters_the_jackknife_of_auc_is_delongs():
    # DeLong 1988: variance of the mean of the structural components; here on the logit scale, by the delta method.
    rng = np.random.default_rng(0)
    labels, n = np.arange(400) % 2, 400
    scores = labels + rng.normal(0, 1, n)
    ids = np.array([f"d/m/{index:03d}" for index in range(n)])
    interval = auc_interval(bootstrap.draw(ids, [(name,) for name in ids], count=1, seed=0), ids, scores, labels)
    wins = (scores[labels == 1][:, None] > scores[labels == 0][None, :]).astype(float)
    auc = wins.mean()
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / 200 + wins.mean(axis=0).var(ddof=1) / 200) / (auc * (1 - auc))
    logits = [np.log(auc / (1 - auc)) + side * 1.972 * error for side in (-1, 1)]  # t with 199 degrees of freedom
    assert (interval.low, interval.high) == pytest.approx([1 / (1 + np.exp(-logit)) for logit in logits], abs=0.006)


def test_a_pairs_own_noise_is_counted_once():
    # No effect of a person, only of the 120 pairs: the interval must be that of 120 independent videos (Student's t of 16 people).
    rng = np.random.default_rng(0)
    pairs = [(a, b) for a in range(16) for b in range(a)]
    ids = np.array([f"d/swap/{a:02d}_{b:02d}" for a, b in pairs])
    widths, expected = [], 2 * 2.131 * np.sqrt(0.25 / 120)
    for _ in range(30):
        hits = rng.random(120) < 0.5
        resamples = bootstrap.draw(ids, [(f"d:{a}", f"d:{b}") for a, b in pairs], count=1, seed=0)
        interval = bootstrap.share_interval(resamples, ids, hits, np.ones(120, bool))
        widths.append(interval.high - interval.low)
    assert np.mean(widths) == pytest.approx(expected, rel=0.1)  # counted twice it would be 1.41 of that


def test_the_expanded_percentile_interval_is_students_for_a_mean():
    values = np.random.default_rng(0).normal(0, 1, 200_000)
    interval = bootstrap.percentile(values, units=18)
    assert interval.high == pytest.approx(2.110 * np.sqrt(18 / 17), abs=0.03)


def test_shares_of_perfectly_parted_scores_are_not_known_exactly():
    # No resample differs, so percentiles would say [0, 0] of two videos; six people a class know no more than Clopper-Pearson.
    from robust.evaluation.metrics import RANKINGS

    ids, labels = np.array([f"v{index:02d}" for index in range(12)]), np.arange(12) % 2
    resamples = bootstrap.draw(ids, [(f"d:{index}",) for index in range(12)], count=100, seed=0)
    open_end = 0.025 ** (1 / 6)
    for scores, eer, tpr in ((labels * 1.0, (0, 1 - open_end), (open_end, 1)), (-labels * 1.0, (open_end, 1), (0, 1 - open_end))):
        found = bootstrap.ranking_interval(resamples, ids, scores, labels, RANKINGS)
        for name, ends in (("auc", tpr), ("eer", eer), ("tpr_at_fpr_1", tpr), ("tpr_at_fpr_5", tpr)):
            assert (found[name].low, found[name].high) == pytest.approx(ends), name
        logarithms = [one for name, one in found.items() if name.startswith("log_weighted")]
        assert logarithms and all(one is None or one.high <= 0 for one in logarithms)
    perfect = bootstrap.ranking_interval(resamples, ids, labels * 1.0, labels, RANKINGS)["ap"]
    assert (perfect.low, perfect.high) == pytest.approx((open_end, 1))
