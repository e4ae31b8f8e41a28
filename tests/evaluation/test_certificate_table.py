"""Figures and curve of certificates, from crops whose radii are chosen by hand."""

import numpy as np
import pyarrow as pa
import pytest
from made_up import made_up_summary
from test_report import parsed

from robust.defenses.smoothing import Certified, Smoothing
from robust.evaluation.certificate_table import (
    CERTIFICATE_SCHEMA,
    as_certificates,
    certificate_charts,
    certificate_figures,
    certificate_rows,
)
from robust.evaluation.report import render

ITEMS = [Smoothing(16, 10, 200, 0.001), Smoothing(64, 10, 200, 0.001)]


def made_up_rows(model, item, verdicts, shares):
    """Eight videos of one crop, fakes first; `shares` of the largest radius."""
    labels = np.array([1] * 4 + [0] * 4, np.int8)
    crops = pa.table({"video_id": [f"demo/x/id{i}" for i in range(8)], "frame_index": pa.array([0] * 8, pa.int32()), "label": labels,
                      "method": ["fine"] * 4 + ["real"] * 4, "identities": [[f"demo:id{i}"] for i in range(8)]})
    certified = Certified(np.array(verdicts, np.int8), np.array(shares) * item.largest_radius)
    clean = np.where(labels == 1, 1.0, -1.0)
    return as_certificates(certificate_rows(crops, clean, np.full(8, 5), np.full(8, 100), certified), model, item)


@pytest.fixture(scope="module")
def figures():
    rows = pa.concat_tables([
        made_up_rows(model, item, verdicts, shares)
        for item in ITEMS
        for model, verdicts, shares in (
            ("baseline", [1, 1, 0, -1, 0, 0, 1, -1], [1, .51, .9, 0, 1, .26, .3, 0]), ("defended", [1] * 8, [.5] * 8))
    ])
    assert rows.schema.equals(CERTIFICATE_SCHEMA)
    return certificate_figures(rows, ["baseline", "defended"], ITEMS, resamples=50, seed=0)


def test_counts_are_those_of_the_right_verdicts_at_each_radius(figures):
    baseline, defended = figures["records"][:2]
    assert [(record["sigma"], record["model"]) for record in figures["records"]] == [
        (16, "baseline"), (16, "defended"), (64, "baseline"), (64, "defended")]
    hits = {group: [point[group]["hits"] for point in baseline["certified"]] for group in ("all", "fakes", "reals")}
    assert hits == {"all": [4] * 4 + [3] * 3 + [2] * 6, "fakes": [2] * 7 + [1] * 6, "reals": [2] * 4 + [1] * 9}
    assert baseline["certified"][0]["all"]["among"] == 8 and baseline["certified"][0]["fakes"]["among"] == 4
    assert baseline["certified"][-1]["radius"] == ITEMS[0].largest_radius
    assert (baseline["abstains"]["hits"], baseline["accuracy_without_noise"]["value"]) == (2, 1.0)
    assert baseline["mean_radius"] == pytest.approx(ITEMS[0].largest_radius * 2.77 / 8)
    assert defended["certified"][0]["reals"]["value"] == 0 and defended["certified"][0]["fakes"]["value"] == 1
    assert figures["crops"] == 8 and baseline["certified"][0]["all"]["low"] < 0.5 < baseline["certified"][0]["all"]["high"]


def test_the_report_has_the_curves_only_where_something_was_certified(figures):
    assert made_up_summary(resamples=10)["smoothing"] is None and certificate_charts(None) == []
    assert "Certified" not in render(made_up_summary(resamples=10))
    page = render(made_up_summary(resamples=10, smoothing=figures))
    parsed(page)
    section = page[page.index("<h2>Certified radius"):]
    section = section[:section.index("</section>")]
    assert section.count("<svg") == 2 and "sigma 64" in section and "L2 radius, 0-255 units" in section
    largest = ITEMS[0].largest_radius
    assert f"{largest:.1f} · {largest / 255:.3f}" in section
    assert section.count('class="line s0"') == 2 and "epsilon" not in section
