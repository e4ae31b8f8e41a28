"""A training's state in files without a pickle: safetensors for tensors, JSON for the rest."""
from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robust.models.checkpoint import WEIGHTS, weights_blob
from robust.training.loop import Place, Training

TENSORS, FACTS = "training.safetensors", "training.json"
STATISTICS = "workers.statistics"


def save_state(training: Training, folder: Path, facts: dict) -> None:
    """Writes what is scored as model.safetensors, and what is needed to go on beside it.

    Raises:
        ValueError: in the middle of an epoch that cannot pause there.
    """
    if training.step and not training.can_pause:
        raise ValueError(f"a training cannot be saved after step {training.step} of epoch {training.epoch}: it holds more than a state does")
    (folder / WEIGHTS).write_bytes(weights_blob(training.scored))
    tensors = {f"network.{name}": value for name, value in training.network.state_dict().items()}
    if training.statistics is not None:
        tensors[STATISTICS] = training.statistics
    optimizer = training.optimizer.state_dict()["state"]
    scalars: dict[str, dict] = {}
    for index, values in optimizer.items():
        for name, value in values.items():
            if torch.is_tensor(value):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / TENSORS)
    updates = training.average.updates if training.average is not None else 0
    state = {"epoch": training.epoch, "step": training.step, "sums": {name: float(value) for name, value in training.sums.items()},
             "best": training.best if math.isfinite(training.best) else None, "since_best": training.since_best,
             "first_spread": training.first_spread if math.isfinite(training.first_spread) else None,
             "average_updates": updates, "collapsed": training.collapsed, "optimizer_scalars": scalars, "facts": facts}
    (folder / FACTS).write_text(json.dumps(state))


def load_state(training: Training, folder: Path) -> dict:
    """Puts a saved state back into a fresh training; returns the facts saved with it."""
    state = json.loads((folder / FACTS).read_text())
    tensors = load_file(folder / TENSORS)
    network = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
    training.network.load_state_dict(network)
    training.statistics = tensors.get(STATISTICS)
    if training.average is not None:
        training.average.network.load_state_dict(load_file(folder / WEIGHTS))
        training.average.updates = state["average_updates"]
    moments: dict[int, dict] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            moments.setdefault(int(index), {})[key] = value
    for index, values in state["optimizer_scalars"].items():
        moments.setdefault(int(index), {}).update(values)
    training.optimizer.load_state_dict({"state": moments, "param_groups": training.optimizer.state_dict()["param_groups"]})
    training.epoch, training.collapsed = state["epoch"], state.get("collapsed", False)
    # A state of before there were pauses has none of these.
    training.best, training.since_best = -math.inf if state.get("best") is None else state["best"], state.get("since_best", 0)
    training.first_spread = math.inf if state.get("first_spread") is None else state["first_spread"]
    training.step, training.sums = state.get("step", 0), {name: torch.tensor(value) for name, value in state.get("sums", {}).items()}
    return state["facts"]


def gather_statistics(training: Training, place: Place) -> None:
    """Notes every worker's batch-norm statistics in `training`, to be saved; all workers call it.

    They are each worker's own: workers exchange gradients alone. What is validated and published has rank 0's.
    """
    if place.world > 1 and torch.distributed.is_initialized():
        own = torch.cat([torch.zeros(0, device=place.device), *(buffer.reshape(-1) for buffer in _statistics(training.network))])
        rows = [torch.empty_like(own) for _ in range(place.world)]
        torch.distributed.all_gather(rows, own)
        training.statistics = torch.stack(rows)


def restore_statistics(training: Training, place: Place) -> None:
    """Gives this worker those that it had when the state was saved, if there were as many workers; else it has rank 0's."""
    if training.statistics is not None and len(training.statistics) == place.world:
        own = _statistics(training.network)
        for buffer, values in zip(own, training.statistics[place.rank].split([buffer.numel() for buffer in own]), strict=True):
            buffer.copy_(values.view_as(buffer))
    training.statistics = None


def _statistics(network: nn.Module) -> list[torch.Tensor]:
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]
