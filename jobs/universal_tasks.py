"""Universal perturbations on the cluster: one a model and epsilon, made on validation crops, tried on test crops."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from torch import nn

from jobs.block_tasks import Task, collect, everybody, missing_tasks, read_inputs
from jobs.candidates import Candidate
from jobs.run_folder import RunFolder
from robust.attacks.threat import Linf
from robust.attacks.universal import Universal, fit_universal
from robust.config import Config
from robust.errors import UserError
from robust.evaluation import blocks, credibility
from robust.evaluation.attack_block import batches, block_hash, logits
from robust.evaluation.blocks import SPLIT
from robust.evaluation.credibility import Sample
from robust.evaluation.predictions import check_predictions
from robust.evaluation.universal_table import (
    SHUFFLED,
    UNIVERSAL,
    Pattern,
    Picture,
    as_rows,
    from_bytes,
    pictures_of,
    shuffled,
    to_bytes,
    universal_figures,
)
from robust.storage import Storage

MADE_ON = "val"
"""The split that patterns are made on; none of its people are in the test split."""
VERSION = 1
"""Raised when patterns are made otherwise, so that no old one is taken for a new one."""


def measure_universal(
    config: Config,
    storage: Storage,
    candidates: Sequence[Candidate],
    status: pa.Table,
    predictions: pa.Table,
    sample: Sample | None,
    *,
    shown: float,
    run: Callable,
) -> tuple[dict | None, list[Picture]]:
    """The figures for summary.json and pictures of the patterns, or None and none if it is switched off.

    Args:
        predictions: of the attacks on each image, beside which the figures stand.
        sample: from `choose_validation`; None: it is switched off.
        shown: epsilon whose patterns are pictured, if it was measured; else the largest.
        run: run(config, storage, tasks, unit=...) does the tasks and returns when all are done.
    Raises:
        UserError: a kept pattern is damaged.
    """
    if sample is None:
        return None, []
    patterns = make_patterns(config, storage, candidates, sample, run=run)
    rows = apply_patterns(config, storage, patterns, status, run=run)
    storage.write_table(RunFolder(storage, config).key("evaluate", "universal.parquet"), rows)
    files = {pattern.key: storage.read_bytes(pattern.key) for of_model in patterns.values() for pattern in of_model}
    by_name = {candidate.name: of_model for candidate, of_model in patterns.items()}
    steps, resamples, seed = config.evaluate.universal.steps, config.evaluate.bootstrap, config.run.seed
    figures = universal_figures(
        predictions, rows, by_name, files, steps=steps, images=sample.images, resamples=resamples, seed=seed
    )
    return figures, [picture for candidate in candidates for picture in _pictures(candidate, patterns, files, shown)]


def make_patterns(
    config: Config, storage: Storage, candidates: Sequence[Candidate], sample: Sample, *, run: Callable
) -> dict[Candidate, tuple[Pattern, ...]]:
    """Each model's patterns by rising epsilon; those that are not kept are made, a task a model."""
    wanted = (
        config.evaluate.epsilons if config.evaluate.universal.epsilons is None else config.evaluate.universal.epsilons
    )
    epsilons = sorted({float(epsilon) for epsilon in wanted})
    patterns = {
        candidate: tuple(Pattern(size, pattern_key(config, candidate, sample, size)) for size in epsilons)
        for candidate in candidates
    }
    known, tasks = set(storage.list(_prefix(config))), []
    for candidate, of_model in patterns.items():
        missing = tuple(pattern for pattern in of_model if pattern.key not in known)
        known.update(pattern.key for pattern in missing)  # equal models: once
        if missing:
            keys = tuple(pattern.key for pattern in missing)
            tasks.append(Task(candidate, sample, fit_pattern, missing, keys, read_validation))
    run(config, storage, tasks, unit="crops for universal perturbations")
    return patterns


def apply_patterns(
    config: Config,
    storage: Storage,
    patterns: Mapping[Candidate, Sequence[Pattern]],
    status: pa.Table,
    *,
    run: Callable,
) -> pa.Table:
    """Rows of PREDICTION_SCHEMA: every test crop with the patterns of its label, and with their values shuffled."""
    plan = blocks.plan_blocks(
        status, split=SPLIT, block_size=config.evaluate.block_size, max_frames=config.evaluate.frames_per_video,
        everybody=everybody(config),
    )
    measure = functools.partial(apply_pattern, storage=storage)
    tasks = [
        task
        for candidate, of_model in patterns.items()
        for task in missing_tasks(config, storage, [candidate], plan, measure, of_model, read=read_inputs)
    ]
    run(config, storage, tasks, unit="universally attacked crops")
    return check_predictions(
        pa.concat_tables(
            as_rows(result, candidate.name, pattern)
            for one, of_model in patterns.items()
            for candidate, pattern, result in collect(config, storage, [one], plan, of_model)
        )
    )


