"""Adversarial examples for others to test: crops attacked on the cluster, as PNGs with a manifest in the run folder."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from jobs.block_tasks import measured
from jobs.candidates import Candidate
from jobs.run_folder import RunFolder
from robust.config import Config
from robust.data.images import decode_image, encode_image
from robust.data.inputs import to_tensor
from robust.evaluation import blocks, export
from robust.evaluation.attack_block import Cell, batches, logits, perturb
from robust.evaluation.blocks import SPLIT, Block
from robust.evaluation.export import EXPORT_SCHEMA, MANIFEST, Export
from robust.storage import Storage

FOLDER = "adversarial"
"""Below the run's evaluate/ folder."""
WRITE_THREADS = 8


def export_examples(
    config: Config, storage: Storage, candidates: Sequence[Candidate], status: pa.Table, cell: Cell, *, run: Callable
) -> dict | None:
    """Writes PNGs and manifest.json, and a local copy; returns what summary.json says, None if it is switched off.

    Args:
        cell: the attack, of which epsilon is set by `evaluate.export.epsilon`.
        run: run(config, storage, tasks, unit=...) does the tasks and returns when all are done.
    """
    settings = config.evaluate.export
    if settings.crops == 0:
        return None
    item = Export(dataclasses.replace(cell, epsilon=settings.epsilon))
    videos = export.some_of_each(status, settings.crops, split=SPLIT, seed=config.run.seed)
    plan = blocks.plan_blocks(videos, split=SPLIT, block_size=config.evaluate.block_size, max_frames=1)
    parts: dict[str, list[pa.Table]] = {candidate.name: [] for candidate in candidates}
    kept = measured(config, storage, candidates, plan, export_crops, [item], read=read_one, run=run,
                    unit="exported crops")
    for candidate, _, result in kept:
        parts[candidate.name].append(result)
    by_video = [("video_id", "ascending")]
    results = {name: pa.concat_tables(tables).sort_by(by_video) for name, tables in parts.items()}
    sha256 = {candidate.name: candidate.sha256 for candidate in candidates}
    files = export.build_files(results, sha256, item, run=config.run.name, seed=config.run.seed)
    _write(config, storage, files)
    return {
        "manifest": f"evaluate/{FOLDER}/{MANIFEST}",
        "sha256": hashlib.sha256(files[MANIFEST]).hexdigest(),
        "attack": item.cell.label,
        "epsilon": settings.epsilon,
        "crops": len(videos),
        "level": "frame",
        "models": export.export_figures(results, resamples=config.evaluate.bootstrap, seed=config.run.seed),
    }


def read_one(config: Config, storage: Storage, block: Block, model: nn.Module) -> tuple[pa.Table, np.ndarray]:
    """One crop of each video, at the model's input size."""
    return blocks.read_block(storage, config.run.name, block, size=model.input_size, max_frames=1)


def export_crops(
    model: nn.Module, crops: pa.Table, pixels: np.ndarray, item: Export, config: Config, device: str
) -> pa.Table:
    """The measurement: a block's crops as PNGs before and after the attack, with the logits of what is in them."""
    def scores(pngs: Sequence[bytes]) -> np.ndarray:
        images = np.stack([decode_image(png) for png in pngs])
        return logits(model, to_tensor(images).to(device, memory_format=torch.channels_last))

    parts, labels = [], crops.column("label").to_numpy()
    for chosen, x, y in batches(model, pixels, labels, batch_size=config.evaluate.batch_size, device=device):
        clean = pixels[chosen]
        moved = perturb(model, x, y, item.cell, seed=config.run.seed).permute(0, 2, 3, 1).float().cpu().numpy()
        moved = export.round_inside(moved, clean, item.cell.epsilon)
        pngs = [[encode_image(image) for image in images] for images in (clean, moved)]
        change = np.abs(moved.astype(int) - clean.astype(int)).reshape(len(clean), -1).max(1)
        parts.append([*pngs, *(scores(one) for one in pngs), change])
    columns = [[value for part in parts for value in part[place]] for place in range(5)]
    for field, values in zip(list(EXPORT_SCHEMA)[-5:], columns, strict=True):
        crops = crops.append_column(field, pa.array(values, field.type))
    return crops.select(EXPORT_SCHEMA.names).cast(EXPORT_SCHEMA)


def _write(config: Config, storage: Storage, files: Mapping[str, bytes]) -> None:
    """Replaces what an earlier evaluation exported, the manifest last."""
    folder = RunFolder(storage, config).key("evaluate", FOLDER)
    storage.delete_prefix(folder)
    *pictures, manifest = files
    with ThreadPoolExecutor(WRITE_THREADS) as pool:
        list(pool.map(lambda name: storage.write_bytes(f"{folder}/{name}", files[name]), pictures))
    storage.write_bytes(f"{folder}/{manifest}", files[manifest])
    copy = Path(config.cluster.outputs).absolute() / config.run.name / "evaluate" / FOLDER
    shutil.rmtree(copy, ignore_errors=True)
    for name, data in files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
