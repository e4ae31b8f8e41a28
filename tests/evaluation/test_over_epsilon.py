"""Minimal epsilon, area over epsilon and abstention, by hand; the tables take them from the worst case."""

import numpy as np
import pyarrow as pa
import pytest
from made_up import made_up_predictions
from sklearn.metrics import roc_auc_score

from robust.evaluation import abstention, bootstrap, minimal_distances, over_epsilon
from robust.evaluation.predictions import frame_scores
from robust.evaluation.protocol import build_tables
from robust.evaluation.summary import find, worst_groups
from robust.evaluation.worst_case import with_worst_case

EPSILONS = (1.0, 2.0, 4.0)


def draws_of(count):
    ids = np.array([f"d/m/{index:02d}" for index in range(count)])
    return ids, bootstrap.draw(ids, [(name,) for name in ids], count=200, seed=0)


def test_a_fake_once_turned_stays_turned_at_larger_epsilons():
    labels, clean = np.array([1, 1, 1, 1, 0]), np.array([1.0, 2, 3, -1, -2])
    adversarial = np.array([[0.0, 1, 1, -2, -1], [1, -1, 1, -2, 1], [1, -1, 2, -3, 1]])
    assert over_epsilon.flip_counts(clean, adversarial, labels).tolist() == [0, 1, 3, -1, -1]


def test_the_median_is_read_off_the_line_between_epsilons():
    weights = np.ones((1, 4))
    median = lambda first: over_epsilon.median_epsilon(np.array(first), EPSILONS, weights)[0]  # noqa: E731
    assert median([0, 1, 1, 3]) == pytest.approx(1 + (0.5 - 0.25) / 0.5)  # 25 % at 1, 75 % at 2
    assert median([0, 0, 0, 0]) == 0.5
    assert median([0, 0, 1, 3]) == 1
    assert np.isinf(median([0, 3, 3, 3])) and np.isnan(median([-1, -1, -1, -1]))


