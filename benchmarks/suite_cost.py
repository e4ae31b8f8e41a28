"""Passes of the suite `standard` against those that it needs; part (a) of `python -m benchmarks.attack_cost`."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from torch import nn

from benchmarks.attack_reference import EPSILONS
from benchmarks.passes_needed import Watched, passes_needed
from benchmarks.small_videos import FRAMES, frozen, make_videos
from robust.config import EvaluateConfig, EvaluationAttack
from robust.evaluation import sequence
from robust.evaluation.attack_block import Cell, cells
from robust.evaluation.passes import Passes, passes_of
from robust.evaluation.predictions import check_predictions
from robust.evaluation.protocol import build_tables
from robust.evaluation.sequence import plan_items
from robust.evaluation.summary import find

BATCH = 32
BAR = 1.2


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
        before = [results[one] for one in item.after]
        results[item] = sequence.measure(
            model, crops, pixels, item, before, batch_size=BATCH, seed=0, surrogates=surrogates
        )
    return results, time.perf_counter() - began


def standard(*, queries: int) -> dict[str, EvaluationAttack]:
    """The suite `standard` with so many queries for square: its own 5000 take hours."""
    return EvaluateConfig(suite="standard").attacks | {"square": EvaluationAttack(steps=queries)}


def suite_cost(model: nn.Module, surrogate: nn.Module, suite: Mapping[str, EvaluationAttack], *, count: int) -> dict:
    """A suite on `count` crops, as jobs.evaluate runs it and with every attack on all crops."""
    settings = EvaluateConfig(suite="standard", epsilons=list(EPSILONS), headline=("worst", EPSILONS[0]))
    grid = cells(settings.model_copy(update={"suites": {"standard": dict(suite)}}))
    crops, pixels = make_videos(count, seed=99)
    thresholds = frozen(model, *make_videos(count, seed=98))
    watched, others = Watched(model).eval(), [Watched(surrogate).eval()]
    modules = [watched, *others]
    for module in modules:
        module.zero_grad(set_to_none=True)
    on, seconds_on = run_suite(watched, crops, pixels, grid, thresholds, others)
    off, seconds_off = run_suite(watched, crops, pixels, grid, None, others)
    rows = [_row(attack, on, off, thresholds, list(suite)) for attack in suite]
    tables = [tables_of(on, True, grid, thresholds), tables_of(off, False, grid, thresholds)]
    return {
        "crops": len(crops),
        "suite": {cell.attack: cell.label for cell in grid},
        "thresholds": thresholds,
        "attacks": rows,
        "totals": {"only what is still robust": _total(on, seconds_on),
                   "every attack on all crops": _total(off, seconds_off)},
        "ratio": sum(row["forwards"] for row in rows) / sum(row["needed"] for row in rows),
        **differences(*tables),
        "parameters_recorded": max(one.parameters_recorded for one in modules),
        "parameter_gradients": sum(one.grad is not None for module in modules for one in module.parameters()),
    }


def met(suite: Mapping) -> bool:
    """Whether the bar is: few passes, no rate changed, no gradient of a parameter prepared or computed."""
    return (
        suite["ratio"] <= BAR
        and suite["largest_difference_of_a_rate"] == 0
        and suite["parameters_recorded"] == suite["parameter_gradients"] == 0
    )


def _row(
    attack: str, on: Mapping[Cell, pa.Table], off: Mapping[Cell, pa.Table], thresholds: Mapping, order: Sequence[str]
) -> dict:
    """One attack over all epsilons: what it took, and what it needed."""
    parts = [(item, result) for item, result in on.items() if item.attack == attack]
    one = sum((passes_of(result) for _, result in parts), start=Passes())
    return {
        "attack": attack,
        "crops": one.crops,
        "attacked": one.attacked,
        "forwards": one.forwards + one.surrogate_forwards,
        "gradients": one.gradients + one.surrogate_gradients,
        "needed": sum(passes_needed(item, off, thresholds, order) for item, _ in parts),
    }


def _total(results: Mapping[Cell, pa.Table], seconds: float) -> dict:
    one = sum((passes_of(result) for result in results.values()), start=Passes())
    return {
        "forwards": one.forwards + one.surrogate_forwards,
        "gradients": one.gradients + one.surrogate_gradients,
        "seconds": round(seconds, 1),
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


def print_suite(suite: dict) -> None:
    print(
        f"\nsuite standard, {suite['crops']} crops in videos of {FRAMES}, epsilon "
        f"{', '.join(f'{one:g}' for one in EPSILONS)}: {', '.join(suite['suite'].values())}\n"
        f"{'attack':<10} {'crops x eps':>11} {'attacked':>9} {'passes':>9} {'gradients':>10} {'needed':>9} {'ratio':>6}"
    )
    for row in suite["attacks"]:
        print(
            f"{row['attack']:<10} {row['crops']:>11} {row['attacked']:>9} {row['forwards']:>9} "
            f"{row['gradients']:>10} {row['needed']:>9} "
            f"{row['forwards'] / max(1, row['needed']):>6.2f}"
        )
    print(
        f"all: {suite['ratio']:.3f} x the passes needed (bar {BAR:g}); "
        f"parameters recorded in a pass: {suite['parameters_recorded']}, with a gradient: {suite['parameter_gradients']}"
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
