"""What the evaluation's attacks cost: passes of `standard` against those needed, our APGD against torchattacks'.

    python -m benchmarks.attack_cost [--crops 48] [--queries 200] [--json FILE]

(a) The suite on a small trained detector and videos of three frames, as jobs.evaluate runs it, and again with every
attack on all crops: the rates of both must be the same. Needed are steps x restarts for each crop that is not settled
when an attack begins; of the minimal-norm attack once for all epsilons. Bar: passes <= 1.2 x needed, and no gradient of
a parameter.
(b) Images a second of APGD at equal steps and restarts, in turns, on the same images and thread; both leave an image
that is called wrong (ours at once, theirs at the end of a path). Bar: ours >= 1.5 x theirs, over all epsilons. Where
hardly an image is turned, both run all their steps and ours is only a little ahead: the table has each epsilon.
Theirs is installed by `make reference`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from benchmarks.small_detector import make_images, train_small_detector
from robust.attacks.apgd import apgd
from robust.attacks.losses import cross_entropy_loss, margin_loss
from robust.attacks.threat import Linf
from robust.config import EvaluateConfig, EvaluationAttack
from robust.errors import UserError
from robust.evaluation import sequence
from robust.evaluation.attack_block import Cell, cells
from robust.evaluation.metrics import frozen_threshold, video_scores
from robust.evaluation.passes import Counted, Passes, passes_of
from robust.evaluation.predictions import check_predictions
from robust.evaluation.protocol import build_tables
from robust.evaluation.sequence import Curve, plan_items
from robust.evaluation.summary import find

ROOT = Path(__file__).resolve().parent.parent
EPSILONS = (1.0, 2.0, 4.0, 8.0)  # 0-255 units
FRAMES = 3  # of a video
BATCH = 32
PASSES_BAR, SPEED_BAR = 1.2, 1.5


def make_videos(count: int, *, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Crops as `blocks.read_block` gives them: `count` crops in videos of FRAMES, half of these fake."""
    x, y = make_images(4 * count, generator=torch.Generator().manual_seed(seed))
    each = count // 2 // FRAMES * FRAMES
    order = np.concatenate([np.flatnonzero(y.numpy() == label)[:each] for label in (1, 0)])
    labels = y.numpy()[order]
    names = [f"d/{'swap' if label else 'tape'}/{index // FRAMES:03d}" for index, label in enumerate(labels)]
    table = pa.table(
        {
            "video_id": names,
            "frame_index": pa.array(np.arange(len(order)) % FRAMES, pa.int32()),
            "label": pa.array(labels, pa.int8()),
            "method": [name.split("/")[1] for name in names],
            "identities": [[name] for name in names],
        }
    )
    return table, (x[order].permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


@torch.no_grad()
def frozen(model: nn.Module, crops: pa.Table, pixels: np.ndarray) -> dict[str, float]:
    """Thresholds of a card at FPR 1 % and 5 %, on videos of their own."""
    values = model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).numpy()
    labels, videos = crops.column("label").to_numpy(), np.array(crops.column("video_id").to_pylist())
    _, means = video_scores(values, videos)
    of_videos = labels[np.unique(videos, return_index=True)[1]]
    return {
        f"{level}{name}": frozen_threshold(*scores, fpr=fpr)
        for name, fpr in (("", 0.01), ("_fpr_5", 0.05))
        for level, scores in (("frame", (values, labels)), ("video", (means, of_videos)))
    }


def run_suite(
    model: nn.Module,
    crops: pa.Table,
    pixels: np.ndarray,
    grid: list[Cell],
    thresholds: dict | None,
    surrogates: list[nn.Module],
) -> tuple[dict[Cell, pa.Table], float]:
    """The results of every item, and the seconds."""
    results: dict[Cell, pa.Table] = {}
    began = time.perf_counter()
    for item in plan_items(grid, thresholds):
        before = [results[one] for one in getattr(item, "after", ())]
        results[item] = sequence.measure(
            model, crops, pixels, item, before, batch_size=BATCH, seed=0, surrogates=surrogates
        )
    return results, time.perf_counter() - began


def passes_needed(item: Cell, result: pa.Table) -> int:
    """steps x restarts for each crop to be attacked; a minimal-norm attack's are those right without an attack."""
    if isinstance(item, Curve):
        right = (result.column("clean").to_numpy() > 0) == (result.column("label").to_numpy() == 1)
        return item.steps * item.restarts * int(right.sum())
    return item.steps * item.restarts * passes_of(result).attacked


