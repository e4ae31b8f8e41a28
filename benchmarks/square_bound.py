"""How far torchattacks' Square can get below our strongest attack; for the table of `benchmarks.attack_strength`.

Our strongest attack leaves A images right. Square is run on these alone: if it turns t of them, it leaves at least A - t of
all images right, whatever it does to the others. That bound is what the bar is held against, so a cell that meets the bar
meets it against Square on all images; one that misses it might not. Where A is 0 nothing can leave less, and Square is not run.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from benchmarks.attack_reference import Row, compare
from robust.storage import Storage

SQUARE = "torchattacks Square"


@dataclasses.dataclass(frozen=True)
class Bound:
    """What Square did to the images that our strongest attack left right; places among all images."""

    epsilon: float  # 0-255 units
    left: list[int]  # by our strongest attack
    turned: list[int]  # of these, by Square here or at a smaller epsilon
    cpu_seconds: float  # of Square at this epsilon

    @property
    def at_least(self) -> int:
        """So many images Square leaves right."""
        return len(self.left) - len(self.turned)


def square_bounds(
    storage: Storage,
    key: str,
    model: nn.Module,
    sha256: str,
    x: Tensor,
    y: Tensor,
    left: Mapping[float, Sequence[int]],
    *,
    queries: int,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Bound]:
    """A bound for each epsilon, measured unless it is kept already: thousands of queries an image take minutes.

    As in the other rows of the table, an image that is turned at a smaller epsilon counts as turned. So an image is attacked
    at each epsilon up to the largest at which our attack left it right.

    Args:
        key: where the bounds are kept, as JSON, after each epsilon.
        sha256: of the model's weights.
        x, y: (N, 3, H, W) float32 images in [0, 1] and (N,) labels, 1 = fake.
        left: {epsilon in 0-255 units, ascending: places of the images that our strongest attack left right}.
        queries: of the model, an image and epsilon.
        on_row: called with each row when it is measured; its robust accuracy is among the images that were attacked.
    """
    facts = {"weights": sha256, "images": len(x), "queries": queries,
             "left": [[epsilon, *sorted(places)] for epsilon, places in left.items()]}
    known = storage.read_json(key) if storage.exists(key) else {}
    same = {fact: known.get(fact) for fact in facts} == facts
    bounds = [Bound(**bound) for bound in known["bounds"]] if same else []
    turned = set(known["turned"]) if same else set()
    for epsilon in list(left)[len(bounds):]:
        later = set().union(*(places for larger, places in left.items() if larger >= epsilon))
        chosen, seconds = sorted(later - turned), 0.0
        if chosen:
            row, = compare(model, x[chosen], y[chosen], queries=queries, epsilons=(epsilon,), attacks=(SQUARE,), on_row=on_row)
            turned |= set(chosen) - {chosen[place] for place in row.still_right}
            seconds = row.cpu_ms_per_image * len(chosen) / 1000
        bounds.append(Bound(epsilon, sorted(left[epsilon]), sorted(turned & set(left[epsilon])), seconds))
        storage.write_json(key, {**facts, "turned": sorted(turned), "bounds": [dataclasses.asdict(bound) for bound in bounds]})
    return bounds
