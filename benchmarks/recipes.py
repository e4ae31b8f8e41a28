"""The training recipes at equal cost, and what each part of `flagship` brings.

    python -m benchmarks.recipes --profile demo [--stand-in] [--ablation] [section.key=value ...]

Three seeds each, all recipes of a seed from the same weights. A plain detector is trained for EPOCHS epochs; what that takes, in CPU seconds of
one thread, times COST is what every recipe is given: it trains for as many epochs as fit, by what its epochs cost when they are tried (an epoch where
not one fits; the seconds that it really took are printed). PGD-10 has EPOCHS epochs, whatever they cost. Averaged weights, epsilon's warm-up and
a smooth activation, which go with any recipe, all of them have but `reference`, which is as it was meant. All train at epsilon 1 of 255 against both classes, on crops of the run at
48 pixels, and are scored on a frame of each test video: video AUC under our APGD (margin and cross-entropy, the worse of the two for each image,
both classes) at epsilon 0.5 and 1, mean over the seeds, with a 95 % interval over the test's people.

--stand-in: a made task of the size of CIFAR (32 pixels, a faint checkerboard; benchmarks/small_detector.py) in place of the faces, all at four
times the epsilons.
--ablation: `flagship` whole and with each of its parts taken out, at the same cost, in place of the recipes.

What is trained is kept below the run's `benchmarks/recipes/`; the same command goes on from there.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.small_detector import SIZE, SmallDetector, make_images
from jobs.cli import Variant, run_job
from robust.attacks.apgd import apgd
from robust.attacks.losses import cross_entropy_loss, margin_loss
from robust.attacks.threat import Linf
from robust.config import Config, RecipeConfig, ValidationConfig
from robust.config_file import parse
from robust.config_identity import fingerprint
from robust.data.augment import build_augmentation
from robust.data.crops import CropSet
from robust.data.face_table import read_faces
from robust.data.inputs import to_tensor
from robust.evaluation import curves
from robust.evaluation.bootstrap import draw, intervals
from robust.evaluation.curves import ScoreOrder
from robust.models.detector import build_detector
from robust.storage import Storage
from robust.training.loop import Place, start_training, train_epoch
from robust.training.session import COLUMNS, Crops, limit_threads, load_crops, run_epochs

EPOCHS, COST, SEEDS = 8, 2.5, (24, 25, 26)
TRIED = (4, 16)  # steps of the epochs that tell what a recipe costs
ATTACK_STEPS = 20
BAR = 0.95
"""Share of PGD-10's worst-case AUC that `flagship` is to have at COST of plain training; and it is to be above every other recipe."""
ATTACK = {"epsilon": 1, "targets": "both"}  # epsilon in 0-255 units, times the task's scale
PLAIN = {"attack": {"epsilon": 0}}
COMMON = {"epsilon_warmup": 0.3, "activation": "silu", "ema_decay": 0.99}
FLAGSHIP = {**COMMON, "recipe": "flagship", "attack": {**ATTACK, "steps": 3}, "finish": "madry", "fast_share": 0.7}
RECIPES = {
    "flagship": FLAGSHIP,
    "madry, PGD-7": {**COMMON, "recipe": "madry", "attack": {**ATTACK, "steps": 7}},
    "madry, PGD-2": {**COMMON, "recipe": "madry", "attack": {**ATTACK, "steps": 2}},
    "fast": {**COMMON, "recipe": "fast", "attack": {**ATTACK, "steps": 7}},
    "trades": {**COMMON, "recipe": "trades", "attack": {**ATTACK, "steps": 7}, "beta": 3},
    "reference": {"recipe": "reference", "attack": ATTACK},
}
FULL = {**COMMON, "recipe": "madry", "attack": {**ATTACK, "steps": 10}}
SMOOTH = "the smooth activation"
WITHOUT = {
    "averaged weights": {"ema_decay": 0.0},
    "epsilon's warm-up": {"epsilon_warmup": 0.0},
    "the fast epochs": {"fast_share": 0.0},
    "the strong epochs": {"fast_share": 1.0},
    SMOOTH: {"activation": None},
}
OTHER = {
    "with the Lipschitz term": {"lipschitz": {"weight": 1e-4, "kind": "finite_difference"}},
    "TRADES in place of PGD": {"finish": "trades", "beta": 3},
    "half of the loss on clean crops": {"adversarial_share": 0.5},
}


