"""Charts as inline SVG: text stays text, colours come from the page's style sheet, so light, dark and print all work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

WIDTH, HEIGHT = 320, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 12, 38


@dataclasses.dataclass(frozen=True)
class Point:
    """One measured value and its interval, all shares in [0, 1]; `low` None: no interval."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Series:
    """A named line; `style` numbers its colour, the same for a model in every chart."""

    name: str
    style: int
    points: tuple[Point, ...]


def line_chart(
    series: Sequence[Series], *, ticks: Sequence[float], title: str, x_label: str = "epsilon", power: float = 0.5, dots: bool = True,
    names: Mapping[float, str] | None = None,
) -> str:
    """Shares over epsilon, with bands for the intervals.

    The axis of epsilon is drawn as its square root: the budgets double from one to the next, and 0 must be on it.

    Args:
        ticks: epsilons to label.
        power: of the axis; 1 for anything but epsilon.
        dots: one at each point.
        names: what stands at a tick instead of its number, where the axis is of kinds and not of numbers.
        title: for people who cannot see the chart.
    Returns:
        one <svg> element.
    """
    largest = max(max(ticks), 1e-9)
    svg = ElementTree.Element("svg", {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "class": "chart"})
    ElementTree.SubElement(svg, "title").text = title
    names = names or {tick: f"{tick:g}" for tick in ticks}
    _grid(svg, ticks, largest, x_label, power, names)
    for line in series:
        _band(svg, line, largest, power)
    for line in series:
        _line(svg, line, largest, power, dots, x_label, names)
    return ElementTree.tostring(svg, encoding="unicode")


def _x(epsilon: float, largest: float, power: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (epsilon / largest) ** power, 1)


def share_to_y(share: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - share), 1)


def horizontal_grid(svg) -> None:
    """Lines and labels at 0 to 100 %."""
    for percent in (0, 25, 50, 75, 100):
        y = str(share_to_y(percent / 100))
        attributes = {"x1": str(LEFT), "x2": str(WIDTH - RIGHT), "y1": y, "y2": y, "class": "grid"}
        ElementTree.SubElement(svg, "line", attributes)
        text(svg, LEFT - 6, float(y) + 3.5, str(percent), "end")
    text(svg, 2, TOP - 2, "%", "start")


def _grid(svg, ticks: Sequence[float], largest: float, x_label: str, power: float, names: Mapping[float, str]) -> None:
    horizontal_grid(svg)
    for tick in ticks:
        text(svg, _x(tick, largest, power), HEIGHT - BOTTOM + 15, names[tick], "middle")
    text(svg, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle")


def text(svg, x: float, y: float, content: str, anchor: str) -> None:
    ElementTree.SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}).text = content


def _band(svg, line: Series, largest: float, power: float) -> None:
    points = [point for point in line.points if point.low is not None]
    if len(points) < 2:
        return
    upper = [f"{_x(point.x, largest, power)},{share_to_y(point.high)}" for point in points]
    lower = [f"{_x(point.x, largest, power)},{share_to_y(point.low)}" for point in reversed(points)]
    ElementTree.SubElement(svg, "polygon", {"points": " ".join(upper + lower), "class": f"band s{line.style}"})


def _line(svg, line: Series, largest: float, power: float, dots: bool, x_label: str, names: Mapping[float, str]) -> None:
    corners = [(_x(point.x, largest, power), share_to_y(point.y)) for point in line.points]
    if not corners:
        return
    attributes = {"points": " ".join(f"{x},{y}" for x, y in corners), "class": f"line s{line.style}"}
    ElementTree.SubElement(svg, "polyline", attributes)
    if not dots:
        return
    for (x, y), point in zip(corners, line.points, strict=True):
        attributes = {"cx": str(x), "cy": str(y), "r": "3", "class": f"dot s{line.style}"}
        interval = "" if point.low is None else f" [{100 * point.low:.1f}, {100 * point.high:.1f}]"
        dot = ElementTree.SubElement(svg, "circle", attributes)
        ElementTree.SubElement(dot, "title").text = f"{line.name}, {x_label} {names.get(point.x, f'{point.x:g}')}: {100 * point.y:.1f} %{interval}"
