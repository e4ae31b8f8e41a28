"""The corruption grid on the cluster: the test crops of each block, corrupted in every way and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from torch import nn

from jobs.block_tasks import everybody, measured
from jobs.candidates import Candidate
from jobs.run_folder import RunFolder
from robust.attacks.checks import require_eval_mode
from robust.config import Config
from robust.data.inputs import to_input
from robust.evaluation import blocks, corruptions
from robust.evaluation.attack_block import logits
from robust.evaluation.blocks import SPLIT, Block
from robust.evaluation.corruption_table import CORRUPTION_SCHEMA, as_rows, corruption_figures
from robust.evaluation.corruptions import Corruption
from robust.storage import Storage


def measure_corruptions(
    config: Config, storage: Storage, candidates: Sequence[Candidate], status: pa.Table, *, run: Callable
) -> dict | None:
    """The figures of the grid for summary.json, or None if it is switched off; each logit stays in the run folder.

    Args:
        run: run(config, storage, tasks, unit=...) does the tasks and returns when all are done.
    """
    settings = config.evaluate.corruptions
    if not settings.enabled:
        return None
    items = corruptions.grid(settings.severities)
    plan = blocks.plan_blocks(status, split=SPLIT, block_size=config.evaluate.block_size,
                              max_frames=settings.frames_per_video, everybody=everybody(config))
    results = measured(config, storage, candidates, plan, score_corrupted, items, read=read_stored, run=run, unit="corrupted crops")
    rows = pa.concat_tables(as_rows(result, candidate.name, item) for candidate, item, result in results)
    order = [*CORRUPTION_SCHEMA.names[:5], *(name for name in rows.column_names if name == blocks.TRACK)]
    rows = rows.sort_by([(name, "ascending") for name in order])
    storage.write_table(RunFolder(storage, config).key("evaluate", "corruptions.parquet"), rows)
    return corruption_figures(rows, [candidate.name for candidate in candidates],
                              resamples=config.evaluate.bootstrap, seed=config.run.seed)


def read_stored(config: Config, storage: Storage, block: Block, model: nn.Module) -> tuple[pa.Table, list[np.ndarray]]:
    """The crops at the size in which they are stored: corruptions come before the model's input."""
    return blocks.read_crops(storage, config.run.name, block, max_frames=config.evaluate.corruptions.frames_per_video,
                             everybody=everybody(config))


def score_corrupted(
    model: nn.Module, crops: pa.Table, images: list[np.ndarray], item: Corruption, config: Config, device: str
) -> pa.Table:
    """The logits of a block's crops after one corruption."""
    require_eval_mode(model)
    changed = corruptions.corrupt(images, crops.column("video_id").to_pylist(), crops.column("frame_index").to_pylist(), item,
                                  seed=config.run.seed)
    size = config.evaluate.batch_size
    scores = [logits(model, to_input(changed[start:start + size], model.input_size).to(device))
              for start in range(0, len(changed), size)]
    return crops.append_column("logit", pa.array(np.concatenate(scores), pa.float32()))
