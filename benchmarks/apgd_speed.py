"""Images a second of our APGD and of torchattacks'; part (b) of `python -m benchmarks.attack_cost`."""

import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.attack_reference import EPSILONS
from robust.attacks.apgd import apgd
from robust.attacks.losses import cross_entropy_loss, margin_loss
from robust.attacks.threat import Linf
from robust.evaluation.passes import Counted

BAR = 1.5


def apgd_speed(model: nn.Module, x: Tensor, y: Tensor, *, steps: int, restarts: int, rounds: int) -> list[dict]:
    """Part (b): CPU seconds of each, in turns; the median of the rounds."""
    import torchattacks

    from benchmarks.reference_worker import TwoLogits

    theirs, rows = TwoLogits(model).eval(), []
    x = x.contiguous(memory_format=torch.channels_last)  # as the evaluation has its images
    for epsilon in EPSILONS:
        ours = partial(apgd, x=x, y=y, threat=Linf.from_255(epsilon), steps=steps, restarts=restarts)
        attack = torchattacks.APGD(theirs, eps=epsilon / 255, steps=steps, n_restarts=restarts, seed=0, loss="ce")
        runs: dict[str, Callable[[nn.Module], Tensor]] = {
            "torchattacks": lambda _, attack=attack: attack(x, y),
            "ours, margin": partial(ours, loss=margin_loss, early_stop=True),
            "ours, CE": partial(ours, loss=cross_entropy_loss, early_stop=True),
            "ours, margin, strongest point": partial(ours, loss=margin_loss),
        }
        seconds = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                began = time.process_time()
                x_adv = run(model)
                seconds[name].append(time.process_time() - began)
        for name, run in runs.items():
            counted = Counted(model)
            if name == "torchattacks":
                attack = torchattacks.APGD(
                    TwoLogits(counted).eval(), eps=epsilon / 255, steps=steps, n_restarts=restarts, seed=0, loss="ce"
                )
                x_adv = attack(x, y)
            else:
                x_adv = run(counted)
            with torch.no_grad():
                robust = ((model(x_adv) > 0).long() == y).float().mean().item()
            rows.append(
                {
                    "epsilon": epsilon,
                    "attack": name,
                    "seconds": statistics.median(seconds[name]),
                    "robust_accuracy": robust,
                    "images_per_second": len(x) / statistics.median(seconds[name]),
                    "passes_per_image": counted.forwards / len(x),
                    "gradients_per_image": counted.gradients / len(x),
                }
            )
    return rows


def print_speed(rows: list[dict], arguments: Namespace) -> dict[str, float]:
    """The table; returns images a second over all epsilons, as multiples of torchattacks'."""
    print(f"\nAPGD-{arguments.steps} x {arguments.restarts}, {arguments.images} images, one thread, CPU time")
    print(
        f"{'epsilon':>8}  {'attack':<30} {'images/s':>9} {'x theirs':>9} "
        f"{'passes an image':>16} {'robust accuracy':>16}"
    )
    base = {row["epsilon"]: row["seconds"] for row in rows if row["attack"] == "torchattacks"}
    total: dict[str, float] = {}
    for row in rows:
        total[row["attack"]] = total.get(row["attack"], 0) + row["seconds"]
        print(
            f"{row['epsilon']:>8g}  {row['attack']:<30} {row['images_per_second']:>9.0f} "
            f"{base[row['epsilon']] / row['seconds']:>9.2f} "
            f"{row['passes_per_image']:>16.1f} {row['robust_accuracy']:>16.3f}"
        )
    speeds = {name: total["torchattacks"] / seconds for name, seconds in total.items()}
    for name, times in speeds.items():
        print(f"     all  {name:<30} {'':>9} {times:>9.2f}")
    return speeds
