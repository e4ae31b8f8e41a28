"""The strip of images of an evaluation: one task a model perturbs a few faces again."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import ray
import torch

from jobs.candidates import Candidate, load_model
from jobs.task_pool import device_of, remote
from robust.config import Config
from robust.data.shards import read_status
from robust.evaluation import blocks, gallery
from robust.evaluation.attack_block import Cell
from robust.storage import Storage

WITH_GRADIENTS = ("pgd", "apgd", "apgd_ce", "fmn", "fgsm")


def headline_cell(config: Config, cells: list[Cell]) -> Cell:
    """The attack of the headline; for the worst case, that of the gallery: the first there is of WITH_GRADIENTS."""
    attack, epsilon = config.evaluate.headline
    of_epsilon = {cell.attack: cell for cell in cells if cell.epsilon == epsilon}
    return of_epsilon[next(name for name in (attack, *WITH_GRADIENTS, *of_epsilon) if name in of_epsilon)]


def gallery_task(config: Config, storage: Storage, candidate: Candidate, cell: Cell, shown: list[tuple]) -> list[tuple]:
    """(clean, perturbed, difference) pictures of some crops, given as (block, video_id, frame_index, label)."""
    device = device_of(config)
    model = load_model(candidate.storage, candidate.key, candidate.sha256, device)
    pictures = []
    for block, video_id, frame_index, label in shown:
        one = dataclasses.replace(block, video_ids=(video_id,))
        crops, pixels = blocks.read_block(storage, config.run.name, one, size=model.input_size,
                                          max_frames=config.evaluate.frames_per_video)
        pixels = pixels[crops.column("frame_index").to_numpy() == frame_index][:1]
        labels = torch.tensor([label], device=device)
        ((perturbed, difference),) = gallery.attack_examples(model, pixels, labels, cell, seed=config.run.seed)
        pictures.append((gallery.webp(pixels[0]), perturbed, difference))
    return pictures


def make_gallery(
    config: Config, storage: Storage, candidates: list[Candidate], predictions: pa.Table, cells: list[Cell]
) -> list[gallery.Strip]:
    """The strip of images under the attack of the headline."""
    cell = headline_cell(config, cells)
    examples = gallery.choose_examples(predictions, candidates[0].name, cell, config.evaluate.gallery)
    if not examples:
        return []
    plan = blocks.plan_blocks(read_status(storage, config.run.name), split=blocks.SPLIT, block_size=1)
    block_of = {video_id: block for block in plan for video_id in block.video_ids}
    shown = [(block_of[one.video_id], one.video_id, one.frame_index, one.label) for one in examples]
    task = remote(config, gallery_task)
    pictures = ray.get([task.remote(config, storage, candidate, cell, shown) for candidate in candidates])
    names = [candidate.name for candidate in candidates]
    return gallery.make_strips(examples, dict(zip(names, pictures, strict=True)), predictions, cell)
