"""What the transfer attack is made on: the other checkpoints of the same evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from jobs.candidates import Candidate, load_model
from robust.attacks.registry import NEEDS_SURROGATES
from robust.attacks.transfer import AtInputSize
from robust.errors import ConfigError
from robust.evaluation.attack_block import Cell


def cells_of(target: Candidate, candidates: Sequence[Candidate], cells: Sequence[Cell]) -> list[Cell]:
    """The cells for one target; those of transfer name the weights of its surrogates, so their results depend on them.

    Raises:
        ConfigError: there is no checkpoint with other weights than the target's.
    """
    others = tuple(sorted({candidate.sha256 for candidate in candidates} - {target.sha256}))
    needed = sorted({cell.attack for cell in cells} & NEEDS_SURROGATES)
    if needed and not others:
        raise ConfigError(
            f"evaluate.suite: its {needed[0]} makes images on another checkpoint than {target.name}, and there is none; "
            f"name one in evaluate.checkpoints, or choose a suite without {needed[0]}"
        )
    return [dataclasses.replace(cell, surrogates=others) if cell.attack in NEEDS_SURROGATES else cell for cell in cells]


def load_surrogates(cell: Cell, candidates: Sequence[Candidate], device: str) -> list[nn.Module]:
    """The cell's surrogates, each behind a resize to its own input size; none for most attacks."""
    of_weights = {candidate.sha256: candidate for candidate in candidates}
    models = [load_model(one.storage, one.key, one.sha256, device) for one in map(of_weights.get, cell.surrogates)]
    return [AtInputSize(model, model.input_size) for model in models]
