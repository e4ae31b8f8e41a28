"""The training loop: augment -> attack the augmented crop -> loss on it plus the Lipschitz term -> step.

Plain torch: jobs/train.py runs it in Ray Train workers, jobs/tune.py in trials, tests in-process. Baseline and defended are the same
loop; the baseline's epsilon and Lipschitz weight are 0.
"""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from robust.config import RecipeConfig, TrainConfig
from robust.data.augment import Augmentation
from robust.data.crops import CropSet
from robust.data.inputs import to_tensor
from robust.data.order import draw_seeds, epoch_batches, places_of
from robust.errors import NonFiniteLoss
from robust.training.averaging import WeightAverage
from robust.training.collapse import CollapseGuard
from robust.training.folding import FoldedNetwork
from robust.training.modes import set_training
from robust.training.objective import Objective
from robust.training.recipes import recipe_named, stage_of
from robust.training.schedule import cosine_rate, rising_epsilon
from robust.training.step import GRADIENT_NORM, take_step

FINITE = "finite"
"""Among an epoch's sums: how many of its steps had a finite loss."""
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class Place:
    """This worker among all of them, and its device."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")
    loader_threads: int = 0


@dataclass
class Training:
    """All that changes while a model trains; what a checkpoint must hold to go on."""

    network: nn.Module
    objective: nn.Module  # the network in its `Objective`, wrapped for DDP where there are several workers
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    fold: bool = True
    epoch: int = 0  # epochs finished
    step: int = 0  # steps done of the epoch under way
    sums: dict[str, torch.Tensor] = field(default_factory=dict)  # of its losses so far
    can_pause: bool = False  # between any two steps: a saved state then has all that the rest of the epoch needs
    collapsed: bool = False  # a single-step attack was fooled once: PGD from then on
    best: float = -math.inf  # robust AUC of the best validation so far (rank 0 alone knows it)
    since_best: int = 0  # validations since
    first_spread: float = math.inf  # of its validation logits before the first step (rank 0 alone knows it)
    probed: tuple[float, float] | None = None  # epsilon and the collapse probe's AUC of these weights; a resumed run measures it anew
    folded: FoldedNetwork | None = None  # what is attacked, once a batch has been seen
    statistics: torch.Tensor | None = None  # (workers, values) of batch norms, from a state or for one; see robust/training/state.py
    perturbation: torch.Tensor | None = None  # of the last batch, carried to the next by recipes that replay

    @property
    def scored(self) -> nn.Module:
        """The network that is validated, saved and attacked: the average where there is one."""
        return self.network if self.average is None else self.average.network

    def validated(self, robust_auc: float) -> None:
        """Notes a validation: whether it is better than all before (nan is not)."""
        better = robust_auc > self.best
        self.best, self.since_best = (robust_auc, 0) if better else (self.best, self.since_best + 1)

    def attacked(self, x: torch.Tensor) -> nn.Module:
        """The network that an attack on images like x differentiates: the deployed function, folded if that is asked for."""
        if not self.fold:
            return self.network
        if self.folded is None:
            self.folded = FoldedNetwork(self.network, x)
        return self.folded.refreshed()


@dataclass
class EpochFigures:
    """Means over an epoch's steps on this worker; steps and seconds (wall time) are those since it was begun or gone on with."""

    epoch: int
    steps: int
    losses: dict[str, float]
    learning_rate: float
    epsilon: float
    seconds: float
    images_per_second: float
    data_wait_share: float
    examples: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)
    probe: dict[str, float] = field(default_factory=dict)  # of the collapse check, where there was one
    gradient_norm: float = math.nan  # of the weights, before it is clipped


def start_training(
    network: nn.Module, settings: TrainConfig, recipe: RecipeConfig, *, device: torch.device, wrap: Callable[[nn.Module], nn.Module] = lambda m: m
) -> Training:
    """A training that has done no step yet. `wrap` turns the objective into its distributed form."""
    network = network.to(device, memory_format=torch.channels_last)
    rate = recipe.learning_rate or settings.learning_rate
    extra = {"momentum": 0.9} if settings.optimizer == "sgd" else {}
    optimizer = OPTIMIZERS[settings.optimizer](network.parameters(), lr=rate, weight_decay=settings.weight_decay, **extra)
    average = WeightAverage(network, settings.ema_decay) if settings.ema_decay > 0 else None
    return Training(network, wrap(Objective(network)), optimizer, average, settings.fold)


