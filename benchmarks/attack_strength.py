"""Our attacks against torchattacks, foolbox and ART on three small detectors of real faces, at equal budget.

    python -m benchmarks.attack_strength --profile demo [section.key=value ...]

Trains three MesoInception4 on the face crops of a run (jobs.extract is enough): a plain one, one on PGD and one with the
Lipschitz term; attacks IMAGES test crops of each. The bar for each model and epsilon: the robust accuracy that our
strongest attack leaves is at most one image above the lowest of the libraries'. The libraries are installed by
`make reference`.
"""

import dataclasses
import sys

import torch
from torch import Tensor, nn

from benchmarks.attack_reference import LIBRARIES, STRONG, Row, compare, print_table
from jobs.cli import run_job
from robust.config import AttackConfig, Config, LipschitzConfig, RecipeConfig
from robust.data.crops import CropSet
from robust.data.inputs import to_tensor
from robust.data.shards import read_faces
from robust.evaluation.metrics import auc
from robust.storage import Storage
from robust.training.loop import Place
from robust.training.session import COLUMNS, initial_detector, limit_threads, load_crops, run_epochs

IMAGES = 256
SIZE = 64  # pixels
STEPS = 30
EPSILONS = (1.0, 2.0, 4.0, 8.0)  # 0-255 units
NO_ATTACK = AttackConfig(epsilon=0)
RECIPES = {
    "plain": RecipeConfig(epochs=6, attack=NO_ATTACK),
    "adversarial": RecipeConfig(epochs=6, attack=AttackConfig(epsilon=4, steps=3), epsilon_warmup=0.5),
    "Lipschitz": RecipeConfig(epochs=6, attack=NO_ATTACK, activation="silu", lipschitz=LipschitzConfig(weight=1e-3, at="clean")),
}


def main(config: Config, storage: Storage) -> dict:
    """Prints a table for each model and the bar's outcome; writes all rows below the run's `benchmarks/`."""
    limit_threads(1)
    config = config.model_copy(update={"model": config.model.model_copy(
        update={"name": "meso_inception4", "input_size": SIZE, "weights": "none"})})
    crops = load_crops(config, storage)
    faces = CropSet.from_table(read_faces(storage, config.run.name, split="test", columns=COLUMNS), SIZE)
    chosen = faces.evenly_over_videos(IMAGES)
    x, y = to_tensor(faces.batch(chosen)), torch.from_numpy(faces.labels[chosen])
    report, missed = {}, []
    for name, recipe in RECIPES.items():
        torch.manual_seed(config.run.seed)
        network, _ = initial_detector(config, recipe, storage)
        for training, _, _ in run_epochs(config, recipe, config.train.validation, network, crops, place=Place()):
            pass
        model = training.scored.eval()
        rows = compare(model, x, y, steps=STEPS, epsilons=EPSILONS, attacks=(*LIBRARIES, *STRONG))
        print_table(f"{name}: {len(x)} faces, clean AUC {_auc(model, x, y):.3f}, {STEPS} steps", rows)
        report[name] = [dataclasses.asdict(row) for row in rows]
        missed += [f"{name} at {epsilon:g}" for epsilon in EPSILONS if not _bar_met(rows, epsilon, len(x))]
    key = f"{config.run.name}/benchmarks/attack_strength.json"
    storage.write_json(key, {"steps": STEPS, "images": len(x), "models": report, "missed": missed})
    return {"summary": f"bar {'missed: ' + ', '.join(missed) if missed else 'met in every cell'}; written to {storage.uri(key)}"}


def _bar_met(rows: list[Row], epsilon: float, images: int) -> bool:
    """Our strongest single attack leaves at most one image more than the libraries' strongest."""
    lowest = {ours: min(row.robust_accuracy for row in rows if row.epsilon == epsilon and row.library.startswith("ours") == ours)
              for ours in (True, False)}
    return lowest[True] <= lowest[False] + 1 / images + 1e-9


@torch.no_grad()
def _auc(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return auc(torch.cat([model(batch) for batch in x.split(64)]).numpy(), y.numpy())


if __name__ == "__main__":
    sys.exit(run_job("benchmark", main, needs_ray=False, in_run_folder=False))
