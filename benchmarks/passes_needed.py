"""How many passes a suite needs, counted from outside: no code of the suites decides here what is settled.

What every attack alone does to every crop, in a run that skips nothing, tells which crops a suite has not settled when an
attack begins.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch
from torch import Tensor, nn

from robust.evaluation.attack_block import Cell
from robust.evaluation.sequence import Curve


class Watched(nn.Module):
    """The model, and what its parameters take part in.

    Attributes:
        parameters_recorded: the most parameters that any pass with gradients was recorded for; an attack needs none.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.parameters_recorded = model, 0
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            recorded = sum(parameter.requires_grad for parameter in self.model.parameters())
            self.parameters_recorded = max(self.parameters_recorded, recorded)
        return self.model(x)


def unsettled(
    results: Mapping[Cell, pa.Table], attack: str, epsilon: float, thresholds: Mapping[str, float], order: Sequence[str]
) -> int:
    """How many crops an attack of a suite must run on: those that the attacks before it have not settled.

    A crop is settled when it is wrong at every frame threshold and logit 0, and the mean of its video's worst logits at
    every video threshold and logit 0 (docs/attacks.md); without an attack before, its clean logit counts.

    Args:
        results: of each attack by itself on all crops.
        order: the suite's.
    """
    before = [item for item in results if item.attack in order[: order.index(attack)] and epsilon in item.epsilons]
    worst: dict[str, list[float]] = {}
    rows = next(iter(results.values())).to_pylist()
    logits = [[row["clean"] for row in rows], *(at_epsilon(results[item], item, epsilon) for item in before)]
    for row, *values in zip(rows, *logits, strict=True):
        worst.setdefault(row["video_id"], []).append(min(values) if row["label"] else max(values))
    label = {row["video_id"]: row["label"] for row in rows}
    at = {level: [0.0, *(value for name, value in thresholds.items() if name.startswith(level))]
          for level in ("frame", "video")}
    count = 0
    for video, frames in worst.items():
        mean = sum(frames) / len(frames)
        for logit in frames:
            wrong = [(logit, level) for level in at["frame"]] + [(mean, level) for level in at["video"]]
            count += not all((value <= level) if label[video] else (value > level) for value, level in wrong)
    return count


def at_epsilon(result: pa.Table, item: Cell, epsilon: float) -> list[float]:
    """The logits of a result at one of its epsilons; a minimal-norm attack has a list for each crop."""
    values = result.column("adversarial").to_pylist()
    return [one[item.epsilons.index(epsilon)] for one in values] if isinstance(item, Curve) else values


def passes_needed(
    item: Cell, alone: Mapping[Cell, pa.Table], thresholds: Mapping[str, float], order: Sequence[str]
) -> int:
    """steps x restarts for each crop to be attacked; a minimal-norm attack's are those right without an attack, once."""
    if isinstance(item, Curve):
        rows = alone[item].select(["clean", "label"]).to_pylist()
        return item.steps * item.restarts * sum((row["clean"] > 0) == (row["label"] == 1) for row in rows)
    return item.steps * item.restarts * unsettled(alone, item.attack, item.epsilon, thresholds, order)