def suite_cost(model: nn.Module, surrogate: nn.Module, *, count: int, queries: int) -> dict:
    """Part (a)."""
    settings = EvaluateConfig(suite="standard", epsilons=list(EPSILONS), headline=("worst", EPSILONS[0]))
    suite = settings.attacks | {"square": EvaluationAttack(steps=queries)}
    grid = cells(settings.model_copy(update={"suites": {"standard": suite}}))
    crops, pixels = make_videos(count, seed=99)
    thresholds = frozen(model, *make_videos(count, seed=98))
    rows, tables, report = [], [], {}
    for name, at in (("only what is still robust", thresholds), ("every attack on all crops", None)):
        results, seconds = run_suite(model, crops, pixels, grid, at, [surrogate])
        tables.append(tables_of(results, at is not None, grid, thresholds))
        total = sum((passes_of(result) for result in results.values()), start=Passes())
        report[name] = {
            "forwards": total.forwards + total.surrogate_forwards,
            "seconds": round(seconds, 1),
            "gradients": total.gradients + total.surrogate_gradients,
        }
        if at is not None:
            for attack in suite:
                parts = [(item, result) for item, result in results.items() if item.attack == attack]
                one = sum((passes_of(result) for _, result in parts), start=Passes())
                rows.append(
                    {
                        "attack": attack,
                        "crops": one.crops,
                        "attacked": one.attacked,
                        "forwards": one.forwards + one.surrogate_forwards,
                        "gradients": one.gradients + one.surrogate_gradients,
                        "needed": sum(passes_needed(item, result) for item, result in parts),
                    }
                )
    ratio = sum(row["forwards"] for row in rows) / sum(row["needed"] for row in rows)
    return {
        "crops": len(crops),
        "queries": queries,
        "thresholds": thresholds,
        "attacks": rows,
        "totals": report,
        "ratio": ratio,
        **differences(*tables),
        "parameter_gradients": sum(one.grad is not None for one in model.parameters()),
    }


def tables_of(results: dict[Cell, pa.Table], sequential: bool, grid: list[Cell], thresholds: dict) -> list[dict]:
    rows = check_predictions(
        pa.concat_tables(
            rows for item, result in results.items() for rows in sequence.as_predictions(result, "small", item)
        )
    )
    if sequential:
        rows = sequence.accumulate(rows, list(dict.fromkeys(cell.attack for cell in grid)))
    return build_tables(rows, {"small": thresholds}, resamples=10, seed=0)["attacks"]


def differences(on: list[dict], off: list[dict]) -> dict:
    """How much the worst case's rates and AUC differ between the two ways; AUC at each level and epsilon."""
    largest, aucs = 0.0, []
    for level in ("frame", "video"):
        for epsilon in EPSILONS:
            where = {"attack": "worst", "level": level, "epsilon": epsilon, "group": "all"}
            one, other = find(on, **where), find(off, **where)
            for threshold, rates in other["at"].items():
                for name in ("fake_to_real", "real_to_fake", "robust_accuracy"):
                    if rates[name]["value"] is not None:
                        largest = max(largest, abs(one["at"][threshold][name]["value"] - rates[name]["value"]))
            auc = one["robust_auc"]
            aucs.append(
                {
                    "level": level,
                    "epsilon": epsilon,
                    "on": auc["value"],
                    "at_least": auc.get("at_least"),
                    "off": other["robust_auc"]["value"],
                    "aurc_on": one["aurc"]["value"],
                    "aurc_off": other["aurc"]["value"],
                    "robust_accuracy": one["at"]["zero"]["robust_accuracy"]["value"],
                }
            )
    return {"largest_difference_of_a_rate": largest, "auc": aucs}


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
    model.zero_grad(set_to_none=True)
    speed = apgd_speed(model, x, y, steps=arguments.steps, restarts=arguments.restarts, rounds=arguments.rounds)
    speeds = print_speed(speed, arguments)
    suite = suite_cost(model, surrogate, count=arguments.crops, queries=arguments.queries)
    print_suite(suite)
    path = Path(arguments.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"settings": vars(arguments), "suite": suite, "apgd": speed, "speed": speeds}, indent=2) + "\n"
    )
    print(f"\nwritten to {path}")
    fine = (
        suite["ratio"] <= PASSES_BAR
        and suite["largest_difference_of_a_rate"] == 0
        and suite["parameter_gradients"] == 0
    )
    return 0 if fine and min(speeds["ours, margin"], speeds["ours, CE"]) >= SPEED_BAR else 1


def print_speed(rows: list[dict], arguments: argparse.Namespace) -> dict[str, float]:
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


def print_suite(suite: dict) -> None:
    print(
        f"\nsuite standard, {suite['crops']} crops in videos of {FRAMES}, epsilon "
        f"{', '.join(f'{one:g}' for one in EPSILONS)}, square with {suite['queries']} queries\n"
        f"{'attack':<10} {'crops x eps':>11} {'attacked':>9} {'passes':>9} {'gradients':>10} {'needed':>9} {'ratio':>6}"
    )
    for row in suite["attacks"]:
        print(
            f"{row['attack']:<10} {row['crops']:>11} {row['attacked']:>9} {row['forwards']:>9} "
            f"{row['gradients']:>10} {row['needed']:>9} "
            f"{row['forwards'] / max(1, row['needed']):>6.2f}"
        )
    print(
        f"all: {suite['ratio']:.3f} x the passes needed (bar {PASSES_BAR:g}); "
        f"parameters with a gradient: {suite['parameter_gradients']}"
    )
    for name, total in suite["totals"].items():
        print(
            f"{name}: {total['forwards']} passes, {total['gradients']} of them with a gradient, "
            f"{total['seconds']:.1f} s"
        )
    print(f"largest difference of a rate at any threshold: {suite['largest_difference_of_a_rate']:g}")
    for row in suite["auc"]:
        bound = "" if row["at_least"] is None else f" (at least {row['at_least']:.4f})"
        print(
            f"{row['level']} epsilon {row['epsilon']:g}: robust accuracy {row['robust_accuracy']:.3f}, "
            f"AUC {row['on']:.4f}{bound}, on all crops "
            f"{row['off']:.4f}; AURC {row['aurc_on']:.4f}, {row['aurc_off']:.4f}"
        )


if __name__ == "__main__":
    sys.exit(main())
