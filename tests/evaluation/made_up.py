"""An evaluation that never happened: random logits and noise for faces, only to test tables and the page."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa

from robust.evaluation.attack_block import Cell
from robust.evaluation.gallery import Attacked, Example, Strip, webp
from robust.evaluation.predictions import PREDICTION_SCHEMA
from robust.evaluation.protocol import build_tables
from robust.evaluation.summary import EvaluatedModel, build_summary

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
CELLS = [Cell(name, epsilon, steps) for name, steps in (("fgsm", 1), ("pgd", 20)) for epsilon in EPSILONS]
STRENGTH = {"baseline": 14.0, "defended": 1.6}
"""How far a model's logit falls at epsilon 1."""


def made_up_predictions(*, seed=0, identities=24, frames=4, models=("baseline", "defended")) -> pa.Table:
    """Logits of a plausible demo: reals, and three kinds of swap fakes between neighbours."""
    rng = np.random.default_rng(seed)
    videos = [("demo/Celeb-real/id%d" % i, 0, "Celeb-real", [f"demo:{i}"]) for i in range(identities)]
    for kind in ("coarse", "blended", "fine"):
        for i in range(0, identities, 2):
            videos.append((f"demo/{kind}/id{i}_id{i + 1}", 1, kind, [f"demo:{i}", f"demo:{i + 1}"]))
    rows = []
    for model in models:
        for video_id, label, method, people in videos:
            mean = {"Celeb-real": -4, "coarse": 5, "blended": 4, "fine": 2.5}[method] + rng.normal(0, 1.2)
            for frame in range(frames):
                clean = mean + rng.normal(0, 1)
                for cell in CELLS:
                    fall = STRENGTH.get(model, 5.0) * cell.epsilon ** 0.8 * (0.5 if cell.attack == "fgsm" else 1) * rng.uniform(0.6, 1.2)
                    rows.append((model, cell.attack, cell.epsilon, video_id, frame, label, method, people, clean,
                                 clean - fall if label else clean + fall))
    columns = list(zip(*rows, strict=True))
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, PREDICTION_SCHEMA)], schema=PREDICTION_SCHEMA)


def made_up_models(names=("baseline", "defended")) -> list[EvaluatedModel]:
    architecture = {"name": "efficientnet_lite0", "input_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "activation": "silu"}
    return [
        EvaluatedModel(name, {"schema": 1, "sha256": f"{index}" * 64, "architecture": architecture, "threshold": 0.8,
                              "frame_threshold": 1.4, "threshold_fpr_5": 0.5, "frame_threshold_fpr_5": 0.9, "recipe": name, "epochs": 3})
        for index, name in enumerate(names)
    ]


def made_up_summary(*, resamples=100, models=("baseline", "defended"), timing=None, fails=None, **facts) -> dict:
    tables = build_tables(
        made_up_predictions(models=models), {model.name: model.thresholds for model in made_up_models(models)},
        resamples=resamples, seed=0,
    )
    data = {"videos": {"ok": 58, "partial": 2, "no_face": 1}, "skipped": [
        {"video_id": "demo/fine/id3_id9", "status": "no_face", "reason": "no face in any of 20 frames"}]}
    gates = [{"model": model, "name": name, "passed": name != fails, "measured": "3 of 32 images", "remedy": "look twice"}
             for model in models for name in ("more_steps", "large_epsilon")]
    checks = [{"name": "input_statistics", "passed": True, "detail": "mean 0.43, standard deviation 0.24 over 240 crops"}]
    return build_summary(tables, **{**dict(
        run="made-up", models=made_up_models(models), cells=CELLS, headline=("pgd", 0.5), data=data,
        settings={"seed": 24, "evaluate": {"epsilons": list(EPSILONS)}, "config": "0123456789abcdef"}, checks=checks,
        gates=gates, timing=timing,
    ), **facts})


@functools.cache
def plain_summary() -> dict:
    """One for all pages on which only another section matters; a part is laid over it as {**plain_summary(), "codec": figures}."""
    return made_up_summary(resamples=10)


def made_up_strips(models=("baseline", "defended"), *, size=64) -> list[Strip]:
    rng = np.random.default_rng(0)
    strips = []
    for index, kind in enumerate(("coarse", "blended", "fine")):
        ramp = np.linspace(40, 220, size)[None, :, None] + np.linspace(-30, 30, size)[:, None, None] * [1, 0.6, 0.2]
        clean = np.clip(ramp + rng.normal(0, 8, (size, size, 3)), 0, 255).astype(np.uint8)
        seen = [
            Attacked(name, 3.2 - index, (-4.0, 1.5)[place % 2], webp(np.clip(clean.astype(int) + rng.integers(-1, 2, clean.shape), 0, 255).astype(np.uint8)),
                     webp(np.clip(128 + 10 * rng.integers(-1, 2, clean.shape), 0, 255).astype(np.uint8)))
            for place, name in enumerate(models)
        ]
        strips.append(Strip(Example(f"demo/{kind}/id0_id1", 3 + index, 1, kind), webp(clean), tuple(seen)))
    return strips