@dataclass(frozen=True)
class Task:
    """What is learned: crops to train on, images to be scored on, and the network."""

    name: str
    config: Config
    crops: Crops
    x: Tensor
    labels: np.ndarray
    videos: np.ndarray
    identities: list
    scale: float
    network: Callable[[Config, RecipeConfig], nn.Module]


    @property
    def epsilons(self) -> tuple[float, ...]:
        """What is scored at, 0-255 units."""
        return 0.5 * self.scale, 1.0 * self.scale


@dataclass(frozen=True)
class Outcome:
    """scores: by epsilon (0: clean), one a video and seed. seconds, epochs: of a seed, on average."""

    scores: dict[float, np.ndarray]
    seconds: float
    epochs: int


def main(config: Config, storage: Storage, *, stand_in: bool = False, ablation: bool = False) -> dict:
    """Trains and scores what is not there yet, and prints the table and the bars."""
    limit_threads(1)
    task = made_task(config) if stand_in else faces_task(config, storage)
    plain = [trained(task, PLAIN, EPOCHS, seed, storage, "plain") for seed in SEEDS]
    budget = COST * float(np.mean([outcome["seconds"] for outcome in plain]))
    print(f"{task.name}: {len(task.crops.train)} crops to train on, {len(task.x)} to be scored; plain training, {EPOCHS} epochs: {budget / COST:.0f} CPU seconds; "
          f"budget {budget:.0f}", flush=True)
    chosen = {"flagship": FLAGSHIP, **{f"without {name}": {**FLAGSHIP, **change} for name, change in WITHOUT.items()},
              **{name: {**FLAGSHIP, **change} for name, change in OTHER.items()}} if ablation else RECIPES
    if stand_in:  # whose activations are smooth and stay
        chosen.pop(f"without {SMOOTH}", None)
    found = {"plain": _together(task, plain)}
    if not ablation:
        found["PGD-10, equal epochs"] = _together(task, [trained(task, FULL, EPOCHS, seed, storage, "full") for seed in SEEDS])
    for name, settings in chosen.items():
        epochs = fitting(task, settings, budget)
        found[name] = _together(task, [trained(task, settings, epochs, seed, storage, name) for seed in SEEDS])
        print(_line(task, name, found), flush=True)
    rows = {name: _row(task, name, found) for name in found}
    told = table(task, rows) + ([] if ablation else bars(task, rows, budget / COST))
    print("\n".join(told), flush=True)
    key = f"{config.run.name}/benchmarks/recipes_{task.name}{'_ablation' if ablation else ''}.json"
    storage.write_json(key, {"epochs": EPOCHS, "budget": budget, "seeds": SEEDS, "rows": rows})
    return {"summary": f"written to {storage.uri(key)}"}


def faces_task(config: Config, storage: Storage) -> Task:
    """The run's faces at 48 pixels, an EfficientNet-Lite0 from the weights that the run begins with."""
    tree = config.model_dump(mode="json")
    tree["model"]["input_size"] = 48
    config = _light(tree)
    table = read_faces(storage, config.run.name, split="test", columns=[*COLUMNS, "identities"], max_frames_per_video=1, subject_only=True)
    crops = CropSet.from_table(table, config.model.input_size)

    def network(config: Config, recipe: RecipeConfig) -> nn.Module:
        return build_detector(config.model.model_copy(update={"activation": recipe.activation or config.model.activation}))[0]

    return Task("faces", config, load_crops(config, storage), to_tensor(crops.batch(np.arange(len(crops)))), crops.labels, crops.video_ids,
                table.column("identities").to_pylist(), 1.0, network)


def made_task(config: Config) -> Task:
    """Made images; each is a video and a person of its own."""
    config = _light(config.model_dump(mode="json"))
    train, validation, test = (_made(count, seed) for seed, count in enumerate((4096, 64, 1024)))

    def network(config: Config, recipe: RecipeConfig) -> nn.Module:
        return SmallDetector(width=16)

    return Task("stand-in", config, Crops(train, validation, False), to_tensor(test.batch(np.arange(len(test)))), test.labels, test.video_ids,
                [[name] for name in test.video_ids], 4.0, network)