def _pictures(
    candidate: Candidate, patterns: Mapping[Candidate, Sequence[Pattern]], files: Mapping[str, bytes], shown: float
) -> list[Picture]:
    """Of the patterns of one model at the shown epsilon, or at the largest there is."""
    of_model = {pattern.epsilon: pattern for pattern in patterns[candidate]}
    pattern = of_model.get(shown, of_model[max(of_model)])
    size = int(candidate.card["architecture"]["input_size"])
    kept = from_bytes(files[pattern.key], epsilon=pattern.epsilon, size=size, name=pattern.key)
    return pictures_of(candidate.name, pattern, kept.patterns)


def choose_validation(config: Config, status: pa.Table) -> Sample | None:
    """The validation crops that patterns are made on, as many as its `images` says; None if that is switched off.

    Raises:
        UserError: there are none of either class.
    """
    wanted = config.evaluate.universal.images
    if not config.evaluate.universal.enabled:
        return None
    sample = credibility.choose_sample(status, split=MADE_ON, images=wanted)
    labels = dict(zip(status.column("video_id").to_pylist(), status.column("label").to_pylist(), strict=True))
    counts = [
        sum(min(found, sample.frames) for video, found in _videos(sample, status) if labels[video] == label)
        for label in (0, 1)
    ]
    if not all(counts):
        raise UserError(
            "evaluate.universal needs validation crops of reals and of fakes to make perturbations on, and the run has "
            f"{counts[0]} and {counts[1]}; see data.splits, or set evaluate.universal.enabled=false"
        )
    return dataclasses.replace(sample, images=2 * min(wanted // 2, *counts))


def _videos(sample: Sample, status: pa.Table) -> list[tuple[str, int]]:
    found = dict(zip(status.column("video_id").to_pylist(), status.column("frames_found").to_pylist(), strict=True))
    return [(video, found[video]) for block in sample.blocks for video in block.video_ids]


def _prefix(config: Config) -> str:
    return f"{config.run.name}/evaluate/universal"


def pattern_key(config: Config, candidate: Candidate, sample: Sample, epsilon: float) -> str:
    """Where a pattern is kept; models are told apart by what they compute, crops by where they come from."""
    name = block_hash(
        universal=VERSION,
        attacks=blocks.VERSION,
        content=[block.content for block in sample.blocks],
        images=sample.images,
        model=candidate.function,
        epsilon=epsilon,
        steps=config.evaluate.universal.steps,
    )
    return f"{_prefix(config)}/{name}.safetensors"


def read_validation(config: Config, storage: Storage, sample: Sample, model: nn.Module) -> tuple[pa.Table, np.ndarray]:
    """The crops that patterns are made on, at the model's input size."""
    return credibility.read_sample(storage, config.run.name, sample, size=model.input_size)


def fit_pattern(
    model: nn.Module, crops: pa.Table, pixels: np.ndarray, item: Pattern, config: Config, device: str
) -> bytes:
    """The measurement: one model's pattern at one epsilon, as a file."""
    labels = crops.column("label").to_numpy()
    of = "the validation crops that a universal perturbation is made on"
    ((_, x, y),) = batches(model, pixels, labels, batch_size=len(pixels), device=device, of=of)
    settings = {"steps": config.evaluate.universal.steps, "batch_size": config.evaluate.batch_size}
    return to_bytes(fit_universal(model, x, y, Linf.from_255(item.epsilon), **settings))


def apply_pattern(
    model: nn.Module,
    crops: pa.Table,
    pixels: np.ndarray,
    item: Pattern,
    config: Config,
    device: str,
    *,
    storage: Storage,
) -> pa.Table:
    """The measurement: the logits of a block's crops as they are, with the pattern, and with its values shuffled."""
    made = from_bytes(
        storage.read_bytes(item.key), epsilon=item.epsilon, size=model.input_size, name=storage.uri(item.key)
    )
    made = Universal(made.patterns.to(device), made.threat)
    control, scores = shuffled(made, seed=config.run.seed), {"clean": [], UNIVERSAL: [], SHUFFLED: []}
    labels, batch_size = crops.column("label").to_numpy(), config.evaluate.batch_size
    for _, x, y in batches(model, pixels, labels, batch_size=batch_size, device=device):
        for name, images in (("clean", x), (UNIVERSAL, made.apply(x, y)), (SHUFFLED, control.apply(x, y))):
            scores[name].append(logits(model, images))
    for name, parts in scores.items():
        crops = crops.append_column(name, pa.array(np.concatenate(parts), pa.float32()))
    return crops
