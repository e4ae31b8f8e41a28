"""How long should APGD's first steps be? Images left right after first steps of epsilon and of 2 epsilon (the paper's).

    python -m benchmarks.apgd_first_step [--detectors 3] [--images 128] [--seeds 3] [--steps 20] [--json FILE]

On small detectors trained on PGD of epsilon 2, each on images that it is right about; Linf, one start, margin. In the
ball of 2 epsilon every random start is thrown into a corner by its first step.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.attack_reference import EPSILONS
from benchmarks.small_detector import make_images, train_small_detector
from robust.attacks.apgd import apgd
from robust.attacks.threat import Linf

FIRST_STEPS = (1.0, 2.0)  # in epsilons


@dataclasses.dataclass(frozen=True)
class Row:
    """Images left right on one detector, for each seed of the random starts; epsilon in 0-255 units."""

    detector: int
    epsilon: float
    first_step: float
    images: int
    left: list[int]


def measure(model: nn.Module, x: Tensor, y: Tensor, *, detector: int, seeds: int, steps: int) -> list[Row]:
    """Each epsilon with each first step, on the images that the model is right about."""
    with torch.no_grad():
        right = (model(x) > 0) == (y > 0)
    x, y = x[right].contiguous(memory_format=torch.channels_last), y[right]
    rows = []
    for epsilon in EPSILONS:
        for first_step in FIRST_STEPS:
            left = []
            for seed in range(seeds):
                generator = torch.Generator().manual_seed(seed)
                budget = {"steps": steps, "generator": generator, "first_step": first_step, "early_stop": True}
                x_adv = apgd(model, x, y, Linf.from_255(epsilon), **budget)
                with torch.no_grad():
                    left.append(int(((model(x_adv) > 0) == (y > 0)).sum()))
            rows.append(Row(detector, epsilon, first_step, len(x), left))
    return rows


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", type=int, default=3)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3, help="of the random starts")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--training-steps", type=int, default=60)
    parser.add_argument("--json", default="outputs/benchmarks/apgd_first_step.json", help="where the figures go")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    x, y = make_images(arguments.images, generator=torch.Generator().manual_seed(99))
    rows = []
    for seed in range(arguments.detectors):
        model = train_small_detector(seed=seed, steps=arguments.training_steps)
        rows += measure(model, x, y, detector=seed, seeds=arguments.seeds, steps=arguments.steps)
    columns = "".join(f"{f'first step {one:g} epsilon':>24}" for one in FIRST_STEPS)
    print(f"APGD-{arguments.steps}, one start: images left right, of those right without an attack, by seed\n"
          f"{'detector':>8} {'images':>7} {'epsilon':>8}{columns}")
    for row in rows[::len(FIRST_STEPS)]:
        same = [other for other in rows if (other.detector, other.epsilon) == (row.detector, row.epsilon)]
        print(f"{row.detector:>8} {row.images:>7} {row.epsilon:>8g}"
              + "".join(f"{', '.join(map(str, other.left)):>24}" for other in same))
    for first_step in FIRST_STEPS:
        total = sum(sum(row.left) for row in rows if row.first_step == first_step)
        print(f"first steps of {first_step:g} epsilon: {total} left in all")
    path = Path(arguments.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"settings": vars(arguments), "rows": [dataclasses.asdict(row) for row in rows]}
    path.write_text(json.dumps(document, indent=2) + "\n")
    return rows


if __name__ == "__main__":
    main()
