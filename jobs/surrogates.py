"""What the transfer attack is made on: the other checkpoints of the same evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from jobs.candidates import Candidate, load_model
from robust.attacks.registry import NEEDS_SURROGATES
from robust.attacks.transfer import AtInputSize
from robust.evaluation.attack_block import Cell


def possible_cells(candidates: Sequence[Candidate], cells: Sequence[Cell]) -> tuple[list[Cell], list[dict]]:
    """The cells that can be run, and what is left out: transfer, where all checkpoints are the same model.

    Returns:
        the cells, and {"attack", "reason"} of each attack left out, for summary.json.
    """
    if len({candidate.function for candidate in candidates}) > 1:
        return list(cells), []
    left_out = sorted({cell.attack for cell in cells} & NEEDS_SURROGATES)
    reason = "it is made on another checkpoint than the one it is tried on, and there is none; evaluate.checkpoints may name one"
    return [cell for cell in cells if cell.attack not in left_out], [{"attack": name, "reason": reason} for name in left_out]


def cells_of(target: Candidate, candidates: Sequence[Candidate], cells: Sequence[Cell]) -> list[Cell]:
    """The cells for one target; those of transfer name its surrogates, so their results depend on them."""
    others = other_models(target, candidates)
    return [dataclasses.replace(cell, surrogates=others) if cell.attack in NEEDS_SURROGATES else cell for cell in cells]


def other_models(target: Candidate, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Hashes of the others, `Candidate.function`, sorted; those that are the target's very function do not count."""
    return tuple(sorted({candidate.function for candidate in candidates} - {target.function}))


def load_surrogates(cell: Cell, candidates: Sequence[Candidate], device: str) -> list[nn.Module]:
    """The cell's surrogates, each behind a resize to its own input size; none for most attacks."""
    by_hash = {candidate.function: candidate for candidate in candidates}
    models = [load_model(one.storage, one.key, one.sha256, device) for one in map(by_hash.get, cell.surrogates)]
    return [AtInputSize(model, model.input_size) for model in models]