def test_the_record_says_between_which_epsilons_and_where_the_interval_is_open():
    count = 40
    ids, draws = draws_of(count)
    labels, clean = np.ones(count, int), np.ones(count)
    adversarial = np.ones((3, count))
    adversarial[2, : count // 2 + 1] = -1  # just more than half, only at the largest
    record = over_epsilon.minimal_epsilon(clean, adversarial, labels, ids, EPSILONS, draws)
    assert [row["count"] for row in record["bins"]] == [0, 0, 21, 19] and record["among"] == 40
    assert record["bins"][2] == {"above": 2.0, "up_to": 4.0, "count": 21} and record["bins"][3]["up_to"] is None
    assert record["value"] == pytest.approx(2 + 2 * 0.5 / (21 / 40)) and 2 < record["low"] < record["value"]
    assert record["high"] is None  # beyond 4
    none = over_epsilon.minimal_epsilon(clean, np.ones((3, count)), labels, ids, EPSILONS, draws)
    assert none["value"] is None and "more than 4" in none["reason"]
    at_once = over_epsilon.minimal_epsilon(clean, -np.ones((3, count)), labels, ids, EPSILONS, draws)
    assert at_once["value"] is None and at_once["low"] is None and at_once["at_most"] == EPSILONS[0]


def test_measured_distances_give_the_median_itself_where_they_are_smaller_than_the_evaluated_epsilon():
    first = np.array([0, 0, 1, 2, 3, 3, -1])
    distance = np.array([0.11, np.inf, 1.5, 9.0, 7.5, np.inf, 0.3])
    minimal = minimal_distances.smallest(first, distance, EPSILONS)
    np.testing.assert_array_equal(minimal, [0.11, 1.0, 1.5, 4.0, 7.5, np.inf, np.nan])
    for weights in (np.ones(6), np.array([0, 3, 1, 0, 1, 2])):
        spread = np.repeat(minimal[:6], weights.astype(int))
        by_hand = np.quantile(np.where(np.isinf(spread), 99, spread), 0.5, method="inverted_cdf")
        assert minimal_distances.weighted_median(np.where(np.isinf(minimal[:6]), 99, minimal[:6]), weights[None])[0] == by_hand
    ids, draws = draws_of(7)
    clean, labels = np.where(first < 0, -1.0, 1), np.ones(7, int)
    adversarial = np.where((first >= 0) & (first <= np.arange(3)[:, None]), -1.0, 1)
    record = over_epsilon.minimal_epsilon(clean, adversarial, labels, ids, EPSILONS, draws, distance=distance)
    assert record["value"] == 1.5 and record["exact"] and record["among"] == 6 and record["low"] <= 1.5
    assert {(row["above"], row["up_to"]): row["count"] for row in record["bins"]} == {
        (0, 0.25): 1, (0.25, 0.5): 0, (0.5, 1): 1, (1, 2): 1, (2, 4): 1, (4, None): 2}
    none = over_epsilon.minimal_epsilon(-clean[:6], adversarial[:, :6], labels[:6], ids[:6], EPSILONS, draws, distance=distance[:6])
    assert none["value"] is None and none["among"] == 0 and [row["up_to"] for row in none["bins"]] == [row["up_to"] for row in record["bins"]]


def test_the_distances_reach_the_record_of_frames_and_not_of_videos():
    predictions = made_up_predictions(identities=12, frames=2)
    values = np.where(np.array(predictions.column("attack").to_pylist()) == "pgd", 0.03, np.nan)
    predictions = predictions.append_column("distance", pa.array(values, pa.float32(), from_pandas=True))
    tables = build_tables(predictions, {}, resamples=30, seed=0)
    frame, video = (find(tables["over_epsilon"], model="defended", level=level, group="fine")["minimal_epsilon"] for level in ("frame", "video"))
    assert frame["value"] == pytest.approx(0.03) and frame["bins"][0]["count"] == frame["among"] and "exact" not in video


def test_area_ends_at_16_or_at_what_was_measured():
    grid, values = np.array([0.0, 8, 32]), np.array([[1.0, 0.5, 0.2]])
    at_16 = 0.5 - 0.3 * 8 / 24
    assert over_epsilon.mean_up_to(grid, values, 16.0)[0] == pytest.approx((8 * 0.75 + 8 * (0.5 + at_16) / 2) / 16)
    assert over_epsilon.mean_up_to(grid[:2], values[:, :2], 8.0)[0] == pytest.approx(0.75)


def test_aurc_by_hand():
    # From the surest: right, wrong, right, right: risks 0, 1/2, 1/3, 1/4 at coverages 1/4, 1/2, 3/4, 1.
    logits, labels = np.array([4.0, 3.0, -2.0, 1.0]), np.array([1, 0, 0, 1])
    order = abstention.SurenessOrder(logits, labels)
    assert order.aurc(np.ones((1, 4)))[0] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert order.risk((0.25, 0.5, 0.7, 1.0)) == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    twice = abstention.SurenessOrder(np.repeat(logits, 2), np.repeat(labels, 2)).aurc(np.ones((1, 8)))[0]
    assert order.aurc(np.full((1, 4), 2.0))[0] == pytest.approx(twice)  # ties are answered together
    moved = abstention.SurenessOrder(logits + 10, labels, threshold=10.0)
    assert moved.aurc(np.ones((1, 4)))[0] == pytest.approx(order.aurc(np.ones((1, 4)))[0])


def test_tables_hold_them_for_the_worst_case():
    predictions = made_up_predictions(identities=12, frames=2)
    tables = build_tables(predictions, {}, resamples=30, seed=0)
    where = {"model": "defended", "level": "frame", "group": "fine"}
    record = find(tables["over_epsilon"], **where)
    assert record["attack"] == "worst" and record["mean_robust_auc"]["range"] == [0, 8]
    epsilons, aucs = [0.0], []
    for epsilon in (0.5, 1.0, 2.0, 4.0, 8.0):
        scores = frame_scores(with_worst_case(predictions), "defended", "worst", epsilon)
        scores = scores.select((scores.methods == "fine") | (scores.labels == 0))
        epsilons.append(epsilon)
        aucs += [] if aucs else [roc_auc_score(scores.labels, scores.clean)]
        aucs.append(roc_auc_score(scores.labels, scores.adversarial))
    assert record["mean_robust_auc"]["value"] == pytest.approx(np.trapezoid(aucs, epsilons) / 8)
    assert sum(row["count"] for row in record["minimal_epsilon"]["bins"]) == record["minimal_epsilon"]["among"]
    clean = find(tables["risk_coverage"], model="defended", level="frame", attack=None)
    whole = find(tables["clean"], model="defended", level="frame", group="all")
    assert clean["risk"][-1] == pytest.approx(1 - whole["at"]["zero"]["accuracy"]["value"])
    worst = {(row["level"], row["figure"]): row for row in worst_groups(tables, ["defended"], "pgd", 1.0)}
    rates = {group: find(tables["attacks"], model="defended", attack="pgd", epsilon=1.0, level="frame", group=group)["at"]["zero"]["fake_to_real"]["value"]
             for group in ("fine", "coarse", "blended")}
    assert worst["frame", "fake_to_real"]["value"] == max(rates.values()) and rates[worst["frame", "fake_to_real"]["group"]] == max(rates.values())
