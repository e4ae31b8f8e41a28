"""Randomised smoothing on the cluster: the test crops of each block, certified at each sigma by votes under noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from torch import nn

from jobs.block_tasks import measured
from jobs.candidates import Candidate
from jobs.run_folder import RunFolder
from robust.config import Config
from robust.defenses.smoothing import Smoothing, certify, count_votes
from robust.evaluation import blocks
from robust.evaluation.attack_block import batches, logits
from robust.evaluation.blocks import SPLIT, Block
from robust.evaluation.certificate_table import (
    CERTIFICATE_SCHEMA,
    as_certificates,
    certificate_figures,
    certificate_rows,
)
from robust.storage import Storage


def measure_smoothing(config: Config, storage: Storage, candidates: Sequence[Candidate], status: pa.Table, *, run: Callable) -> dict | None:
    """The certificates' figures for summary.json, or None if they are switched off; each vote stays in the run folder.

    Args:
        run: run(config, storage, tasks, unit=...) does the tasks and returns when all are done.
    """
    settings = config.evaluate.smoothing
    if not settings.enabled:
        return None
    items = [Smoothing(sigma, settings.n0, settings.n, settings.alpha) for sigma in sorted(set(settings.sigmas))]
    plan = blocks.plan_blocks(status, split=SPLIT, block_size=config.evaluate.block_size, max_frames=settings.frames_per_video)
    results = measured(config, storage, candidates, plan, certify_crops, items, read=read_few, run=run, unit="certified crops")
    rows = pa.concat_tables(as_certificates(result, candidate.name, item) for candidate, item, result in results)
    rows = rows.sort_by([(name, "ascending") for name in CERTIFICATE_SCHEMA.names[:4]])
    storage.write_table(RunFolder(storage, config).key("evaluate", "certificates.parquet"), rows)
    return certificate_figures(rows, [candidate.name for candidate in candidates], items,
                               resamples=config.evaluate.bootstrap, seed=config.run.seed)


def read_few(config: Config, storage: Storage, block: Block, model: nn.Module) -> tuple[pa.Table, np.ndarray]:
    """The crops at the model's input size, of fewer frames than are attacked: a certificate costs n0 + n passes."""
    return blocks.read_block(storage, config.run.name, block, size=model.input_size, max_frames=config.evaluate.smoothing.frames_per_video)


def certify_crops(model: nn.Module, crops: pa.Table, pixels: np.ndarray, item: Smoothing, config: Config, device: str) -> pa.Table:
    """The measurement: a block's crops with their votes, verdicts and radii at one sigma."""
    labels, batch_size = crops.column("label").to_numpy(), config.evaluate.batch_size
    images = batches(model, pixels, labels, batch_size=batch_size, device=device)
    parts = [(logits(model, x), *count_votes(model, x, item, seed=config.run.seed)) for _, x, _ in images]
    clean, chosen, votes = (np.concatenate(values) for values in zip(*parts, strict=True))
    return certificate_rows(crops, clean, chosen, votes, certify(chosen, votes, item))
