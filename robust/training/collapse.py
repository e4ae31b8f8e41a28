"""Catastrophic overfitting: found by a probe after each epoch of a single-step attack, and undone.

A network trained on one-step examples may, within some hundred steps, learn gradients that a single step follows to nowhere: the
training loss falls on, and any attack of several steps succeeds. The probe is the AUC of some training crops under PGD before
and after the epoch, at the same epsilon. If it fell by more than `probe.drop`, weights, optimizer and average become what they
were before the epoch, and the run goes on with PGD (`attack.steps`) in place of the single step.
Source: Wong et al. 2020 (arXiv 2001.03994), who stop a run where PGD's accuracy on a training batch falls by a fifth.
"""
from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed

from robust.attacks.pgd import pgd
from robust.config import ProbeConfig, RecipeConfig
from robust.data.crops import CropSet
from robust.data.inputs import to_tensor
from robust.evaluation.metrics import auc
from robust.training.modes import evaluation_mode
from robust.training.recipes import recipe_named
from robust.training.recipes.base import ball, of_chosen

if TYPE_CHECKING:
    from robust.training.loop import Place, Training

BATCH = 16  # as small as the parts of a batch may be


class CollapseGuard:
    """Remembers a training as it is now; `check` compares and, if the network has collapsed since, takes it back."""

    def __init__(
        self, training: Training, x: torch.Tensor, y: torch.Tensor, recipe: RecipeConfig, *, epsilon: float, seed: int, world: int
    ):
        self.training, self.x, self.y, self.recipe = training, x, y, recipe
        self.epsilon, self.seed, self.world = epsilon, seed, world
        average = training.average
        self.kept = copy.deepcopy((training.network.state_dict(), training.optimizer.state_dict()))
        self.kept_average = None if average is None else (copy.deepcopy(average.network.state_dict()), average.updates)
        known = training.probed  # by the check after the last epoch, at the same weights
        self.before = known[1] if known is not None and known[0] == epsilon else self.robust_auc()

    @classmethod
    def of(
        cls, training: Training, crops: CropSet, recipe: RecipeConfig, *, epsilon: float, seed: int, place: Place
    ) -> CollapseGuard | None:
        """For a recipe that can collapse; None for the others, and where nothing is attacked."""
        if epsilon == 0 or not recipe_named(recipe.recipe).single_step:
            return None
        chosen = probe_crops(crops.labels, recipe.probe, seed=seed)
        x = to_tensor(crops.batch(chosen, seeds=seed + chosen)).to(place.device, memory_format=torch.channels_last)
        return cls(training, x, torch.from_numpy(crops.labels[chosen]), recipe, epsilon=epsilon, seed=seed, world=place.world)

    def check(self) -> dict[str, float]:
        """Returns: the probe's figures of the epoch, after a roll-back too: {"probe_before", "probe_after", "collapsed"}."""
        after = self.robust_auc()
        collapsed = after < self.before - self.recipe.probe.drop
        if collapsed:
            self._roll_back()
        self.training.probed = None if collapsed else (self.epsilon, after)
        return {"probe_before": self.before, "probe_after": after, "collapsed": float(collapsed)}

    def robust_auc(self) -> float:
        """Of the probe's crops under PGD with best iterates; the same on all workers, whose batch-norm statistics may differ."""
        network, attack, logits = self.training.network, self.recipe.attack, []
        threat, steps = ball(attack, self.epsilon), self.recipe.probe.steps
        for x, y in zip(self.x.split(BATCH), self.y.split(BATCH), strict=True):
            generator = torch.Generator().manual_seed(self.seed)
            attacked = partial(pgd, network, threat=threat, steps=steps, generator=generator, checked=False)
            with evaluation_mode(network), torch.no_grad():
                logits.append(network(of_chosen(attacked, x, y, attack)).float().cpu().numpy())
        logits = np.concatenate(logits)
        figure = auc(logits, self.y.numpy()) if np.isfinite(logits).all() else 0.0
        value = torch.tensor(figure, dtype=torch.float64, device=self.x.device)
        if self.world > 1:
            torch.distributed.broadcast(value, src=0)
        return float(value)

    def _roll_back(self) -> None:
        training = self.training
        training.network.load_state_dict(self.kept[0])
        training.optimizer.load_state_dict(self.kept[1])
        if training.average is not None:
            training.average.network.load_state_dict(self.kept_average[0])
            training.average.updates = self.kept_average[1]
        training.collapsed = True


def probe_crops(labels: np.ndarray, settings: ProbeConfig, *, seed: int) -> np.ndarray:
    """Indices of `settings.images` crops, half of them fake where there are enough; the same for a seed."""
    order = np.random.default_rng(seed).permutation(len(labels))
    halves = [order[labels[order] == label][:settings.images // 2] for label in (0, 1)]
    return np.sort(np.concatenate(halves))
