"""The page of a search: front, parallel coordinates and importance say what its result says, from one file."""

import random
import re
from xml.etree import ElementTree

import pytest

from robust.evaluation.importance import FEWEST_TRIALS, importances
from robust.evaluation.trial_charts import Axis, Dot, front_chart, importance_chart, parallel_chart
from robust.evaluation.trials_page import trials_page

SVG = "{http://www.w3.org/2000/svg}"


def of_kind(svg, tag, css):
    return [node for node in ElementTree.fromstring(svg).iter(tag) if css in node.get("class", "").split()]


def test_the_front_is_drawn_to_scale_and_a_dear_trial_is_a_large_dot():
    dots = [Dot("a", "other", 0.8, 0.2, 1.0), Dot("b", "winner", 0.9, 0.4, 2.0), Dot("c", "front", 1.0, 0.6, 5.0)]
    svg = front_chart(dots, x_label="clean", y_label="robust")
    a, b, c = (of_kind(svg, "circle", kind)[0] for kind in ("other", "winner", "front"))
    x, y, r = ([float(node.get(name)) for node in (a, b, c)] for name in ("cx", "cy", "r"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11) and x[0] < x[1]  # equal steps to the right
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.11) and y[0] > y[1]  # and up
    # Areas follow the cost: (2 - 1) / (5 - 1).
    assert (r[1] ** 2 - r[0] ** 2) / (r[2] ** 2 - r[0] ** 2) == pytest.approx(1 / 4, abs=0.02)


def test_a_line_passes_each_axis_where_its_value_is():
    axes = [Axis("epsilon", (1.0, 10.0, 100.0), logarithmic=True), Axis("recipe", ("madry", "fast", "madry")),
            Axis("AUC", (0.0, 0.5, 1.0))]
    svg = parallel_chart(axes, ["other", "winner", "front"], ["a", "b", "c"])
    points = {kind: [tuple(map(float, pair.split(","))) for pair in of_kind(svg, "polyline", kind)[0].get("points").split()]
              for kind in ("other", "winner", "front")}
    epsilon, recipe, auc = ([points[kind][place][1] for kind in ("other", "winner", "front")] for place in range(3))
    assert epsilon[1] == pytest.approx((epsilon[0] + epsilon[2]) / 2) and epsilon[0] > epsilon[2]  # 10 is midway from 1 to 100
    assert recipe[0] == recipe[2] != recipe[1] and auc[1] == pytest.approx((auc[0] + auc[2]) / 2)


def test_the_bars_are_as_long_as_the_shares():
    svg = importance_chart({"robust AUC": {"epsilon": 0.75, "steps": 0.25}}, {"epsilon": "epsilon", "steps": "steps"})
    long, short = [float(node.get("width")) for node in ElementTree.fromstring(svg).iter("rect")]
    assert long == pytest.approx(3 * short, abs=0.2)


def test_importance_finds_what_the_figure_was_made_of():
    draw = random.Random(1)
    choices = {"steps": [1, 2, 5], "recipe": ["madry", "fast"], "fixed": [1]}
    settings = [{"epsilon": 0.25 * 32 ** draw.random(), **{name: draw.choice(of) for name, of in choices.items()}}
                for _ in range(40)]
    alone = importances(settings, [trial["epsilon"] for trial in settings], seed=0)
    assert list(alone)[0] == "epsilon" and alone["epsilon"] > 0.9
    assert sum(alone.values()) == pytest.approx(1) and "fixed" not in alone
    # A sum of two independent parts of variances 4 : 1.
    both = importances(settings, [(trial["recipe"] == "fast") * 2 + (trial["steps"] == 5) * 1.06 for trial in settings], seed=0)
    assert both["recipe"] == pytest.approx(0.8, abs=0.08) and both["steps"] == pytest.approx(0.2, abs=0.08)


def test_importance_of_too_few_trials_or_of_nothing_is_none():
    settings = [{"epsilon": float(index)} for index in range(FEWEST_TRIALS)]
    values = [trial["epsilon"] for trial in settings]
    assert importances(settings, values, seed=0) == {"epsilon": 1.0}
    assert importances(settings[1:], values[1:], seed=0) is None and importances([], [], seed=0) is None
    assert importances(settings, [1.0] * FEWEST_TRIALS, seed=0) is None
    assert importances([{"epsilon": 1.0}] * 9, [float(index) for index in range(9)], seed=0) is None


def row(name, auc, robust, **settings):
    settings = {"epsilon": 1.0, "steps": 2, "lipschitz_weight": 0.0, **settings}
    status = {"status": "done", "error": None} if auc else {"status": "error", "error": "<b>lost</b>"}
    return {"trial": name, "settings": settings, "auc": auc, "robust_auc": robust, "attack_success": robust, "epochs": 3,
            "cost": 0.5 if auc else None, **status}


def result(rows, winner, front, **more):
    threat = {"epsilon": 1.0, "steps": 10}
    return {"trials": rows, "front": front, "winner": winner, "importance": None, "threat": threat, "not_run": 0, "device": "CPU",
            "device_hours": 1.5, "clean_tolerance": 0.03, "summary": "it is done", **more}


def test_the_page_shows_every_trial_and_asks_for_nothing():
    rows = [row(name, auc, robust, recipe=recipe) for name, auc, robust, recipe in
            (("a", 0.9, 0.5, "madry"), ("b", 0.8, 0.6, "fast"), ("c", 0.7, 0.4, "fast"), ("d", None, None, "fast"))]
    page = trials_page(result(rows, rows[0], ["a", "b"], not_run=3))
    assert len(re.findall(r"<tr class=", page)) == 4 and page.count('<circle') == 3 and page.count("<polyline") == 3
    assert [page.count(f'class="trial {kind}"') for kind in ("winner", "front", "other")] == [1, 1, 1]
    assert "&lt;b&gt;lost" in page and "<b>lost" not in page
    assert "1.5 CPU-hours; 3 of 7 were not run" in page and "It is done." in page and "it takes 8 finished trials" in page
    assert not re.search(r"""(src|href|srcset|action)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)|<script""", page)


def test_the_page_of_a_single_trial_has_its_charts():
    only = row("a", 0.9, 0.5)
    page = trials_page(result([only], only, ["a"], importance={"robust_auc": {"epsilon": 1.0}}))
    assert page.count("<polyline") == 1 and page.count("<rect") == 1 and "functional ANOVA" in page
