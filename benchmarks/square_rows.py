"""Square, ours and torchattacks', at equal queries: more rows for the table of `benchmarks.attack_strength`.

Thousands of queries an image take hours, so what is kept is kept after each epsilon, and a run that was stopped goes on
with the epsilon that it was at.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.attack_reference import STRONG, Row, compare
from robust.storage import Storage

SQUARES = tuple(name for name in STRONG if "Square" in name)


def square_rows(
    storage: Storage,
    folder: str,
    model: nn.Module,
    sha256: str,
    x: Tensor,
    y: Tensor,
    *,
    queries: int,
    epsilons: Sequence[float],
    attacks: Sequence[str] = SQUARES,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """A row for each attack and epsilon, measured unless it is kept already.

    An image that is wrong without an attack, or that this attack has flipped at a smaller epsilon, counts as flipped and
    is not attacked again, as in the other rows of the table. Mean margin and largest change are over the images that were
    left when the command began.

    Args:
        folder: where the rows are kept, a JSON file for each attack.
        sha256: of the model's weights.
        x, y: (N, 3, H, W) float32 images in [0, 1] and (N,) labels, 1 = fake.
        epsilons: 0-255 units, ascending.
        on_row: called with each row when it is measured.
    """
    rows = []
    for attack in attacks:
        key = f"{folder}/{attack.replace(' ', '_').lower()}.json"
        facts = {"weights": sha256, "images": len(x), "attack": attack, "queries": queries, "epsilons": list(epsilons)}
        known = storage.read_json(key) if storage.exists(key) else {}
        same = {fact: known.get(fact) for fact in facts} == facts
        kept = [Row(**row) for row in known["rows"]] if same else []
        left = kept[-1].still_right if kept else _right(model, x, y)

        def keep(row: Row, kept: list[Row] = kept, key: str = key, facts: dict = facts, left: list[int] = left) -> None:
            kept.append(_among_all(row, left, len(x)))
            storage.write_json(key, {**facts, "rows": [dataclasses.asdict(one) for one in kept]})
            on_row(kept[-1])

        missing = tuple(epsilons[len(kept):])
        if missing and left:
            compare(model, x[left], y[left], queries=queries, epsilons=missing, attacks=(attack,), nested=True, on_row=keep)
        rows += kept + [_nothing_left(attack, epsilon) for epsilon in epsilons[len(kept):]]
    return rows


@torch.no_grad()
def _right(model: nn.Module, x: Tensor, y: Tensor) -> list[int]:
    logits = torch.cat([model(batch) for batch in x.split(64)])
    return ((logits > 0) == (y > 0)).nonzero().flatten().tolist()


def _among_all(row: Row, left: Sequence[int], images: int) -> Row:
    """The row of an attack on some of the images as one of all; the others are flipped already."""
    still_right = [left[place] for place in row.still_right]
    share = len(left) / images
    return dataclasses.replace(row, still_right=still_right, robust_accuracy=len(still_right) / images,
                               cpu_ms_per_image=row.cpu_ms_per_image * share)


def _nothing_left(attack: str, epsilon: float) -> Row:
    return Row(epsilon, attack, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, [])
