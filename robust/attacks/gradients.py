"""Gradients for the input and nothing else, on a model held in evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robust.attacks.losses import AttackLoss, margin_loss


@contextmanager
def attack_mode(model: nn.Module) -> Iterator[None]:
    """Hold every module of the model in evaluation mode with frozen parameters; put each flag back at the end.

    Evaluation mode keeps images of a batch independent and the BN statistics untouched; frozen parameters save the
    time and memory of their gradients. Flags are kept per module and per parameter (fine-tuning mixes them) and come
    back also when the model raises. Works inside no_grad and inference_mode.

    Raises:
        TypeError: the model is no nn.Module, or one wrapped for distributed training.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"an attack needs an nn.Module, whose mode it can hold, not a {type(model).__name__}")
    if isinstance(model, DistributedDataParallel):
        raise TypeError("the model is wrapped in DistributedDataParallel, which makes workers wait: attack its .module")
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        with torch.inference_mode(False):
            yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


def value_and_input_gradient(
    model: nn.Module, x: Tensor, y: Tensor, loss: AttackLoss = margin_loss
) -> tuple[Tensor, Tensor]:
    """The loss of each image and its gradient for that image; call it inside `attack_mode`.

    In evaluation mode an image's loss depends on that image alone, so one backward of the sum gives every image's own
    gradient. Under autocast the model runs in half precision; the gradient is still in x's dtype.

    Args:
        x: (N, 3, H, W) images in [0, 1].
        y: (N,) labels, 1 = fake.
        loss: maps (N,) logits and (N,) labels to (N,) losses.
    Returns:
        (N,) losses and (N, 3, H, W) gradients, both detached.
    Raises:
        ValueError: the logits are not (N,), or no gradient leads from them to x.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = loss(model(x), y)
        if not value.requires_grad:
            raise ValueError("the model's logits have no gradient for its images (a detach or no_grad inside it?)")
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient
