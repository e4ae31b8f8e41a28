"""How many images a model was shown, counted from outside: attacks know nothing of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import pyarrow as pa
import torch
from torch import Tensor, nn

_KEY = b"passes"


@dataclasses.dataclass(frozen=True)
class Passes:
    """Images shown to the models in one block of work.

    Args:
        crops: that the block has.
        attacked: of these; the others were settled before.
        forwards: of the attacked model, scoring before and after the attack among them.
        gradients: how many of the forwards led to an input gradient.
        surrogate_forwards, surrogate_gradients: the same of the models that transfer is made on.
    """

    crops: int = 0
    attacked: int = 0
    forwards: int = 0
    gradients: int = 0
    surrogate_forwards: int = 0
    surrogate_gradients: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(**{name: value + getattr(other, name) for name, value in vars(self).items()})


class Counted(nn.Module):
    """The model, in evaluation mode, and how many images it was shown.

    Attributes:
        forwards: images shown.
        gradients: of these, those whose input gradient was prepared for.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.gradients = model, 0, 0
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        self.gradients += len(x) * (x.requires_grad and torch.is_grad_enabled())
        return self.model(x)


def with_passes(result: pa.Table, passes: Passes) -> pa.Table:
    """The result with the counts in its metadata, which Parquet keeps."""
    return result.replace_schema_metadata({**(result.schema.metadata or {}), _KEY: json.dumps(vars(passes)).encode()})


def passes_of(result: pa.Table) -> Passes:
    """The counts of a kept result."""
    return Passes(**json.loads(result.schema.metadata[_KEY]))


def cost_records(passes: Mapping[tuple[str, str], Passes]) -> list[dict]:
    """For summary.json: the counts of each model and attack over all epsilons, and passes per crop and epsilon.

    Args:
        passes: by the model's name in the report and the attack; `crops` counts a crop once for each epsilon.
    """
    return [
        {
            "model": model,
            "attack": attack,
            **vars(one),
            "forwards_per_image": round((one.forwards + one.surrogate_forwards) / one.crops, 2),
            "gradients_per_image": round((one.gradients + one.surrogate_gradients) / one.crops, 2),
        }
        for (model, attack), one in passes.items()
    ]
