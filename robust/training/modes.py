"""Module modes for the parts of a step."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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


def set_training(model: nn.Module, *, batch_norm: str) -> None:
    """Training mode; with batch_norm="frozen" the pretrained statistics are kept throughout."""
    model.train()
    if batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
