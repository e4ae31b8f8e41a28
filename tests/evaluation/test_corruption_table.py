"""Mean, worst and clean AUC of the grid against scikit-learn, and its place on the page and in the event files."""

import re

import numpy as np
import pyarrow as pa
import pytest
from made_up import made_up_summary
from sklearn.metrics import roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_report import parsed

from robust.evaluation.corruption_table import CORRUPTION_SCHEMA, corruption_figures
from robust.evaluation.corruptions import KINDS, grid
from robust.evaluation.report import render
from robust.evaluation.tensorboard import write_tensorboard


def made_up_rows(*, models=("baseline", "defended"), severities=(1, 3, 5), fakes=True, seed=0):
    """Logits that noise swamps with severity; H.264 at severity 5 is the worst of the first model."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, model in enumerate(models):
        for cell in grid(severities):
            strength = 2.5 - 0.35 * cell.severity - (1.5 if cell.name == "h264" and not number else 0)
            for video in range(60):
                label = int(video % 2 and fakes)
                for frame in (0, 7):
                    logit = strength * (label - 0.5) + rng.normal()
                    rows.append((model, cell.name, cell.severity, f"d/{'fine' if label else 'real'}/{video}", frame, label,
                                 "fine" if label else "real", [f"d:{video // 2}"], logit))
    return pa.table([pa.array(column, field.type) for column, field in zip(zip(*rows), CORRUPTION_SCHEMA)], schema=CORRUPTION_SCHEMA)


@pytest.fixture(scope="module")
def rows():
    return made_up_rows()


@pytest.fixture(scope="module")
def figures(rows):
    return corruption_figures(rows, ["baseline", "defended"], resamples=50, seed=0)


def video_auc(rows, model, corruption, severity):
    frames = rows.to_pandas().query("model == @model and corruption == @corruption and severity == @severity")
    videos = frames.groupby("video_id").agg(label=("label", "first"), logit=("logit", "mean"))
    return roc_auc_score(videos.label, videos.logit)


def test_every_cell_is_the_video_auc_and_mean_and_worst_are_over_all_cells(rows, figures):
    assert figures["severities"] == [1, 3, 5] and (figures["videos"], figures["crops"]) == (60, 120)
    for row in figures["models"]:
        assert len(row["cells"]) == 36
        expected = [video_auc(rows, row["model"], cell["corruption"], cell["severity"]) for cell in row["cells"]]
        values = [cell["auc"]["value"] for cell in row["cells"]]
        np.testing.assert_allclose(values, expected, atol=1e-12)
        assert row["mean_auc"]["value"] == pytest.approx(np.mean(expected))
        assert row["worst_auc"]["value"] == pytest.approx(min(expected))
        assert row["clean_auc"]["value"] == pytest.approx(video_auc(rows, row["model"], "clean", 0))
        for figure in (row["clean_auc"], row["mean_auc"], *(cell["auc"] for cell in row["cells"])):
            assert figure["low"] <= figure["value"] <= figure["high"]
    assert figures["models"][0]["worst"] == {"corruption": "h264", "severity": 5}
    width = {name: figures["models"][0][name]["high"] - figures["models"][0][name]["low"] for name in ("mean_auc", "worst_auc")}
    assert width["mean_auc"] < width["worst_auc"]  # 36 noisy cells average out


def test_without_fakes_there_is_no_auc_and_a_reason():
    figures = corruption_figures(made_up_rows(models=("m",), severities=(1,), fakes=False), ["m"], resamples=10, seed=0)
    (row,) = figures["models"]
    assert row["worst"] is None
    assert all(figure["value"] is None and "needs both classes" in figure["reason"]
               for figure in (row["clean_auc"], row["mean_auc"], row["worst_auc"], row["cells"][0]["auc"]))
    parsed(render(made_up_summary(resamples=10, models=("m",), corruptions=figures)))


def test_the_page_has_each_cell_with_its_value(figures):
    page = render(made_up_summary(resamples=10, corruptions=figures))
    parsed(page)
    maps = re.findall(r'<table class="heat">(.*?)</table>', page, re.S)
    assert len(maps) == 2
    for row, table in zip(figures["models"], maps):
        shown = re.findall(r'--lost:(\d+)%".*?>([\d.]+)</td>', table)
        assert [value for _, value in shown] == [f"{100 * cell['auc']['value']:.1f}" for cell in row["cells"]]
        assert [int(lost) for lost, _ in shown] == [min(100, round(200 * (1 - cell["auc"]["value"]))) for cell in row["cells"]]
    assert "H.264, severity 5" in page and all(kind.title in page for kind in KINDS.values())
    assert "Everyday corruptions" not in render(made_up_summary(resamples=10))


def test_event_files_hold_the_grid(figures, tmp_path):
    write_tensorboard(tmp_path, made_up_summary(resamples=10, corruptions=figures))
    events = EventAccumulator(str(tmp_path / "defended"), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("corruption_auc/jpeg")] == [1, 3, 5]
    (mean,) = events.Scalars("corruptions/mean_auc")
    assert mean.value == pytest.approx(figures["models"][1]["mean_auc"]["value"])
