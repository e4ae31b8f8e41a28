"""The gates on the evaluation's own crops and models: which crops, under which name a result is kept, and the verdict."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from robust.attacks.gates import Budget, run_gates
from robust.data.inputs import to_tensor
from robust.evaluation.attack_block import Cell, block_hash
from robust.evaluation.blocks import VERSION as ATTACKS_VERSION
from robust.evaluation.blocks import Block, plan_blocks, read_block

VERSION = 3
"""Raised when a gate or a threshold changes, so that no outcome of the old ones is taken for one of the new."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A few crops of a split, the same for every model: what gates look at, what universal perturbations are made on.

    Args:
        blocks: where they lie.
        frames: at most so many of a video are read.
        images: how many are used, half of them fake if there are as many.
    """

    blocks: tuple[Block, ...]
    frames: int
    images: int

    @property
    def crops(self) -> int:
        """As of a Block: how many crops a measurement is given."""
        return self.images


def choose_sample(status: pa.Table, *, split: str, images: int, max_frames: int | None = None) -> Sample:
    """Crops of as many videos as possible, half real and half fake; by a hash of their names, so that no order matters.

    Args:
        status: status table of the extraction.
        max_frames: at most so many crops of a video are evaluated.
    """
    videos = [row for row in status.to_pylist() if row["split"] == split and row["frames_found"] > 0]
    videos.sort(key=lambda row: hashlib.sha256(row["video_id"].encode()).digest())
    each = images // 2
    chosen = {row["video_id"] for label in (0, 1) for row in [row for row in videos if row["label"] == label][:each]}
    frames = max(1, math.ceil(images / max(1, len(chosen))))
    frames = min(frames, max_frames or frames)
    keep = pa.array([video_id in chosen for video_id in status.column("video_id").to_pylist()])
    blocks = plan_blocks(status.filter(keep), split=split, block_size=frames * images, max_frames=frames)
    return Sample(tuple(blocks), frames, images)


def choose_crops(crops: pa.Table, images: int) -> np.ndarray:
    """Indices of at most images / 2 crops of each label, first frames of all videos before second ones."""
    labels, videos = crops.column("label").to_numpy(), crops.column("video_id").to_pylist()
    seen: dict[str, int] = {}
    rank = np.array([seen.update({video: seen.get(video, -1) + 1}) or seen[video] for video in videos])
    order = np.argsort(rank, kind="stable")
    return np.sort(np.concatenate([order[labels[order] == label][: images // 2] for label in (0, 1)]))


def read_sample(storage, run: str, sample: Sample, *, size: int) -> tuple[pa.Table, np.ndarray]:
    """The crops of a sample, as `blocks.read_block` gives those of a block."""
    parts = [read_block(storage, run, block, size=size, max_frames=sample.frames) for block in sample.blocks]
    crops, pixels = pa.concat_tables([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    chosen = choose_crops(crops, sample.images)
    return crops.take(pa.array(chosen)), pixels[chosen]


def gates_name(sample: Sample, cell: Cell, *, model: str, seed: int) -> str:
    """The name under which the gates' outcome is kept; `model` is the hash of the weights."""
    content = [block.content for block in sample.blocks]
    return block_hash(gates=VERSION, attacks=ATTACKS_VERSION, content=content, model=model, images=sample.images,
                      seed=seed, **dataclasses.asdict(cell))


def gates_on_crops(
    model: nn.Module, pixels: np.ndarray, labels: np.ndarray, cell: Cell, *, seed: int, card: Mapping, device: str = "cpu",
    surrogates: Sequence[nn.Module] = (),
) -> list[dict]:
    """All gates on one model.

    Args:
        model: in eval mode, on `device`.
        pixels: (n, H, W, 3) uint8 at the model's input size.
        labels: (n,) 1 = fake.
        cell: the attack of the headline: PGD with its epsilon, steps and restarts is what the gates judge.
        card: of the checkpoint; its `inputs` tell of the training images.
        surrogates: other models, for images of this size; without one, nothing is said of transfer.
    """
    x = to_tensor(pixels).to(device, memory_format=torch.channels_last)
    y = torch.tensor(labels, device=device)
    budget = Budget(cell.epsilon, steps=cell.steps, restarts=cell.restarts, seed=seed)
    return [gate.as_dict() for gate in run_gates(model, x, y, budget, training_inputs=card.get("inputs"), surrogates=surrogates)]


def judge(gates: Sequence[Mapping]) -> dict:
    """The verdict on an evaluation: {"credible": True, False, or None if no gate was run; "text"; "failed"}.

    Args:
        gates: {"model", "name", "passed", ...} of each gate on each model.
    """
    if not gates:
        return {"credible": None, "text": "NOT CHECKED: evaluate.gates.enabled is false", "failed": []}
    failed = [{"model": gate["model"], "gate": gate["name"]} for gate in gates if not gate["passed"]]
    if failed:
        text = "NOT CREDIBLE: " + ", ".join(f"{one['gate']} ({one['model']})" for one in failed)
        return {"credible": False, "text": text, "failed": failed}
    models = len({gate["model"] for gate in gates})
    each = f" for each of {models} models" if models > 1 else ""
    return {"credible": True, "text": f"CREDIBLE: {len(gates) // models} gates passed{each}", "failed": []}
