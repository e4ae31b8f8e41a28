"""The training loop: augment -> attack the augmented crop -> loss on it plus the Lipschitz term -> step.

Plain torch: jobs/train.py runs it in Ray Train workers, jobs/tune.py in trials, tests in-process. Baseline and defended are the same
loop; the baseline's epsilon and Lipschitz weight are 0.
"""
from __future__ import annotations

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
from robust.data.order import draw_seeds, epoch_batches
from robust.errors import NonFiniteLoss
from robust.training.averaging import WeightAverage
from robust.training.collapse import CollapseGuard
from robust.training.folding import FoldedNetwork
from robust.training.modes import set_training
from robust.training.objective import Objective
from robust.training.recipes import stage_of
from robust.training.schedule import cosine_rate, rising_epsilon
from robust.training.step import take_step

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
    collapsed: bool = False  # a single-step attack was fooled once: PGD from then on
    probed: tuple[float, float] | None = None  # epsilon and the collapse probe's AUC of these weights; a resumed run measures it anew
    folded: FoldedNetwork | None = None  # what is attacked, once a batch has been seen
    perturbation: torch.Tensor | None = None  # of the last batch, carried to the next by recipes that replay

    @property
    def scored(self) -> nn.Module:
        """The network that is validated, saved and attacked: the average where there is one."""
        return self.network if self.average is None else self.average.network

    def attacked(self, x: torch.Tensor) -> nn.Module:
        """The network that an attack on images like x differentiates: the deployed function, folded if that is asked for."""
        if not self.fold:
            return self.network
        if self.folded is None:
            self.folded = FoldedNetwork(self.network, x)
        return self.folded.refreshed()


@dataclass
class EpochFigures:
    """Means over an epoch's steps on this worker; seconds are wall time."""

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
) -> EpochFigures:
    """One pass over the crops; moves `training` one epoch on.

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
    sums: dict[str, torch.Tensor] = {}
    finite = torch.zeros((), device=place.device)
    waited, started = 0.0, time.perf_counter()
    rate = epsilon = 0.0
    set_training(training.network, batch_norm=recipe.batch_norm or settings.batch_norm)
    feed = _feed(batches, crops, augment, epoch=epoch, seed=seed, place=place, settings=settings)
    for step in range(steps):
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
        finite += terms["total"].isfinite()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value
        progress(step + 1, steps)
    losses = {name: float(value) / steps for name, value in sums.items()}
    if int(finite) < steps:  # from that step on the weights are no numbers, so it is the first
        step = int(finite)
        videos = sorted(set(crops.video_ids[batches[step, place.rank::place.world]]))
        raise NonFiniteLoss(f"training: the loss was no finite number in epoch {epoch}, step {step} (crops of {', '.join(videos[:4])}); "
                            "lower the learning rate or epsilon")
    probe = guard.check() if guard is not None else {}
    training.epoch += 1
    seconds = time.perf_counter() - started
    drawn = steps * settings.batch_size
    examples = (x[:4].detach().cpu(), adversarial[:4].detach().cpu())
    return EpochFigures(epoch, steps, losses, rate, epsilon, seconds, drawn / seconds, waited / seconds, examples, probe)


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
    batches: np.ndarray, crops: CropSet, augment: Augmentation | None, *, epoch: int, seed: int, place: Place, settings: TrainConfig, first: int = 0
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """This worker's part of each batch, made ahead in threads: indices, (N, 3, S, S) pixels on the device, (N,) labels on the CPU."""

    def make(step: int):
        places = np.arange(place.rank, settings.batch_size, place.world)
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
