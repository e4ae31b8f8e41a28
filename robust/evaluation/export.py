"""Adversarial examples as files that others can test: 8-bit pixels inside the ball, scored as they are read back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from robust.evaluation import bootstrap, metrics
from robust.evaluation.attack_block import Cell
from robust.evaluation.item import Item
from robust.evaluation.metrics import Share
from robust.evaluation.predictions import identities_of_videos
from robust.evaluation.protocol import share_figure

MANIFEST, MANIFEST_SCHEMA = "manifest.json", 1
EXPORT_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("frame_index", pa.int32()),
        ("label", pa.int8()),  # 1 = fake
        ("method", pa.string()),
        ("identities", pa.list_(pa.string())),
        ("clean_png", pa.binary()),
        ("adversarial_png", pa.binary()),
        ("clean", pa.float32()),  # logits of the PNGs' pixels / 255
        ("adversarial", pa.float32()),
        ("largest_change", pa.int32()),  # of a value, 0-255 units
    ]
)


@dataclasses.dataclass(frozen=True)
class Export(Item):
    """An attack whose images are written as files; the field names its results."""

    cell: Cell


def round_inside(adversarial: np.ndarray, clean: np.ndarray, epsilon: float) -> np.ndarray:
    """The nearest 8-bit images that are in the ball around the clean ones.

    Args:
        adversarial: floats in [0, 1].
        clean: uint8 of the same shape.
        epsilon: 0-255 units, 1 or more: below that the only 8-bit image of the ball is the clean one.
    """
    steps = math.floor(epsilon)
    middle = clean.astype(np.int64)
    nearest = np.rint(np.asarray(adversarial, np.float64) * 255).astype(np.int64)
    return np.clip(np.clip(nearest, middle - steps, middle + steps), 0, 255).astype(np.uint8)


def file_names(model_sha256: str, row: Mapping) -> dict[str, str]:
    """Where the two PNGs of a row lie below the manifest's folder; no part of a name is the data's or the user's."""
    crop = hashlib.sha256(f"{row['video_id']} {row['frame_index']}".encode()).hexdigest()[:16]
    return {which: f"{model_sha256[:12]}/{crop}.{which}.png" for which in ("clean", "adversarial")}


def build_files(
    results: Mapping[str, pa.Table], sha256: Mapping[str, str], item: Export, *, run: str, seed: int
) -> dict[str, bytes]:
    """All files by their names below one folder: the PNGs and, last, the manifest; docs/summary.md has its fields.

    Args:
        results: EXPORT_SCHEMA of each model, by its name in the report.
        sha256: of each model's weights.
    """
    files, examples = {}, []
    for model, rows in results.items():
        for row in rows.to_pylist():
            pictures = {}
            for which, name in file_names(sha256[model], row).items():
                files[name] = row[f"{which}_png"]
                of_file = hashlib.sha256(files[name]).hexdigest()
                pictures[which] = {"file": name, "sha256": of_file, "logit": row[which]}
            facts = {name: row[name] for name in ("video_id", "frame_index", "label", "method", "largest_change")}
            examples.append({"model": model, **facts, **pictures})
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "run": run,
        "attack": {"label": item.cell.label, **dataclasses.asdict(item.cell), "norm": "linf", "seed": seed},
        "unit": "epsilon and changes in 0-255 units; a logit is of the PNG's RGB / 255, above 0: fake; label 1: fake",
        "models": [{"model": model, "sha256": sha256[model]} for model in results],
        "examples": examples,
    }
    return {**files, MANIFEST: json.dumps(manifest, indent=1).encode()}


def export_figures(results: Mapping[str, pa.Table], *, resamples: int, seed: int) -> list[dict]:
    """For each model, what is left of the attack in its 8-bit files: of fakes turned real, of reals turned fake."""
    everything = pa.concat_tables(results.values())
    draws = bootstrap.draw(*identities_of_videos(everything), count=resamples, seed=seed)
    records = []
    for model, rows in results.items():
        before, after, labels = (rows.column(name).to_numpy() for name in ("clean", "adversarial", "label"))
        videos = np.array(rows.column("video_id").to_pylist(), dtype=str)

        def rate(share: Share, videos=videos) -> dict:
            return share_figure(share, videos, draws, if_none="no exported crop was right before the attack")

        records.append({"model": model,
                        "fake_to_real": rate(metrics.fake_to_real(before, after, labels, threshold=0.0)),
                        "real_to_fake": rate(metrics.real_to_fake(before, after, labels, threshold=0.0))})
    return records


def some_of_each(status: pa.Table, count: int, *, split: str, seed: int) -> pa.Table:
    """Videos with a face, half of them fake where there are as many, drawn by a hash of their ids, not by any score."""
    videos = status.filter((pc.field("split") == split) & (pc.field("frames_found") > 0))
    drawn: Sequence[tuple] = sorted(
        (hashlib.sha256(f"{seed} {row['video_id']}".encode()).digest(), row["label"], place)
        for place, row in enumerate(videos.select(["video_id", "label"]).to_pylist()))
    fakes, reals = ([place for _, label, place in drawn if label == wanted] for wanted in (1, 0))
    half = max(count // 2, count - len(reals))
    chosen = fakes[:half] + reals[:count - min(half, len(fakes))]
    return videos.take(pa.array(sorted(chosen), pa.int64()))