def train_epoch(
    training: Training, crops: CropSet, settings: TrainConfig, recipe: RecipeConfig, augment: Augmentation | None,
    *, seed: int, place: Place, progress: Callable[[int, int], None] = lambda step, steps: None,
    between: Callable[[Training], None] = lambda training: None,
) -> EpochFigures:
    """One pass over the crops, or what is left of it; moves `training` one epoch on.

    Args:
        progress: told of each step, how many are done and how many there are.
        between: called between two steps of the epoch; `training` is then what it is, to be saved if it `can_pause`.
    Raises:
        NonFiniteLoss: (tells the epoch, the step and its crops).
    """
    epoch = training.epoch
    batches = epoch_batches(crops.labels, crops.methods, batch_size=settings.batch_size, seed=seed, epoch=epoch,
                            balance=settings.balance, self_blend=settings.self_blend.share)
    steps, total = len(batches), len(batches) * recipe.epochs
    recipe = stage_of(recipe, epoch=epoch, collapsed=training.collapsed)
    epsilon_at = partial(rising_epsilon, total=total, epsilon=recipe.attack.epsilon, warmup=recipe.epsilon_warmup)
    training.perturbation = None
    guard = CollapseGuard.of(training, crops, recipe, epsilon=epsilon_at((epoch + 1) * steps - 1), seed=seed, place=place)
    # What a single-step attack is compared with, and a perturbation that batches hand on, are in no saved state.
    training.can_pause = guard is None and recipe_named(recipe.recipe).replay is None
    first = training.step
    waited, started = 0.0, time.perf_counter()
    rate = epsilon = 0.0
    set_training(training.network, batch_norm=recipe.batch_norm or settings.batch_norm)
    feed = _feed(batches, crops, augment, epoch=epoch, seed=seed, place=place, settings=settings, first=first,
                 fixed_places=recipe_named(recipe.recipe).replay is not None)
    for step in range(first, steps):
        before = time.perf_counter()
        indices, x, y = next(feed)
        waited += time.perf_counter() - before
        now = epoch * steps + step
        rate = cosine_rate(
            now, total=total, highest=recipe.learning_rate or settings.learning_rate, lowest=settings.min_learning_rate, warmup=settings.warmup_steps
        )
        epsilon = epsilon_at(now)
        with _own_draws(seed, now, place):
            terms, adversarial = take_step(training, x, y, settings, recipe, rate=rate, epsilon=epsilon, seed=seed, now=now)
        for name, value in {**terms, FINITE: terms["total"].isfinite().float()}.items():
            training.sums[name] = training.sums.get(name, 0) + value
        training.step = step + 1
        progress(step + 1, steps)
        if step + 1 < steps:
            between(training)
    losses = {name: float(value) / steps for name, value in training.sums.items() if name != FINITE}
    norm = losses.pop(GRADIENT_NORM, math.nan)
    _require_finite(training, crops, batches, place)
    probe = guard.check() if guard is not None else {}
    training.epoch, training.step, training.sums = epoch + 1, 0, {}
    seconds = time.perf_counter() - started
    drawn = (steps - first) * settings.batch_size
    examples = (x[:4].detach().cpu(), adversarial[:4].detach().cpu())
    return EpochFigures(epoch, steps - first, losses, rate, epsilon, seconds, drawn / seconds, waited / seconds, examples, probe, norm)


def _require_finite(training: Training, crops: CropSet, batches: np.ndarray, place: Place) -> None:
    """Raises: NonFiniteLoss, on all workers alike: of the first step in which one of them had no finite loss."""
    finite = training.sums[FINITE].clone()
    if place.world > 1 and torch.distributed.is_initialized():  # the others' weights are no numbers from the next step on
        torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
    step, epoch = int(finite), training.epoch
    if step == len(batches):  # from the first on weights are no numbers, so those before are all that were finite
        return
    named = crops.ids(batches[step])
    videos = sorted({crop["video_id"] for crop in named})
    error = NonFiniteLoss(f"training: the loss was no finite number in epoch {epoch}, step {step} (crops of {', '.join(videos[:4])}); "
                          "lower the learning rate or epsilon")
    error.batch = {"epoch": epoch, "step": step, "crops": named}
    raise error


def refit_batch_norms(
    training: Training, crops: CropSet, settings: TrainConfig, batches: int, augment: Augmentation | None, *, seed: int, place: Place
) -> None:
    """Batch-norm statistics of the network as it is now, the mean over so many batches of clean crops.

    A network whose activations were swapped has those of another function. Every worker sees whole batches, so all get the same.
    """
    drawn = epoch_batches(crops.labels, crops.methods, batch_size=settings.batch_size, seed=seed, epoch=0,
                          balance=settings.balance, self_blend=settings.self_blend.share)[:batches]
    alone = Place(device=place.device)
    with _own_draws(seed, 0, alone):
        update_bn((x for _, x, _ in _feed(drawn, crops, augment, epoch=0, seed=seed, place=alone, settings=settings)), training.network)
    if training.average is not None:
        training.average.network.load_state_dict(training.network.state_dict())


@contextmanager
def _own_draws(seed: int, now: int, place: Place) -> Iterator[None]:
    """Dropout draws that depend on the step and the worker alone, so that a resumed run repeats them."""
    devices = [place.device] if place.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(((seed * 1_000_003 + now) * 1024 + place.rank) % 2**63)
        yield


def _feed(
    batches: np.ndarray, crops: CropSet, augment: Augmentation | None, *, epoch: int, seed: int, place: Place, settings: TrainConfig, first: int = 0,
    fixed_places: bool = False,
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """This worker's part of each batch, made ahead in threads: indices, (N, 3, S, S) pixels on the device, (N,) labels on the CPU.

    Args:
        fixed_places: a worker has the same places of every batch, for recipes that carry what belongs to a place from batch to batch.
    """

    def make(step: int):
        if fixed_places:
            places = np.arange(place.rank, settings.batch_size, place.world)
        else:
            places = places_of(crops.labels[batches[step]], step, rank=place.rank, world=place.world)
        indices = batches[step][places]
        seeds = draw_seeds(epoch, step, places, seed=seed, batch_size=settings.batch_size)
        x = to_tensor(crops.batch(indices, seeds, augment))
        return indices, x, torch.from_numpy(crops.labels[indices])

    def moved(item):
        indices, x, y = item
        return indices, x.to(place.device, memory_format=torch.channels_last, non_blocking=True), y

    if place.loader_threads == 0:
        yield from (moved(make(step)) for step in range(first, len(batches)))
        return
    # Threads, not processes: decoding, OpenCV and numpy let go of the interpreter lock, and nothing is copied to them.
    with ThreadPoolExecutor(place.loader_threads) as pool:
        depth = 2 + 2 * place.loader_threads
        ahead = [pool.submit(make, step) for step in range(first, min(first + depth, len(batches)))]
        for step in range(first, len(batches)):
            item = ahead.pop(0).result()
            if step + depth < len(batches):
                ahead.append(pool.submit(make, step + depth))
            yield moved(item)
