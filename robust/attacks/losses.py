"""What an attack maximises: one number per image from its logit and its label, larger when more wrong."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

AttackLoss = Callable[[Tensor, Tensor], Tensor]


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """The signed logit, -(2y - 1) z: positive exactly when the image is called the wrong class.

    It has no sigmoid, so its gradient does not vanish on confident models; cross-entropy's does, and an attack on it
    then reports a robustness that is not there.

    Args:
        logits: (N,) logits, positive = fake.
        y: (N,) labels, 1 = fake, any dtype.
    Returns:
        (N,) losses, at least float32 (logits under autocast are half precision).
    Raises:
        ValueError: the logits are not (N,).
    Source: Carlini & Wagner 2017, f_6 with one logit; Croce & Hein 2020 on scale invariance.
    """
    require_one_logit(logits, y)
    logits = logits.float() if logits.element_size() < 4 else logits
    return (1 - 2 * y.to(logits.dtype)) * logits


def cross_entropy_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Binary cross-entropy per image, for comparison with attacks that use it; (N,) logits and labels, (N,) losses."""
    require_one_logit(logits, y)
    logits = logits.float() if logits.element_size() < 4 else logits
    return F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none")


def require_one_logit(logits: Tensor, y: Tensor) -> None:
    """Raises: ValueError unless there is one logit per label; (N, 1) would broadcast to (N, N) unnoticed."""
    if logits.shape != y.shape:
        raise ValueError(
            f"the model returned logits of shape {tuple(logits.shape)} for {len(y)} images; an attack needs one logit "
            f"per image, shape ({len(y)},), positive for fake"
        )
