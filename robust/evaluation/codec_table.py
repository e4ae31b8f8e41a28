"""The figures of the codec measurement: how much of an attack's success is left after sharing, and of the faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robust.evaluation import bootstrap
from robust.evaluation.bars import bar_chart
from robust.evaluation.bootstrap import Resamples
from robust.evaluation.codec import LOSSLESS, Sharing
from robust.evaluation.metrics import Share
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
        {"level": "frame", "attack": label, "videos", "frames", "records": [{"model", "epsilon", "codec", "quality",
        "caught", "fake_to_real", "found_clean", "found_attacked"}]}, the last four figures
    """
    draws = bootstrap.draw(*identities_of_videos(rows), count=resamples, seed=seed)
    records = []
    for model in models:
        for trial in trials:
            for channel in trial.channels:
                part = rows.filter((pc.field("model") == model) & (pc.field("epsilon") == trial.cell.epsilon)
                                   & (pc.field("codec") == channel.codec) & (pc.field("quality") == channel.quality))
                key = {"model": model, "epsilon": trial.cell.epsilon, "codec": channel.codec, "quality": channel.quality}
                records.append({**key, **_figures(part, draws)})
    one = (pc.field("model") == models[0]) & (pc.field("codec") == LOSSLESS.codec) & (pc.field("epsilon") == trials[0].cell.epsilon)
    return {"level": "frame", "attack": trials[0].cell.label, "videos": len(draws.video_ids), "frames": len(rows.filter(one)),
            "records": records}


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


def codec_charts(codec: Mapping | None) -> list[dict]:
    """{"codec", "epsilon", "svg"}: attack success over the strength of a codec, all models in it; empty if not measured.

    The channel without a codec stands first in each.
    """
    records = (codec or {"records": []})["records"]
    models = list(dict.fromkeys(record["model"] for record in records))
    charts = []
    for epsilon in sorted({record["epsilon"] for record in records}):
        for name, title in (("h264", "H.264, CRF"), ("jpeg", "JPEG, quality")):
            success = {(record["model"], record["codec"], record["quality"]): record["fake_to_real"]["value"]
                       for record in records if record["epsilon"] == epsilon and record["codec"] in (LOSSLESS.codec, name)}
            channels = list(dict.fromkeys(key[1:] for key in success))
            if len(channels) < 2:
                continue
            series = [(model, index, [success[model, *channel] for channel in channels])
                      for index, model in enumerate(models)]
            labels = ["none" if kind == LOSSLESS.codec else str(quality) for kind, quality in channels]
            svg = bar_chart(labels, series, title=f"Attack success after {title}, epsilon {epsilon:g}", x_label=title)
            charts.append({"codec": name, "epsilon": epsilon, "svg": svg})
    return charts
