"""What the evaluation's attacks cost: passes of `standard` against those needed, our APGD against torchattacks'.

    python -m benchmarks.attack_cost [--crops 48] [--queries 200] [--json FILE]

(a) The suite on a small trained detector and videos of three frames, as jobs.evaluate runs it, and again with every
attack on all crops: the rates of both must be the same. Needed are steps x restarts for each crop that is not settled
when an attack begins (benchmarks/passes_needed.py); of the minimal-norm attack once for all epsilons. Bar: passes
<= 1.2 x needed, and no pass is recorded for a gradient of a parameter.
(b) Images a second of APGD at equal steps and restarts, in turns, on the same images and thread; both leave an image
that is called wrong (ours at once, theirs at the end of a path). Bar: ours >= 1.5 x theirs, over all epsilons. Where
hardly an image is turned, both run all their steps and ours is only a little ahead: the table has each epsilon.
Theirs is installed by `make reference`.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks import apgd_speed, suite_cost
from benchmarks.small_detector import make_images, train_small_detector
from robust.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=48, help="of part (a)")
    parser.add_argument("--queries", type=int, default=200, help="of square in part (a); the suite itself has 5000")
    parser.add_argument("--images", type=int, default=96, help="of part (b)")
    parser.add_argument("--steps", type=int, default=20, help="of part (b)")
    parser.add_argument("--restarts", type=int, default=1, help="of part (b)")
    parser.add_argument("--rounds", type=int, default=3, help="of part (b)")
    parser.add_argument("--json", default="outputs/benchmarks/attack_cost.json", help="where the figures go")
    arguments = parser.parse_args()
    if not (ROOT / ".reference/torchattacks").is_dir():
        raise UserError("torchattacks is not in .reference; install it with: make reference")
    sys.path.append(str(ROOT / ".reference"))  # last, so that nothing of theirs replaces a package of ours
    torch.set_num_threads(1)
    model, surrogate = train_small_detector(), train_small_detector(seed=1, steps=30)
    x, y = make_images(arguments.images, generator=torch.Generator().manual_seed(99))
    budget = {"steps": arguments.steps, "restarts": arguments.restarts, "rounds": arguments.rounds}
    speed = apgd_speed.apgd_speed(model, x, y, **budget)
    speeds = apgd_speed.print_speed(speed, arguments)
    standard = suite_cost.standard(queries=arguments.queries)
    suite = suite_cost.suite_cost(model, surrogate, standard, count=arguments.crops)
    suite_cost.print_suite(suite)
    path = Path(arguments.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"settings": vars(arguments), "suite": suite, "apgd": speed, "speed": speeds}, indent=2) + "\n"
    )
    print(f"\nwritten to {path}")
    fast = min(speeds["ours, margin"], speeds["ours, CE"]) >= apgd_speed.BAR
    return 0 if fast and suite_cost.met(suite) else 1


if __name__ == "__main__":
    sys.exit(main())
