"""What watching takes of a summary: the charts of TensorBoard's first page, and the last metrics of an evaluation."""

import re

from made_up import plain_summary
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from cluster.monitoring import event_files
from jobs import telemetry
from jobs.train import _log
from jobs.tune import reported
from robust.evaluation.tensorboard import scalars
from robust.monitoring.tensorboard_layout import CHARTS
from robust.training.loop import EpochFigures


def test_the_layout_is_read_by_tensorboard_and_names_tags_that_are_written(tmp_path):
    class Tags(list):
        def scalars(self, values, step):
            self.extend(values)

        def flush(self):
            pass

    scores = {"auc": 1.0, "robust_auc": 1.0, "attack_success": 0.0}
    figures = EpochFigures(0, 1, {"total": 1.0, "crops": 1.0}, 0.1, 1.0, 1.0, 1.0, 0.0,
                           probe={"probe_before": 1.0, "probe_after": 1.0, "collapsed": 0.0})
    tags = Tags(f"ray/tune/{name}" for name in reported(1, figures, scores, 0.1))
    _log(tags, 1, figures, scores)
    tags += [tag for tag, _, _ in scalars(plain_summary(), "defended")]
    for charts in CHARTS.values():
        for title, expressions in charts.items():
            for expression in expressions:
                assert any(re.search(expression, tag) for tag in tags), (title, expression, sorted(set(tags))[:60])
    event_files.write_layout(tmp_path)
    read = EventAccumulator(str(tmp_path / "layout")).Reload()
    layout = layout_pb2.Layout.FromString(read.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert {category.title: [chart.title for chart in category.chart] for category in layout.category} == {
        title: list(charts) for title, charts in CHARTS.items()}


def test_the_figures_of_a_report_become_metrics(monkeypatch):
    told = {}
    monkeypatch.setattr(telemetry, "show", lambda name, value, run, model: told.update({(name, run, model): value}))
    summary = plain_summary()
    telemetry.evaluated(summary)
    names = [model["name"] for model in summary["models"]]
    figures = ("evaluate_auc", "evaluate_robust_auc", "evaluate_attack_success")
    assert set(told) == {(figure, "made-up", model) for figure in figures for model in names}
    for model in names:
        assert told["evaluate_attack_success", "made-up", model] == summary["headline"]["models"][model]["value"]
        clean, = (one for one in summary["clean"] if (one["model"], one["level"], one["group"]) == (model, "video", "all"))
        assert told["evaluate_auc", "made-up", model] == clean["auc"]["value"]


def test_epsilons_that_are_near_each_other_have_steps_of_their_own():
    def at(*epsilons):
        summary = dict(plain_summary())
        under = [one for one in summary["under_attack"] if one["epsilon"] == summary["under_attack"][0]["epsilon"]]
        summary["under_attack"] = [{**one, "epsilon": epsilon} for epsilon in epsilons for one in under]
        return [(tag, step) for tag, step, _ in scalars(summary, "defended") if tag.startswith("fake_to_real/")]

    found = at(0.2, 0.25)
    assert {step for _, step in found} == {20, 25} and len(found) == len(set(found)) == 2 * len(at(0.2))
