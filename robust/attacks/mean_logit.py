"""The mean logit over several views of the same images, with the memory of one view."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robust.attacks.geometry import per_image
from robust.attacks.threat import wide

View = Callable[[Tensor], Tensor]


def mean_logit(views: Sequence[View], x: Tensor) -> Tensor:
    """(N,) means of view(x) over the views; each view's graph is gone before the next one is built.

    Right only where an image's logit depends on that image alone, as in evaluation mode (`attack_mode`).

    Args:
        views: functions of (N, 3, H, W) images to (N,) logits, at least one.
        x: (N, 3, H, W) images; the gradient of the result leads to them and to nothing else.
    Raises:
        ValueError: a view's logits have no gradient for x.
    """
    if not (x.requires_grad and torch.is_grad_enabled()):
        return sum(wide(view(x)) for view in views) / len(views)
    value, gradient = 0.0, torch.zeros_like(wide(x))
    for view in views:
        one_value, one_gradient = _value_and_gradient(view, x)
        value, gradient = value + one_value, gradient + one_gradient
    return _Known.apply(x, value / len(views), gradient / len(views))


def _value_and_gradient(view: View, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    logits = wide(view(x))
    if not logits.requires_grad:
        raise ValueError("the model's logits have no gradient for its images (a detach or no_grad inside it?)")
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    return logits.detach(), gradient


class _Known(torch.autograd.Function):
    """(N,) values whose gradient for each image has been computed before."""

    @staticmethod
    def forward(context, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        context.save_for_backward(gradient.to(x.dtype))
        return value.clone()

    @staticmethod
    def backward(context, upstream: Tensor):
        (gradient,) = context.saved_tensors
        return (per_image(upstream, gradient) * gradient).to(gradient.dtype), None, None
