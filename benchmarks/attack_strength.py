"""Our attacks against torchattacks, foolbox and ART on three small detectors of real faces, at equal budget.

    python -m benchmarks.attack_strength --profile demo [--square] [section.key=value ...]

Trains an EfficientNet-Lite0 at 48 pixels on the face crops of a run (jobs.extract is enough): plainly, then from there on
PGD and with the Lipschitz term; attacks IMAGES test crops of each. The bar for each model and epsilon: the robust
accuracy that our strongest attack leaves is at most one image above that of the libraries' strongest, all of STEPS steps
and one start. --square adds torchattacks' Square of QUERIES queries, on the images that our strongest attack left right,
which bounds what it leaves of all (benchmarks/square_bound.py). What is done is kept below the run's
`benchmarks/attack_strength/`, and the same command again goes on from there. The libraries are installed by `make reference`.
"""

import dataclasses
import functools
import sys

import torch
from torch import Tensor, nn

from benchmarks.attack_reference import EPSILONS, LIBRARIES, STRONG, Row, compare, print_header, print_row
from benchmarks.square_bound import SQUARE, Bound, square_bounds
from jobs.cli import Variant, run_job
from robust.config import AttackConfig, Config, LipschitzConfig, RecipeConfig
from robust.data.crops import CropSet
from robust.data.face_table import read_faces
from robust.data.inputs import to_tensor
from robust.evaluation.metrics import auc
from robust.models.checkpoint import load_checkpoint, save_checkpoint
from robust.storage import Storage
from robust.training.loop import Place
from robust.training.session import COLUMNS, initial_detector, limit_threads, load_crops, run_epochs

IMAGES = 256
MODEL = {"name": "tf_efficientnet_lite0", "input_size": 48, "weights": "package"}
STEPS = 85
QUERIES = 5000  # of Square, as in the suite `standard`
NO_ATTACK = AttackConfig(epsilon=0)
RECIPES = {
    "plain": RecipeConfig(epochs=4, attack=NO_ATTACK),
    "adversarial": RecipeConfig(
        epochs=6, activation="silu", attack=AttackConfig(epsilon=2, steps=2), epsilon_warmup=0.4),
    "lipschitz": RecipeConfig(  # a trial with ten times the weight became a constant; with ReLU, one with half of it
        epochs=2, activation="silu", attack=NO_ATTACK, learning_rate=3e-4,
        lipschitz=LipschitzConfig(weight=1e-3, norm="l1", kind="finite_difference", at="clean")),
}
START = {"adversarial": "plain", "lipschitz": "plain"}  # whose weights it begins with
# What is trained is what is attacked: without the batch's own statistics.
SETTINGS = dict.fromkeys(START, {"batch_norm": "frozen", "warmup_steps": 20})
# Measured in this order, all models before the next group.
ATTACKS = {
    "ours": tuple(name for name in (*LIBRARIES, *STRONG) if name.startswith("ours") and "Square" not in name),
    "libraries": tuple(name for name in (*LIBRARIES, *STRONG) if not name.startswith("ours") and "Square" not in name),
}


def main(config: Config, storage: Storage, *, square: bool = False) -> dict:
    """Prints each row as it is measured, and the bar's outcome; writes all below the run's `benchmarks/`."""
    limit_threads(1)
    light = {"model": config.model.model_copy(update=MODEL), "augment": config.augment.model_copy(update={"level": "weak"})}
    config = config.model_copy(update=light)
    folder = f"{config.run.name}/benchmarks/attack_strength"
    models = _train(config, storage, folder)
    faces = CropSet.from_table(
        read_faces(storage, config.run.name, split="test", columns=COLUMNS), config.model.input_size)
    chosen = faces.evenly_over_videos(IMAGES)
    x, y = to_tensor(faces.batch(chosen)), torch.from_numpy(faces.labels[chosen])
    rows: dict[str, list[Row]] = {name: [] for name in models}
    for group in ATTACKS:
        for name, (model, sha256) in models.items():
            rows[name] += _rows(storage, f"{folder}/{name}/{group}.json", group, model, sha256, x, y)
    bounds: dict[str, list[Bound]] = {name: [] for name in models}
    if square:
        for name, (model, sha256) in models.items():
            print_header(f"{name}: {QUERIES} queries, on the images that our strongest attack left right")
            left = {epsilon: strongest(rows[name], epsilon, ours=True).still_right for epsilon in EPSILONS}
            bounds[name] = square_bounds(
                storage, f"{folder}/{name}/square.json", model, sha256, x, y, left, queries=QUERIES, on_row=print_row)
    report = {name: {**_clean(model, x, y), "cells": cells(rows[name], bounds[name], len(x)),
                     "rows": [dataclasses.asdict(row) for row in rows[name]],
                     "square": [dataclasses.asdict(bound) for bound in bounds[name]]} for name, (model, _) in models.items()}
    missed = [f"{name} at {cell['epsilon']:g}" for name in report for cell in report[name]["cells"] if not cell["met"]]
    budget = {"steps": STEPS, "queries": QUERIES if square else None, "epsilons": EPSILONS, "images": len(x)}
    storage.write_json(f"{folder}.json", {**budget, "models": report, "missed": missed})
    for name, facts in report.items():
        print(f"\n{name}: {len(x)} faces, clean accuracy {facts['accuracy']:.3f}, AUC {facts['auc']:.3f}")
        for cell in facts["cells"]:
            print(f"  epsilon {cell['epsilon']:g}: {cell['ours']:.3f} ({cell['our_attack']}), "
                  f"libraries {cell['theirs']:.3f} ({cell['their_attack']}); all attacks of each side together "
                  f"{cell['ours_together']:.3f}, {cell['theirs_together']:.3f}{_of_square(cell['square'])}")
    outcome = f"missed: {', '.join(missed)}" if missed else "met in every cell"
    return {"summary": f"bar {outcome}; written to {storage.uri(folder)}.json"}


