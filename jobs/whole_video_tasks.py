"""The whole-video attack on the cluster: all frames of a test video at once against its score, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from jobs.block_tasks import everybody, measured, read_inputs
from jobs.candidates import Candidate
from jobs.run_folder import RunFolder
from robust.attacks.threat import Linf
from robust.attacks.whole_video import whole_video
from robust.config import Config
from robust.evaluation import blocks
from robust.evaluation.attack_block import Cell, batches, logits
from robust.evaluation.blocks import SPLIT
from robust.evaluation.predictions import check_predictions, tracks_of
from robust.evaluation.whole_video_table import JOINT, whole_video_figures
from robust.storage import Storage


def measure_whole_videos(
    config: Config,
    storage: Storage,
    candidates: Sequence[Candidate],
    status: pa.Table,
    predictions: pa.Table,
    *,
    run: Callable,
) -> dict | None:
    """The figures for summary.json, or None if it is switched off; each frame's logit stays in the run folder.

    Args:
        predictions: of the frame-wise attacks, beside which the figures stand.
        run: run(config, storage, tasks, unit=...) does the tasks and returns when all are done.
    """
    settings = config.evaluate.whole_video
    if not settings.enabled:
        return None
    epsilons = config.evaluate.epsilons if settings.epsilons is None else settings.epsilons
    items = [Cell(JOINT, float(epsilon), settings.steps, settings.restarts) for epsilon in sorted(set(epsilons))]
    plan = blocks.plan_blocks(
        status, split=SPLIT, block_size=config.evaluate.block_size, max_frames=config.evaluate.frames_per_video,
        everybody=everybody(config),
    )  # whole videos, whatever the block size
    results = measured(
        config,
        storage,
        candidates,
        plan,
        attack_videos,
        items,
        read=read_inputs,
        run=run,
        unit="jointly attacked crops",
    )
    rows = check_predictions(
        pa.concat_tables(blocks.as_predictions(result, candidate.name, item) for candidate, item, result in results)
    )
    storage.write_table(RunFolder(storage, config).key("evaluate", "whole_video.parquet"), rows)
    return whole_video_figures(
        predictions,
        rows,
        [candidate.name for candidate in candidates],
        items,
        resamples=config.evaluate.bootstrap,
        seed=config.run.seed,
    )


def attack_videos(
    model: nn.Module, crops: pa.Table, pixels: np.ndarray, item: Cell, config: Config, device: str
) -> pa.Table:
    """The logits of a block's crops before and after the attack on their videos.

    Several people are attacked each by themselves: no budget is shared, and the worst for each is the worst for the
    highest of them.
    """
    size = config.evaluate.batch_size
    parts = batches(model, pixels, crops.column("label").to_numpy(), batch_size=size, device=device)
    x, y = (torch.cat(tensors) for tensors in list(zip(*parts, strict=True))[1:])
    _, videos = np.unique(crops.column("video_id").to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    tracks = tracks_of(crops)
    people = videos * (tracks.max() + 1) + tracks
    x_adv = whole_video(
        model,
        x,
        y,
        Linf.from_255(item.epsilon),
        steps=item.steps,
        restarts=item.restarts,
        videos=torch.from_numpy(people),
        generator=torch.Generator().manual_seed(config.run.seed),
        batch_size=size,
    )
    clean, adversarial = (np.concatenate([logits(model, part) for part in images.split(size)]) for images in (x, x_adv))
    return blocks.block_result(crops, clean, adversarial)
