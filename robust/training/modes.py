"""Module modes for the parts of a step."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The function that is deployed: batch norms use, and keep, their running statistics, and nothing is dropped out.

    Each module gets its own mode back; parameters keep their gradients.
    """
    moving = [module for module in model.modules() if module.training]
    for module in moving:
        module.training = False
    try:
        yield
    finally:
        for module in moving:
            module.training = True


def acts_as_deployed(model: nn.Module) -> bool:
    """Whether the model's function now, in the modes of its modules, is the one that is deployed.

    It is not if a batch norm uses the batch's statistics or anything is dropped out (timm's blocks tell by `drop_rate`,
    `drop_prob` and the like).
    """
    return not any(module.training and _differs_in_training(module) for module in model.modules())


def _differs_in_training(module: nn.Module) -> bool:
    if isinstance(module, (_BatchNorm, nn.RReLU)):
        return True
    rates = ("p",) if isinstance(module, _DropoutNd) else ("drop_rate", "drop_prob", "drop_path_rate", "attn_drop_rate")
    return any(isinstance(rate := getattr(module, name, 0), (int, float)) and rate > 0 for name in rates)


def set_training(model: nn.Module, *, batch_norm: str) -> None:
    """Training mode; with batch_norm="frozen" the pretrained statistics are kept throughout."""
    model.train()
    if batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
