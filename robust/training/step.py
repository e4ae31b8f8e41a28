"""One training step: make the examples, one forward and backward of the objective, one update."""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robust.config import RecipeConfig, TrainConfig
from robust.training.recipes import recipe_named

if TYPE_CHECKING:
    from robust.training.loop import Training


def take_step(
    training: Training, x: Tensor, y: Tensor, settings: TrainConfig, recipe: RecipeConfig, *, rate: float, epsilon: float, seed: int, now: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Nothing here waits for the device.

    Args:
        x: (N, 3, H, W) this worker's part of the batch, on the device.
        y: (N,) its labels, on the CPU.
        recipe: the epoch's stage of the recipe.
        rate: learning rate.
        epsilon: today's radius, 0-255 units.
        now: number of the step in the whole run, from which the attack's draws follow.
    Returns:
        the terms of the objective (detached scalars) and the examples.
    """
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=settings.precision == "bfloat16"):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + now)
        adversarial = recipe_named(recipe.recipe).perturb(training.network, x, y, recipe, epsilon=epsilon, generator=generator)
        terms = training.objective(x, adversarial, y.to(x.device, non_blocking=True))
    training.optimizer.zero_grad(set_to_none=True)
    terms["total"].backward()
    if settings.gradient_clip is not None:
        nn.utils.clip_grad_norm_(training.network.parameters(), settings.gradient_clip)
    training.optimizer.step()
    if training.average is not None:
        training.average.update(training.network)
    return {name: value.detach() for name, value in terms.items()}, adversarial
