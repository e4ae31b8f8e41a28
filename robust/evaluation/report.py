"""report/index.html: one self-contained page, made from summary.json and the gallery alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from robust.evaluation.bars import bar_chart
from robust.evaluation.certificate_table import certificate_charts
from robust.evaluation.codec_table import attacks_of, survival_charts, survival_style
from robust.evaluation.gallery import GAIN, Strip
from robust.evaluation.pages import style, template, webp_uri
from robust.evaluation.plots import Point, Series, line_chart
from robust.evaluation.summary import find
from robust.evaluation.universal_table import Picture

CURVES = (
    ("fake_to_real", "Attack success, fake → real", "lower is better"),
    ("robust_accuracy", "Robust accuracy", "higher is better"),
    ("robust_auc", "Robust AUC", "higher is better"),
)


def render(summary: Mapping, strips: Sequence[Strip] = (), patterns: Sequence[Picture] = ()) -> str:
    """The page as HTML that refers to nothing outside itself.

    Args:
        summary: from `summary.build_summary`, or read back from summary.json.
        strips: the gallery; may be empty.
        patterns: pictures of universal perturbations; may be empty.
    """
    page = template("report.html", percent=percent, share=share, number=number, image=webp_uri, pretty=pretty)
    single_frames = all(count[f"{kind}_frames"] == count[f"{kind}_videos"]
                        for count in summary["counts"] for kind in ("fake", "real"))
    return page.render(
        summary=summary,
        style=style(),
        names=[model["name"] for model in summary["models"]],
        groups=_groups(summary, without="real"),
        sources=_groups(summary, without="fake"),
        headline_attack=find(summary["attacks"], attack=summary["shown"]["attack"]),
        charts=_charts(summary, ("frame",) if single_frames else ("frame", "video")),
        single_frames=single_frames,
        certificate_charts=certificate_charts(summary.get("smoothing")),
        histogram=_histogram(summary),
        risks=_risk_charts(summary),
        over=_lookup(summary["over_epsilon"], "model", "level", "group"),
        worst=_lookup(summary["worst_groups"], "model", "level", "figure"),
        failed=[gate for gate in summary["gates"] if not gate["passed"]],
        strips=strips,
        patterns=patterns,
        survival_charts=survival_charts(summary.get("codec"), [model["name"] for model in summary["models"]]),
        survival_style=survival_style,
        attacks_of=attacks_of,
        gain=GAIN,
        clean=_lookup(summary["clean"], "model", "level", "group"),
        corruption_titles={kind["name"]: kind["title"] for kind in (summary.get("corruptions") or {"kinds": []})["kinds"]},
        attacked=_lookup(summary["under_attack"], "model", "attack", "epsilon", "level", "group"),
    )


def percent(figure: Mapping | None, digits: int = 1) -> str:
    """A share as a percentage, a dash if there is none."""
    return "–" if not figure or figure["value"] is None else f"{100 * figure['value']:.{digits}f}"


def share(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def pretty(value) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _groups(summary: Mapping, *, without: str) -> list[dict]:
    """Groups that have rows in a table: all, data sets, and manipulation methods or the sources of reals."""
    return [dict(count) for count in summary["counts"] if count["kind"] != without]


def _lookup(records: Sequence[Mapping], *keys: str) -> dict:
    return {tuple(record[key] for key in keys): record for record in records}


def _charts(summary: Mapping, levels: Sequence[str]) -> list[dict]:
    """One chart for each level and figure, all models in it, under the attack of the headline."""
    attack = summary["shown"]["attack"]
    charts = []
    for level in levels:
        for figure, title, direction in CURVES:
            series = [
                Series(model["name"], index, _points(summary, model["name"], attack, level, figure))
                for index, model in enumerate(summary["models"])
            ]
            svg = line_chart(series, ticks=[0, *summary["epsilons"]], title=f"{title} over epsilon, {level}s")
            charts.append({"level": level, "title": title, "direction": direction, "svg": Markup(svg)})
    return charts


def _points(summary: Mapping, model: str, attack: str, level: str, figure: str) -> tuple[Point, ...]:
    where = {"model": model, "level": level, "group": "all"}
    clean = find(summary["clean"], **where)
    start = {"fake_to_real": {"value": 0.0}, "robust_accuracy": clean["at"]["zero"]["accuracy"], "robust_auc": clean["auc"]}
    points = [_point(0.0, start[figure])]
    for epsilon in summary["epsilons"]:
        record = find(summary["under_attack"], attack=attack, epsilon=epsilon, **where)
        points.append(_point(epsilon, record["robust_auc"] if figure == "robust_auc" else record["at"]["zero"][figure]))
    return tuple(point for point in points if point is not None)


def _point(epsilon: float, figure: Mapping) -> Point | None:
    if figure["value"] is None:
        return None
    return Point(epsilon, figure["value"], figure.get("low"), figure.get("high"))


def _histogram(summary: Mapping) -> Markup:
    """Share of each model's caught fakes, frames, by the smallest epsilon that turns them."""
    found = [find(summary["over_epsilon"], model=model["name"], level="frame", group="all")["minimal_epsilon"] for model in summary["models"]]
    at_most, x_label = "≤ ", "smallest epsilon that turns it"
    if "exact" in found[0]:  # more bins, less room
        at_most, x_label = "", f"{x_label}, at most"
    labels = [f"> {row['above']:g}" if row["up_to"] is None else f"{at_most}{row['up_to']:g}" for row in found[0]["bins"]]
    series = [(model["name"], index, [row["count"] / max(1, minimal["among"]) for row in minimal["bins"]])
              for index, (model, minimal) in enumerate(zip(summary["models"], found, strict=True))]
    return Markup(bar_chart(labels, series, title="Minimal epsilon of the caught fakes, frames", x_label=x_label))


def _risk_charts(summary: Mapping) -> list[dict]:
    """Error over coverage, frames, without an attack and under that of the headline."""
    charts = []
    for title, attack, epsilon in (("no attack", None, 0.0), ("under the attack", summary["shown"]["attack"], summary["shown"]["epsilon"])):
        series = []
        for index, model in enumerate(summary["models"]):
            curve = find(summary["risk_coverage"], model=model["name"], level="frame", attack=attack, epsilon=epsilon)
            points = zip((100 * share for share in curve["coverage"]), curve["risk"], strict=True)
            series.append(Series(model["name"], index, tuple(Point(x, y) for x, y in points)))
        svg = line_chart(series, ticks=[0, 25, 50, 75, 100], title=f"Error over coverage, frames, {title}",
                         x_label="answered, % (the surest first)", power=1, dots=False)
        charts.append({"title": title, "svg": Markup(svg)})
    return charts
