"""From certified crops to figures: the share that no attack can turn, over the L2 radius, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robust.defenses.smoothing import ABSTAINS, Certified, Smoothing
from robust.evaluation import blocks, bootstrap
from robust.evaluation.bootstrap import Resamples
from robust.evaluation.metrics import Share
from robust.evaluation.plots import Point, Series, line_chart
from robust.evaluation.predictions import identities_of_videos
from robust.evaluation.protocol import share_figure

POINTS = 13
"""Radii of a curve, from 0 to the largest that the votes can certify."""

CERTIFICATE_SCHEMA = pa.schema(
    [
        ("model", pa.string()),  # its name in the report
        ("sigma", pa.float64()),  # 0-255 units
        ("video_id", pa.string()),
        ("frame_index", pa.int32()),
        ("label", pa.int8()),  # 1 = fake
        ("method", pa.string()),
        ("identities", pa.list_(pa.string())),
        ("clean", pa.float32()),  # logit without noise, of the detector that is smoothed
        ("votes_to_choose", pa.int32()),  # for fake, of n0
        ("votes", pa.int32()),  # for fake, of n
        ("verdict", pa.int8()),  # 1 fake, 0 real, -1 abstains
        ("abstains", pa.bool_()),
        ("radius", pa.float64()),  # L2, 0-255 units; 0 if it abstains
    ]
)


def certificate_rows(crops: pa.Table, clean: np.ndarray, chosen: np.ndarray, votes: np.ndarray, certified: Certified) -> pa.Table:
    """What is kept of a block: its crops, votes and certificates."""
    columns = {"clean": clean, "votes_to_choose": chosen, "votes": votes, "verdict": certified.verdict,
               "abstains": certified.verdict == ABSTAINS, "radius": certified.radius}
    for name, values in columns.items():
        crops = crops.append_column(name, pa.array(values, CERTIFICATE_SCHEMA.field(name).type))
    return crops


def as_certificates(result: pa.Table, model: str, smoothing: Smoothing) -> pa.Table:
    """Rows of the table of certificates from a kept result."""
    return blocks.named(result, CERTIFICATE_SCHEMA, model=model, sigma=smoothing.sigma)


def certificate_figures(rows: pa.Table, models: Sequence[str], items: Sequence[Smoothing], *, resamples: int, seed: int) -> dict:
    """The figures of every model at every sigma; docs/summary.md has the fields.

    Args:
        rows: CERTIFICATE_SCHEMA, every model and sigma on the same crops.
    """
    draws = bootstrap.draw(*identities_of_videos(rows), count=resamples, seed=seed)
    records = [
        {"model": model, "sigma": item.sigma,
         **_figures(rows.filter((pc.field("model") == model) & (pc.field("sigma") == item.sigma)), item, draws)}
        for item in items for model in models
    ]
    first = items[0]
    crops = len(rows) // (len(models) * len(items))
    return {"n0": first.n0, "n": first.n, "alpha": first.alpha, "crops": crops, "level": "frame", "unit": 1 / 255, "records": records}


def _figures(rows: pa.Table, item: Smoothing, draws: Resamples) -> dict:
    labels, verdicts = (rows.column(name).to_numpy().astype(np.int64) for name in ("label", "verdict"))
    radius, clean = (rows.column(name).to_numpy().astype(np.float64) for name in ("radius", "clean"))
    video_ids = np.array(rows.column("video_id").to_pylist(), dtype=str)
    right, everyone, fakes = verdicts == labels, np.ones(len(labels), bool), labels == 1

    def rate(hits: np.ndarray, among: np.ndarray) -> dict:
        return share_figure(Share(hits=hits & among, among=among), video_ids, draws, if_none="no crop is counted in it: none of this class")

    curve = []
    for at in np.linspace(0, item.largest_radius, POINTS):
        certain = right & (radius >= at)
        curve.append({"radius": float(at), "all": rate(certain, everyone), "fakes": rate(certain, fakes), "reals": rate(certain, ~fakes)})
    return {
        "accuracy_without_noise": rate((clean > 0) == fakes, everyone),
        "abstains": rate(verdicts == ABSTAINS, everyone),
        "mean_radius": float(np.where(right, radius, 0).mean()),
        "largest_radius": item.largest_radius,
        "certified": curve,
    }


def certificate_charts(smoothing: Mapping | None) -> list[dict]:
    """One chart a sigma, all models in it; empty if nothing was certified."""
    charts = []
    for sigma in sorted({record["sigma"] for record in (smoothing or {"records": []})["records"]}):
        records = [record for record in smoothing["records"] if record["sigma"] == sigma]
        series = [Series(record["model"], index, tuple(_points(record["certified"]))) for index, record in enumerate(records)]
        radii = [round(point["radius"], 1) for point in records[0]["certified"]]
        svg = line_chart(series, ticks=[radii[index] for index in (0, 1, 3, 6, 9, 12)], title=f"Certified accuracy over the L2 radius, sigma {sigma:g}",
                         x_label="L2 radius, 0-255 units")
        charts.append({"sigma": sigma, "svg": svg})
    return charts


def _points(curve: Sequence[Mapping]) -> list[Point]:
    return [Point(point["radius"], point["all"]["value"], point["all"]["low"], point["all"]["high"])
            for point in curve if point["all"]["value"] is not None]
