"""Free adversarial training: the pass that trains the weights also moves the perturbation (Shafahi et al. 2019).

Each batch is used for `replays` updates, each at the cost of a clean step; the next batch starts from where the last
perturbation ended. Train for epochs / replays passes to make as many updates as another recipe. The gradient is that of the
loss that is trained, batch statistics included, as in the paper.
Source: Shafahi et al. 2019 (arXiv 1904.12843), alg. 1. The perturbation starts from nothing at each epoch, so that a
resumed run repeats it.
"""
from __future__ import annotations

from torch import Tensor

from robust.config import RecipeConfig
from robust.training.recipes.base import Recipe, ball


def replay(delta: Tensor, gradient: Tensor, y: Tensor, settings: RecipeConfig, *, epsilon: float) -> Tensor:
    """The perturbation after one more step of epsilon up the gradient, in the ball; 0 for reals if fakes alone are attacked."""
    threat = ball(settings.attack, epsilon)
    moved = threat.step(delta, gradient, threat.epsilon)
    # The ball around the middle of the box, which never reaches its edges, is the ball around 0.
    moved = threat.project(moved + 0.5, delta.new_full((), 0.5).expand_as(delta)) - 0.5
    return of_targets(moved, y, settings)


def of_targets(delta: Tensor, y: Tensor, settings: RecipeConfig) -> Tensor:
    """The perturbation with 0 for reals if fakes alone are attacked."""
    fakes = (y == 1).to(delta.dtype).view(-1, 1, 1, 1)
    return delta * fakes.to(delta.device, non_blocking=True) if settings.attack.targets == "fake" else delta


RECIPE = Recipe(replay=replay, carried=of_targets)
