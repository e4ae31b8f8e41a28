"""Tables from predictions: the right samples in each row, figures held to the metrics, nulls with a reason."""

import numpy as np
import pyarrow as pa
import pytest
from made_up import made_up_predictions
from sklearn.metrics import roc_auc_score

from robust.evaluation import metrics
from robust.evaluation.predictions import PREDICTION_SCHEMA, frame_scores
from robust.evaluation.protocol import build_tables, groups_of
from robust.evaluation.summary import find

THRESHOLDS = {"baseline": {"video": 0.8, "frame": 1.4}, "defended": {"video": 0.8}}


@pytest.fixture(scope="module")
def predictions():
    return made_up_predictions(identities=12, frames=3)


@pytest.fixture(scope="module")
def tables(predictions):
    return build_tables(predictions, THRESHOLDS, resamples=50, seed=0)


def test_a_row_for_each_model_level_and_group_and_under_attack_for_each_cell(tables):
    groups = ["all", "blended", "coarse", "fine", "Celeb-real"]
    assert [record["group"] for record in tables["clean"][:5]] == groups
    assert len(tables["clean"]) == 2 * 2 * 5
    assert len(tables["attacks"]) == 2 * 2 * 5 * 15  # two attacks and the worst case, five epsilons each
    assert [count["group"] for count in tables["counts"]] == groups


def test_a_methods_row_sets_its_fakes_against_the_real_videos(predictions, tables):
    frames = frame_scores(predictions, "defended", "pgd", 4.0)
    chosen = (frames.methods == "fine") | (frames.labels == 0)
    record = find(tables["attacks"], model="defended", attack="pgd", epsilon=4.0, level="frame", group="fine")
    assert record["robust_auc"]["value"] == pytest.approx(roc_auc_score(frames.labels[chosen], frames.adversarial[chosen]))
    fine = frames.methods == "fine"
    success = record["at"]["zero"]["fake_to_real"]
    assert success["value"] == np.mean(frames.adversarial[fine & (frames.clean > 0)] <= 0)
    assert success["among"] == (fine & (frames.clean > 0)).sum()


def test_video_rows_use_mean_logits_and_the_videos_threshold(predictions, tables):
    videos = frame_scores(predictions, "baseline", "fgsm", 0.5).videos()
    record = find(tables["attacks"], model="baseline", attack="fgsm", epsilon=0.5, level="video", group="all")
    expected = metrics.fake_to_real(videos.clean, videos.adversarial, videos.labels, threshold=0.8).value()
    assert record["at"]["frozen"]["threshold"] == 0.8
    assert record["at"]["frozen"]["fake_to_real"]["value"] == expected
    frames = find(tables["attacks"], model="baseline", attack="fgsm", epsilon=0.5, level="frame", group="all")
    assert frames["at"]["frozen"]["threshold"] == 1.4


def test_every_figure_has_an_interval_around_it_or_a_reason(tables):
    figures = []

    def walk(node):
        if isinstance(node, dict) and "value" in node:
            figures.append(node)
        elif isinstance(node, dict):
            for child in node.values():
                walk(child)

    for record in tables["clean"] + tables["attacks"]:
        walk(record)
    assert len(figures) > 1000
    for figure in figures:
        if figure["value"] is None:
            assert figure["reason"]
        else:
            assert figure["low"] - 1e-9 <= figure["value"] <= figure["high"] + 1e-9 or figure["high"] - figure["low"] > 0


def test_a_missing_threshold_and_a_missing_class_are_null_with_a_reason(tables):
    record = find(tables["clean"], model="defended", level="frame", group="all")
    assert record["at"]["frozen"]["accuracy"]["value"] is None
    assert "card" in record["at"]["frozen"]["accuracy"]["reason"]
    reals = find(tables["clean"], model="defended", level="frame", group="Celeb-real")
    assert reals["auc"]["value"] is None and "only reals" in reals["auc"]["reason"]
    assert reals["at"]["zero"]["fpr"]["value"] is not None


def test_with_two_data_sets_a_method_meets_the_reals_of_its_own():
    rows = []
    for dataset in ("a", "b"):
        for index in range(4):
            rows.append(("m", "pgd", 1.0, f"{dataset}/real/{index}", 0, 0, "real", [f"{dataset}:{index}"], -1.0, 1.0))
            rows.append(("m", "pgd", 1.0, f"{dataset}/swap/{index}", 0, 1, "swap", [f"{dataset}:{index}"], 1.0, -1.0))
    columns = zip(*rows, strict=True)
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, PREDICTION_SCHEMA)], schema=PREDICTION_SCHEMA)
    scores = frame_scores(table, "m", "pgd", 1.0)
    names = [group.name for group in groups_of(scores)]
    assert names == ["all", "a", "b", "a/swap", "b/swap", "a/real", "b/real"]
    swap = scores.select(groups_of(scores)[3].mask(scores))
    assert set(swap.datasets) == {"a"} and sorted(swap.labels) == [0] * 4 + [1] * 4
    counts = build_tables(table, {}, resamples=10, seed=0)["counts"]
    assert counts[0] == {"group": "all", "kind": "all", "fake_videos": 8, "real_videos": 8, "fake_frames": 8, "real_frames": 8}


def test_the_same_predictions_give_the_same_tables(predictions, tables):
    again = build_tables(predictions, THRESHOLDS, resamples=50, seed=0)
    assert again == tables
