"""Charts of a search as inline SVG, in the colours of the page's style sheet."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from robust.evaluation.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, text

FRONT, OTHER, WINNER = "front", "other", "winner"
"""Classes of a trial: one that no other beats, one that some other beats, the one that was chosen."""
SMALLEST, LARGEST = 2.5, 9.0
"""Radii of the dots of the cheapest and the dearest trial."""
STRIDE, TALL, EDGE = 104, 260, 56
"""Of parallel coordinates: between two axes, height, and margin left and right."""
BAR, FIRST_COLOUR = 8, 2
"""Of the importances: height of a bar, and the first colour, behind those of winner and front."""


@dataclasses.dataclass(frozen=True)
class Dot:
    """A finished trial; cost in seconds a step."""

    name: str
    kind: str
    auc: float
    robust_auc: float
    cost: float


@dataclasses.dataclass(frozen=True)
class Axis:
    """A column of parallel coordinates and what each trial has there; None: nothing."""

    name: str
    values: tuple[float | str | None, ...]
    logarithmic: bool = False


def front_chart(dots: Sequence[Dot], *, x_label: str, y_label: str) -> str:
    """Robust against clean AUC; the area of a dot grows with its cost, so the front may pass through large dots only."""
    svg = _svg(WIDTH, HEIGHT, "robust against clean AUC of each trial")
    xs, ys = _range([dot.auc for dot in dots]), _range([dot.robust_auc for dot in dots])
    for tick in _ticks(*ys):
        y = _between(tick, ys, HEIGHT - BOTTOM, TOP)
        _rule(svg, LEFT, y, WIDTH - RIGHT, y)
        text(svg, LEFT - 6, y + 3.5, _short(tick), "end")
    for tick in _ticks(*xs):
        text(svg, _between(tick, xs, LEFT, WIDTH - RIGHT), HEIGHT - BOTTOM + 15, _short(tick), "middle")
    text(svg, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle")
    text(svg, 2, TOP - 3, y_label, "start")
    costs = [dot.cost for dot in dots]
    order = {OTHER: 0, FRONT: 1, WINNER: 2}
    for dot in sorted(dots, key=lambda dot: (order[dot.kind], -dot.cost)):  # what matters on top, small ones before large
        x, y = _between(dot.auc, xs, LEFT, WIDTH - RIGHT), _between(dot.robust_auc, ys, HEIGHT - BOTTOM, TOP)
        round_it = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{_radius(dot.cost, costs):.1f}"}
        circle = ElementTree.SubElement(svg, "circle", {**round_it, "class": f"trial {dot.kind}"})
        told = f"{dot.name}: AUC {dot.auc:.3f} clean, {dot.robust_auc:.3f} under attack, {dot.cost:.3g} s a step"
        ElementTree.SubElement(circle, "title").text = told
    return ElementTree.tostring(svg, encoding="unicode")


def parallel_chart(axes: Sequence[Axis], kinds: Sequence[str], names: Sequence[str]) -> str:
    """A line a trial through its settings and what it reached.

    Args:
        kinds, names: of the trials, in the order of the axes' values.
    """
    width = 2 * EDGE + STRIDE * (len(axes) - 1)
    svg = _svg(width, TALL, "settings and figures of each trial, one line a trial")
    heights = [[_height(axis, value) for value in axis.values] for axis in axes]
    for place, axis in enumerate(axes):
        x = EDGE + place * STRIDE
        _rule(svg, x, TOP + 22, x, TALL - 22)
        text(svg, x, TOP, axis.name, "middle")
    order = {OTHER: 0, FRONT: 1, WINNER: 2}
    for trial in sorted(range(len(kinds)), key=lambda trial: order[kinds[trial]]):
        corners = [(EDGE + place * STRIDE, column[trial]) for place, column in enumerate(heights) if column[trial] is not None]
        points = " ".join(f"{x},{y:.1f}" for x, y in corners)
        line = ElementTree.SubElement(svg, "polyline", {"points": points, "class": f"path {kinds[trial]}"})
        ElementTree.SubElement(line, "title").text = names[trial]
    for place, axis in enumerate(axes):  # over the lines
        for label, y in _marks(axis):
            text(svg, EDGE + place * STRIDE + 5, y + 3.5, label, "start")
    svg.set("style", f"min-width: {width}px; max-width: {1.6 * width:.0f}px")  # to be read on a phone, too, where it scrolls
    return ElementTree.tostring(svg, encoding="unicode")


def importance_chart(shares: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> str:
    """Horizontal bars, a group for each setting and a bar for each figure.

    Args:
        shares: figure -> setting -> share in [0, 1].
        names: what stands at a setting.
    """
    settings = list(next(iter(shares.values())))
    row = BAR * len(shares) + 10
    left, height = 92, TOP + row * len(settings) + 22
    svg = _svg(WIDTH, height, "share of the variance that each setting explains")
    for percent in (0, 50, 100):
        x = _between(percent, (0, 100), left, WIDTH - RIGHT - 24)
        _rule(svg, x, TOP, x, height - 22)
        text(svg, x, height - 8, f"{percent} %" if percent == 100 else str(percent), "middle")
    for place, setting in enumerate(settings):
        top = TOP + place * row + 5
        text(svg, left - 8, top + BAR * len(shares) / 2 + 3, names[setting], "end")
        for index, (figure, of) in enumerate(shares.items()):
            length = _between(of[setting], (0, 1), 0, WIDTH - RIGHT - 24 - left)
            place_of_bar = {"x": str(left), "y": str(top + BAR * index), "width": f"{max(1, length):.1f}", "height": str(BAR - 1)}
            bar = ElementTree.SubElement(svg, "rect", {**place_of_bar, "class": f"bar s{FIRST_COLOUR + index}"})
            ElementTree.SubElement(bar, "title").text = f"{names[setting]}, {figure}: {100 * of[setting]:.0f} %"
    return ElementTree.tostring(svg, encoding="unicode")


def _svg(width: float, height: float, title: str):
    svg = ElementTree.Element("svg", {"viewBox": f"0 0 {width} {height}", "role": "img", "class": "chart"})
    ElementTree.SubElement(svg, "title").text = title
    return svg


def _rule(svg, x1: float, y1: float, x2: float, y2: float) -> None:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    ElementTree.SubElement(svg, "line", {**{name: f"{place:.1f}" for name, place in ends.items()}, "class": "grid"})


def _range(values: Sequence[float]) -> tuple[float, float]:
    """What an axis shows: all values and a little more."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05
    return low - margin, high + margin


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round shares in between: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    within = range(math.ceil(max(low, 0) / step), math.floor(min(high, 1) / step + 1e-9) + 1)
    return [step * index for index in within]