def _made(count: int, seed: int) -> CropSet:
    x, y = make_images(count, generator=torch.Generator().manual_seed(seed))
    pixels = (x.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    names = np.array([f"{seed}-{number:05d}" for number in range(count)], object)
    return CropSet(y.numpy(), names, np.where(y == 1, "made", "real").astype(object), SIZE, pixels=pixels)


def _light(tree: dict) -> Config:
    """Alike for all: what is not a recipe's own."""
    tree["augment"]["level"] = "weak"
    tree["train"] |= {"loader_threads": 0, "batch_size": 32, "optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "ema_decay": 0.0,
                      "warmup_steps": 20, "gradient_clip": 1, "batch_norm": "train", "patience": None}
    return parse(tree)


def trained(task: Task, settings: Mapping, epochs: int, seed: int, storage: Storage, name: str) -> dict:
    """Scores by epsilon and CPU seconds of one training; what is there of the same settings, data and number of epochs is not trained anew."""
    key = f"{task.config.run.name}/benchmarks/recipes/{task.name}/{name}-{seed}.json"
    config, recipe = _asked(task, settings, epochs, seed)
    facts = {"epochs": epochs, "recipe": recipe.model_dump(mode="json"), "settings": fingerprint(config, ("data", "extract", "model", "augment", "train")),
             "crops": len(task.crops.train), "images": len(task.x), "attack_steps": ATTACK_STEPS}
    if storage.exists(key) and {fact: (known := storage.read_json(key)).get(fact) for fact in facts} == facts:
        return known
    torch.manual_seed(seed)
    network, began = task.network(config, recipe), time.process_time()
    never = ValidationConfig(epsilon=0.5, steps=1, max_images=8, every=10_000)
    for training, figures, _ in run_epochs(config, recipe, never, network, task.crops, place=Place()):
        seconds, scored = time.process_time() - began, training.scored
    outcome = {**facts, "seconds": seconds, "loss": figures.losses["total"], "collapsed": training.collapsed,
               "scores": {f"{epsilon:g}": attacked_logits(scored, task, epsilon, seed).tolist() for epsilon in (0.0, *task.epsilons)}}
    storage.write_json(key, outcome)
    print(f"{task.name}, {name}, seed {seed}: {epochs} epochs, {seconds:.0f} CPU seconds, loss {outcome['loss']:.3f}", flush=True)
    return outcome


def _asked(task: Task, settings: Mapping, epochs: int, seed: int) -> tuple[Config, RecipeConfig]:
    """The task's configuration with the seed and the recipe's averaging, and the recipe at the task's epsilon."""
    settings = {**settings, "epochs": epochs, "attack": {**settings["attack"], "epsilon": settings["attack"]["epsilon"] * task.scale}}
    train = task.config.train.model_copy(update={"ema_decay": settings.pop("ema_decay", 0.0)})
    config = task.config.model_copy(update={"run": task.config.run.model_copy(update={"seed": seed}), "train": train})
    return config, RecipeConfig.model_validate(settings)


def fitting(task: Task, settings: Mapping, budget: float) -> int:
    """The most epochs that fit into `budget` CPU seconds, at least 1, by epochs of the first and of the last stage on some crops.

    Two sizes of each tell what a step costs, crops made ready included, and what an epoch costs beside its steps (the collapse check).
    """
    config, recipe = _asked(task, settings, 100, SEEDS[0])
    augment, full = build_augmentation(config.augment), max(1, len(task.crops.train) // config.train.batch_size)
    costs = {}
    for epoch in (0, 99):
        taken = {}
        for steps in (1, *TRIED):  # the first does not count: it is slower
            training = start_training(task.network(config, recipe), config.train, recipe, device=torch.device("cpu"))
            training.epoch = epoch
            before = time.process_time()
            train_epoch(training, _some(task.crops.train, steps * config.train.batch_size), config.train, recipe, augment, seed=0, place=Place())
            taken[steps] = time.process_time() - before
        step = (taken[TRIED[1]] - taken[TRIED[0]]) / (TRIED[1] - TRIED[0])
        costs[epoch] = taken[TRIED[1]] + step * (full - TRIED[1])
    share = recipe.fast_share if recipe.recipe == "flagship" else 1.0
    return max(1, int(budget / (share * costs[0] + (1 - share) * costs[99])))


def _some(crops: CropSet, count: int) -> CropSet:
    """So many of them, of all kinds."""
    chosen = np.linspace(0, len(crops) - 1, min(count, len(crops))).round().astype(int)
    return CropSet(crops.labels[chosen], crops.video_ids[chosen], crops.methods[chosen], crops.size,
                   pixels=np.stack([crops.image(index) for index in chosen]))


def attacked_logits(network: nn.Module, task: Task, epsilon: float, seed: int) -> np.ndarray:
    """(N,) the worse logit of APGD's two losses for each image, both classes attacked; at epsilon 0 the clean ones."""
    network.eval()
    worst = []
    for start in range(0, len(task.x), 64):
        x, y = task.x[start : start + 64], torch.from_numpy(task.labels[start : start + 64])
        with torch.no_grad():
            logits = [network(x)]
        for loss in (margin_loss, cross_entropy_loss) if epsilon else ():
            attacked = apgd(network, x, y, Linf.from_255(epsilon), steps=ATTACK_STEPS, loss=loss, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                logits.append(network(attacked))
        towards_wrong = torch.where(y == 1, -1.0, 1.0)
        worst.append(torch.stack([towards_wrong * logit for logit in logits]).amax(0) * towards_wrong)
    return torch.cat(worst).numpy()


def _together(task: Task, outcomes: list[dict]) -> Outcome:
    scores = {epsilon: np.array([outcome["scores"][f"{epsilon:g}"] for outcome in outcomes]) for epsilon in (0.0, *task.epsilons)}
    return Outcome(scores, float(np.mean([outcome["seconds"] for outcome in outcomes])), round(np.mean([outcome["epochs"] for outcome in outcomes])))


def _row(task: Task, name: str, found: Mapping[str, Outcome]) -> dict:
    """AUC by epsilon, and how far it is from flagship's, each with its 95 % interval over people."""
    outcome, row = found[name], {"seconds": found[name].seconds, "epochs": found[name].epochs}
    draws = draw(list(task.videos), task.identities, count=1000, seed=0)

    def mean_auc(of: Outcome, epsilon: float) -> Callable[[np.ndarray], np.ndarray]:
        orders = [ScoreOrder(scores, task.labels) for scores in of.scores[epsilon]]
        return lambda weights: np.mean([curves.auc(order.curve(weights)) for order in orders], axis=0)

    for epsilon in (0.0, *task.epsilons):
        own, best = mean_auc(outcome, epsilon), mean_auc(found.get("flagship", outcome), epsilon)
        whole = np.ones((1, len(task.videos)), np.float32)
        spread = intervals(draws, task.videos, lambda weights: {"auc": own(weights), "behind": own(weights) - best(weights)})
        row[f"{epsilon:g}"] = {name: [float(value(whole)[0]), spread[name].low, spread[name].high] for name, value in
                               (("auc", own), ("behind", lambda weights: own(weights) - best(weights)))}
    return row


def _line(task: Task, name: str, found: Mapping[str, Outcome]) -> str:
    row = _row(task, name, found)
    return f"{name}: " + ", ".join(f"AUC at epsilon {epsilon:g} {row[f'{epsilon:g}']['auc'][0]:.3f}" for epsilon in (0.0, *task.epsilons))


def table(task: Task, rows: Mapping[str, dict]) -> list[str]:
    low, high = task.epsilons
    lines = [f"| trained | epochs | CPU seconds | AUC | at epsilon {low:g} | at {high:g} | less flagship's, at {low:g} | at {high:g} |", "|---|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*row[f"{epsilon:g}"]["auc"]) for epsilon in (0.0, *task.epsilons)]
        cells += ["" if name == "flagship" else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row[f"{epsilon:g}"]["behind"]) for epsilon in task.epsilons]
        lines.append(f"| {name} | {row['epochs']} | {row['seconds']:.0f} | {' | '.join(cells)} |")
    return lines


def bars(task: Task, rows: Mapping[str, dict], plain_seconds: float) -> list[str]:
    told, flagship = [], rows["flagship"]
    for epsilon in task.epsilons:
        own, full = (rows[name][f"{epsilon:g}"]["auc"][0] for name in ("flagship", "PGD-10, equal epochs"))
        told.append(f"epsilon {epsilon:g}: flagship {own:.3f}, {own / full:.3f} of PGD-10's AUC {full:.3f} (bar {BAR}: {'met' if own >= BAR * full else 'missed'}; chance is 0.5), "
                    f"{flagship['seconds'] / plain_seconds:.2f} x the cost of plain training (bar {COST})")
        for name in RECIPES:
            if name != "flagship":
                other, (_, low, high) = rows[name][f"{epsilon:g}"]["auc"][0], rows[name][f"{epsilon:g}"]["behind"]
                sure = " beyond chance of people" if high < 0 or low > 0 else ", within chance of people"
                told.append(f"epsilon {epsilon:g}: flagship above {name}: {'yes' if own > other else 'no'}{sure} ({own:.3f}, {other:.3f})")
    return told


if __name__ == "__main__":
    variants = {name.replace("_", "-"): Variant(functools.partial(main, **flags), text) for name, flags, text in (
        ("stand_in", {"stand_in": True}, "a made task of the size of CIFAR in place of the run's faces"),
        ("ablation", {"ablation": True}, "flagship with each of its parts taken out, on the run's faces"),
        ("stand_in_ablation", {"stand_in": True, "ablation": True}, "the same on the made task"),
    )}
    sys.exit(run_job("benchmark", main, needs_ray=False, in_run_folder=False, variants=variants))
