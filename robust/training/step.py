"""One training step: make the examples, one forward and backward of the objective for each part of the batch, one update."""
from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robust.config import RecipeConfig, TrainConfig
from robust.training.recipes import recipe_named
from robust.training.weight_perturbation import statistics_held, worst_weights

if TYPE_CHECKING:
    from robust.training.loop import Training


GRADIENT_NORM = "gradient_norm"


def take_step(
    training: Training, x: Tensor, y: Tensor, settings: TrainConfig, recipe: RecipeConfig,
    *, rate: float, epsilon: float, seed: int, now: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """One update, or `replays` of them for a recipe that moves the perturbation with the weights.

    Nothing here waits for the device.

    Args:
        x: (N, 3, H, W) this worker's part of the batch, on the device.
        y: (N,) its labels, on the CPU.
        recipe: the epoch's stage of the recipe.
        rate: learning rate.
        epsilon: today's radius, 0-255 units.
        now: number of the step in the whole run, from which the attack's draws follow.
    Returns:
        the terms of the objective and the norm of its gradient before clipping (detached scalars), and the examples.
    """
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    method = recipe_named(recipe.recipe)
    size = -(-len(x) // settings.accumulate)
    parts, labels = x.split(size), y.split(size)
    if method.replay is not None and epsilon > 0:
        return _replays(training, x, y, settings, recipe, size, epsilon=epsilon)
    examples = []
    attacked = training.attacked(x) if epsilon > 0 else training.network
    for part, of in zip(parts, labels, strict=True):
        # The same seed for each part: an image's draws follow from it and the image, so they are those of the whole batch.
        generator = torch.Generator().manual_seed(seed * 1_000_003 + now)
        with _precision(part, settings):
            examples.append(method.perturb(attacked, part, of, recipe, epsilon=epsilon, generator=generator))
    terms = _update(training, parts, examples, labels, settings, recipe)
    return terms, examples[0] if len(examples) == 1 else torch.cat(examples)


def _replays(training, x, y, settings, recipe, size, *, epsilon):
    """Updates on the same images, in parts of `size`, each of which also moves their perturbation by its own input gradient."""
    method = recipe_named(recipe.recipe)
    delta = torch.zeros_like(x) if training.perturbation is None else method.carried(training.perturbation, y, recipe)
    for _ in range(recipe.replays):
        adversarial = (x + delta).clamp_(0, 1).requires_grad_()
        terms = _update(training, x.split(size), adversarial.split(size), y.split(size), settings, recipe, inputs=adversarial)
        delta = method.replay(delta, adversarial.grad, y, recipe, epsilon=epsilon)
    training.perturbation = delta
    return terms, adversarial.detach()


def _update(training, parts, examples, labels, settings, recipe, *, inputs: Tensor | None = None):
    """One step of the optimizer and the average; at the worst weights near these if the recipe asks for that."""
    network, optimizer = training.network, training.optimizer
    worst = nullcontext()
    if recipe.awp > 0:
        optimizer.zero_grad(set_to_none=True)
        with statistics_held(network):
            _backward(training, parts, examples, labels, settings, recipe)
        worst = worst_weights(network, recipe.awp)
        if inputs is not None:
            inputs.grad = None
    with worst:
        optimizer.zero_grad(set_to_none=True)
        terms = _backward(training, parts, examples, labels, settings, recipe)
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if settings.gradient_clip is not None:
        nn.utils.clip_grads_with_norm_(network.parameters(), settings.gradient_clip, norm)
    optimizer.step()
    if training.average is not None:
        training.average.update(network)
    return {**terms, GRADIENT_NORM: norm}


def _backward(training, parts, examples, labels, settings, recipe) -> dict[str, Tensor]:
    """Leaves the gradient of the mean over all parts; workers exchange it once, with the last part."""
    count, sums = sum(len(part) for part in parts), {}
    whole = count
    if isinstance(training.objective, DistributedDataParallel):  # it takes the mean over workers, whose parts of a batch may differ by one
        whole = settings.batch_size / training.objective.process_group.size()
    for place, (part, example, of) in enumerate(zip(parts, examples, labels, strict=True)):
        waits = place < len(parts) - 1 and isinstance(training.objective, DistributedDataParallel)
        with training.objective.no_sync() if waits else nullcontext():
            with _precision(part, settings):
                terms = training.objective(part, example, of.to(part.device, non_blocking=True), recipe)
            share = len(part) / whole
            (terms["total"] if share == 1 else terms["total"] * share).backward()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach() * (len(part) / count)
    return sums


def _precision(x: Tensor, settings: TrainConfig):
    return torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=settings.precision == "bfloat16")
