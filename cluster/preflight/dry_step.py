"""One step of training, and one of an attack, on noise: what they take of a GPU's memory."""

from __future__ import annotations

import torch

from robust.config import Config, RecipeConfig
from robust.models.detector import build_detector
from robust.training.loop import start_training
from robust.training.modes import set_training
from robust.training.recipes import stage_of
from robust.training.step import take_step

STEPS = 2
"""Of the attack: more of them take time, not memory."""


def training_step(config: Config, device: str) -> dict:
    """The worst of the models' stages on one worker's share of a batch.

    Returns:
        {"peak", "total"}: bytes reserved at most and bytes of the device; None on a CPU. {"error"}: it does not fit.
    """
    workers = config.train.workers
    size = -(-config.train.batch_size // workers)

    def steps() -> None:
        for name in config.train.models:
            for stage in _stages(getattr(config.train, name)):
                _one_step(config, stage, size, device)

    told = _measured(steps, device)
    if workers > 1 and told.get("peak") is not None:  # gradients once more, in the buckets in which they are exchanged
        network, _ = build_detector(config.model.model_copy(update={"weights": "none"}))
        told["peak"] += sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    return told


def _stages(recipe: RecipeConfig) -> list[RecipeConfig]:
    """Of its first and last epoch, which are all that a recipe has."""
    found = [stage_of(recipe, epoch=epoch) for epoch in sorted({0, recipe.epochs - 1})]
    return found[:1] if found[0] == found[-1] else found


def _one_step(config: Config, stage: RecipeConfig, size: int, device: str) -> None:
    settings = config.model.model_copy(
        update={"weights": "none", "activation": stage.activation or config.model.activation}
    )
    network, _ = build_detector(settings)
    attack = stage.attack.model_copy(update={"steps": min(STEPS, stage.attack.steps)})
    stage = stage.model_copy(update={"attack": attack})
    training = start_training(network, config.train, stage, device=torch.device(device))
    set_training(training.network, batch_norm=stage.batch_norm or config.train.batch_norm)
    pixels = config.model.input_size
    x = torch.rand(size, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    x = x.to(device, memory_format=torch.channels_last)
    for now in range(2):  # the optimizer's state is there from the second on
        take_step(
            training,
            x,
            torch.arange(size) % 2,
            config.train,
            stage,
            rate=1e-4,
            epsilon=stage.attack.epsilon,
            seed=0,
            now=now,
        )


def attack_step(config: Config, device: str) -> dict:
    """The gradient of a batch of `evaluate` with respect to its pixels; returns what training_step does."""

    def steps() -> None:
        network, _ = build_detector(config.model.model_copy(update={"weights": "none"}))
        network = network.to(device, memory_format=torch.channels_last).eval()
        pixels = config.model.input_size
        x = torch.rand(config.evaluate.batch_size, 3, pixels, pixels, device=device, requires_grad=True)
        torch.autograd.grad(network(x).sum(), x)

    return _measured(steps, device)


def _measured(steps, device: str) -> dict:
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        steps()
    except torch.OutOfMemoryError as error:
        return {"error": str(error).partition(". ")[0]}
    if not on_gpu:
        return {"peak": None, "total": None}
    return {"peak": torch.cuda.max_memory_reserved(), "total": torch.cuda.get_device_properties(0).total_memory}