def _between(value: float, source: tuple[float, float], start: float, end: float) -> float:
    return start + (end - start) * (value - source[0]) / (source[1] - source[0])


def _radius(cost: float, costs: Sequence[float]) -> float:
    low, high = min(costs), max(costs)
    share = 0.0 if high == low else (cost - low) / (high - low)
    return math.sqrt(SMALLEST**2 + share * (LARGEST**2 - SMALLEST**2))


def _height(axis: Axis, value: float | str | None) -> float | None:
    """Where a value stands on an axis, pixels from the top."""
    if value is None:
        return None
    kinds = _kinds(axis)
    if kinds:
        place, source = kinds.index(value), (0, len(kinds) - 1)
    else:
        present = [v for v in axis.values if v is not None]
        scale = math.log if axis.logarithmic else float
        place, source = scale(value), (scale(min(present)), scale(max(present)))
    if source[0] == source[1]:
        return TALL / 2
    return _between(place, source, TALL - 30, TOP + 30)


def _kinds(axis: Axis) -> list[str]:
    """The names on an axis of names, else nothing."""
    return sorted({value for value in axis.values if isinstance(value, str)})


def _marks(axis: Axis) -> list[tuple[str, float]]:
    """(text, place) at an axis: every name, or the ends of the range."""
    present = [value for value in axis.values if value is not None]
    marked = _kinds(axis) or sorted({min(present), max(present)})
    return [(value if isinstance(value, str) else _short(value), _height(axis, value)) for value in marked]


def _short(value: float) -> str:
    return f"{value:.3g}"
