"""The figures of the codec measurement: how much of an attack's success is left after sharing, and of the faces."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robust.evaluation import bootstrap
from robust.evaluation.bootstrap import Resamples
from robust.evaluation.codec import Sharing
from robust.evaluation.metrics import Share
from robust.evaluation.plots import Point, Series, line_chart
from robust.evaluation.predictions import identities_of_videos
from robust.evaluation.protocol import share_figure

CODEC_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("attack", pa.string()),
        ("epsilon", pa.float64()),  # 0-255 units
        ("codec", pa.string()),  # lossless, h264, jpeg
        ("quality", pa.int32()),  # CRF of h264, quality of jpeg, 0
        ("video_id", pa.string()),
        ("frame_index", pa.int32()),
        ("method", pa.string()),
        ("identities", pa.list_(pa.string())),
        ("clean", pa.float32()),  # logit after sharing without an attack; null: no face found
        ("adversarial", pa.float32()),  # logit after attack and sharing; null: no face found
    ]
)


def codec_figures(rows: pa.Table, models: Sequence[str], trials: Sequence[Sharing], *, resamples: int, seed: int) -> dict:
    """What summary.json says of the measurement.

    Args:
        rows: CODEC_SCHEMA, fakes only.
        models: in the order of the report.
        trials: what was measured.
    Returns:
        {"level": "frame", "attack": label of the first, "attacks": [{"attack", "label"}], "videos", "frames", "records":
        [{"model", "attack", "epsilon", "codec", "quality", "caught", "fake_to_real", "found_clean", "found_attacked"}]},
        the last four figures
    """
    draws = bootstrap.draw(*identities_of_videos(rows), count=resamples, seed=seed)
    records = []
    for model in models:
        for trial in trials:
            for channel in trial.channels:
                key = {"model": model, "attack": trial.cell.attack, "epsilon": trial.cell.epsilon,
                       "codec": channel.codec, "quality": channel.quality}
                equal = (pc.field(name) == value for name, value in key.items())
                part = rows.filter(functools.reduce(operator.and_, equal))
                records.append({**key, **_figures(part, draws)})
    labels = {trial.cell.attack: trial.cell.label for trial in trials}
    attacks = [{"attack": attack, "label": label} for attack, label in labels.items()]
    return {"level": "frame", "attack": attacks[0]["label"], "attacks": attacks, "videos": len(draws.video_ids),
            "frames": len(rows) // (len(models) * sum(len(trial.channels) for trial in trials)), "records": records}


def survival_charts(codec: Mapping | None, models: Sequence[str]) -> list[dict]:
    """Attack success over what a video goes through, JPEG to the left and H.264 to the right of the lossless one.

    Args:
        codec: from `codec_figures`, or None.
    Returns:
        {"model", "epsilon", "svg"} of each model at each epsilon; a line an attack, coloured after the models' colours.
    """
    if codec is None:
        return []
    charts, labels = [], {row["attack"]: row["label"] for row in attacks_of(codec)}
    channels = {(record["codec"], record["quality"]) for record in codec["records"]}
    order = sorted(channels, key=lambda channel: ({"jpeg": 0, "lossless": 1, "h264": 2}[channel[0]], channel[1]))
    names = {place: {"jpeg": f"q{quality}", "lossless": "none", "h264": f"{quality}"}[kind]
             for place, (kind, quality) in enumerate(order)}
    for model in models:
        for epsilon in sorted({record["epsilon"] for record in codec["records"]}):
            series = []
            for index, (attack, label) in enumerate(labels.items()):
                wanted = (model, epsilon, attack)
                figures = {(record["codec"], record["quality"]): record["fake_to_real"] for record in codec["records"]
                           if (record["model"], record["epsilon"], record.get("attack", attack)) == wanted}
                points = (Point(place, figure["value"], figure["low"], figure["high"])
                          for place, channel in enumerate(order) if (figure := figures[channel])["value"] is not None)
                series.append(Series(label, survival_style(len(models), index), tuple(points)))
            svg = line_chart(series, ticks=list(names), names=names, power=1,
                             x_label="JPEG quality  ·  not encoded  ·  H.264 CRF",
                             title=f"Attack success after sharing, {model}, epsilon {epsilon:g}")
            charts.append({"model": model, "epsilon": epsilon, "svg": svg})
    return charts


def attacks_of(codec: Mapping) -> list[dict]:
    """{"attack", "label"} of what was shared; in a document from before there were several there is one."""
    return codec.get("attacks") or [{"attack": codec["attack"], "label": codec["attack"]}]


def survival_style(models: int, attack: int) -> int:
    """The number of an attack's colour: none of a model's."""
    return min(models + attack, 5)


def _figures(part: pa.Table, draws: Resamples) -> dict:
    """Frames in which no face was found after sharing without an attack were never caught; they are in no success."""
    videos = np.array(part.column("video_id").to_pylist(), dtype=str)
    clean, adversarial = (part.column(name).to_numpy().astype(np.float64) for name in ("clean", "adversarial"))  # nan: not found
    everything, caught = np.ones(len(part), bool), clean > 0
    shares = {
        "caught": (caught, everything),
        "fake_to_real": (caught & (adversarial <= 0), caught),
        "found_clean": (np.isfinite(clean), everything),
        "found_attacked": (np.isfinite(adversarial), everything),
    }
    return {name: share_figure(Share(hits=hits, among=among), videos, draws, if_none="no fake was caught after this channel without an attack")
            for name, (hits, among) in shares.items()}
