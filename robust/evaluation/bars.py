"""A histogram as inline SVG, in the same frame and colours as the line charts."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from robust.evaluation.plots import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, horizontal_grid, share_to_y, text


def bar_chart(labels: Sequence[str], series: Sequence[tuple[str, int, Sequence[float | None]]], *, title: str, x_label: str) -> str:
    """Bars side by side.

    Args:
        labels: of the bins, left to right.
        series: (name, number of its colour, a share in [0, 1] for each bin, None: no bar).
        title: for people who cannot see the chart.
    Returns:
        one <svg> element.
    """
    svg = ElementTree.Element("svg", {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "class": "chart"})
    ElementTree.SubElement(svg, "title").text = title
    horizontal_grid(svg)
    slot = (WIDTH - LEFT - RIGHT) / len(labels)
    width = 0.8 * slot / max(1, len(series))
    for place, label in enumerate(labels):
        text(svg, LEFT + (place + 0.5) * slot, HEIGHT - BOTTOM + 15, label, "middle")
        for index, (name, style, shares) in enumerate(series):
            if shares[place] is None:
                continue
            y = share_to_y(shares[place])
            attributes = {"x": f"{LEFT + (place + 0.1) * slot + index * width:.1f}", "y": f"{y}", "width": f"{max(1, width - 1):.1f}",
                          "height": f"{share_to_y(0) - y:.1f}", "class": f"bar s{style}"}
            bar = ElementTree.SubElement(svg, "rect", attributes)
            ElementTree.SubElement(bar, "title").text = f"{name}, {label}: {100 * shares[place]:.1f} %"
    text(svg, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle")
    return ElementTree.tostring(svg, encoding="unicode")