def _train(config: Config, storage: Storage, folder: str) -> dict[str, tuple[nn.Module, str]]:
    """The models of RECIPES and the SHA-256 of their weights; those that are there with the same recipe are not trained."""
    models: dict[str, tuple[nn.Module, str]] = {}
    crops = load_crops(config, storage)
    for name, recipe in RECIPES.items():
        key, settings = f"{folder}/{name}", SETTINGS.get(name, {})
        facts = {"recipe": recipe.model_dump(), "started_from": START.get(name, MODEL["weights"]), **settings}
        here = config.model_copy(update={"train": config.train.model_copy(update=settings)})
        if storage.exists(f"{key}/card.json"):
            model, card = load_checkpoint(storage, key)
            if {fact: card.get(fact) for fact in facts} == facts:
                models[name] = model, card["sha256"]
                continue
        torch.manual_seed(config.run.seed)
        network, _ = initial_detector(here, recipe, storage)
        if name in START:
            network.load_state_dict(models[START[name]][0].state_dict())
        for training, epoch, scores in run_epochs(here, recipe, here.train.validation, network, crops, place=Place()):
            print(f"{name}: epoch {training.epoch} of {recipe.epochs}, loss {epoch.losses['total']:.3f}, "
                  f"{epoch.seconds:.0f} s", flush=True)
        network = training.scored.eval()
        network.offset += scores["equal_error_logit"]  # as jobs.train does: logit 0 is where its errors are equal
        card = save_checkpoint(storage, key, network, {**facts, "threshold": 0.0})
        models[name] = network, card["sha256"]
    return models


def _rows(storage: Storage, key: str, group: str, model: nn.Module, sha256: str, x: Tensor, y: Tensor) -> list[Row]:
    """One group of attacks on one model, measured unless it is there already."""
    facts = {"weights": sha256, "images": len(x), "attacks": list(ATTACKS[group]), "epsilons": list(EPSILONS), "steps": STEPS}
    known = storage.read_json(key) if storage.exists(key) else {}
    if {fact: known.get(fact) for fact in facts} == facts:
        return [Row(**row) for row in known["rows"]]
    clean = _clean(model, x, y)
    print_header(f"{key.split('/')[-2]}: {len(x)} faces, clean accuracy {clean['accuracy']:.3f}, AUC {clean['auc']:.3f}, "
                 f"{STEPS} steps")
    rows = compare(model, x, y, steps=STEPS, epsilons=EPSILONS, attacks=ATTACKS[group], nested=True, on_row=print_row)
    storage.write_json(key, {**facts, "rows": [dataclasses.asdict(row) for row in rows]})
    return rows


def strongest(rows: list[Row], epsilon: float, *, ours: bool) -> Row:
    """The row of the single attack that leaves least, ours or theirs."""
    side = [row for row in rows if row.epsilon == epsilon and row.library.startswith("ours") == ours]
    return min(side, key=lambda row: row.robust_accuracy)


def cells(rows: list[Row], bounds: list[Bound], images: int) -> list[dict]:
    """For each epsilon: the lowest robust accuracy of a single attack, ours and theirs, and of all attacks together.

    With bounds (none: Square was not run), the bar asks for at most one image above the least that Square can leave, too.
    """
    square, found = {bound.epsilon: bound for bound in bounds}, []
    for epsilon in EPSILONS:
        ours, theirs = (strongest(rows, epsilon, ours=which) for which in (True, False))
        sides = [[set(row.still_right) for row in rows if row.epsilon == epsilon and row.library.startswith("ours") == which]
                 for which in (True, False)]
        bound = square.get(epsilon)
        lowest = min(theirs.robust_accuracy, bound.at_least / images) if bound else theirs.robust_accuracy
        found.append({
            "epsilon": epsilon, "ours": ours.robust_accuracy, "our_attack": _full_name(ours),
            "theirs": theirs.robust_accuracy, "their_attack": _full_name(theirs),
            "ours_together": len(set.intersection(*sides[0])) / images, "theirs_together": len(set.intersection(*sides[1])) / images,
            "square": {"images": len(bound.left), "turned": len(bound.turned), "at_least": bound.at_least / images} if bound else None,
            "met": ours.robust_accuracy <= lowest + 1 / images + 1e-9,
        })
    return found


def _of_square(square: dict | None) -> str:
    if square is None:
        return ""
    if not square["images"]:
        return f"; {SQUARE} not run: ours left nothing"
    return f"; {SQUARE} turned {square['turned']} of the {square['images']} that ours left, so it leaves at least {square['at_least']:.3f}"


def _full_name(row: Row) -> str:
    return f"{row.library} PGD" if row.library in LIBRARIES else row.library


@torch.no_grad()
def _clean(model: nn.Module, x: Tensor, y: Tensor) -> dict:
    logits = torch.cat([model(batch) for batch in x.split(64)])
    return {"accuracy": ((logits > 0).long() == y).float().mean().item(), "auc": auc(logits.numpy(), y.numpy())}


if __name__ == "__main__":
    square = Variant(functools.partial(main, square=True), f"also torchattacks' Square, of {QUERIES} queries, on what our strongest attack left")
    sys.exit(run_job("benchmark", main, needs_ray=False, in_run_folder=False, variants={"square": square}))
