"""FGSM: one step of the full radius along the sign of the gradient (Goodfellow et al. 2015, arXiv 1412.6572)."""

import torch
from torch import Tensor, nn

from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.inputs import check_inputs, require_logits
from robust.attacks.losses import AttackLoss, margin_loss
from robust.attacks.noise import ImageNoise
from robust.attacks.threat import Threat, round_towards, wide


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 1,
    generator: torch.Generator | None = None,
    step_size: float | None = None,
    random_start: bool = False,
    loss: AttackLoss = margin_loss,
    checked: bool = True,
) -> Tensor:
    """One gradient step to the edge of the ball; with L2, along the normalised gradient. One forward, one gradient.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float images in [0, 1].
        y: (N,) labels, 1 = fake.
        threat: the ball, e.g. Linf.from_255(4).
        steps: 1; there so that all attacks are called alike.
        generator: seeds the random start; None is seed 0.
        step_size: in [0, 1] pixel units; default epsilon (Wong et al. 2020 use 1.25 epsilon with a random start).
        random_start: start from a random point of the ball (Wong et al. 2020, arXiv 2001.03994), not from x.
        checked: verify x and y first (waits for the device once).
    Returns:
        (N, 3, H, W) images inside the ball and [0, 1], dtype of x.
    Raises:
        ValueError: bad images, labels, logits or steps.
    """
    if steps != 1:
        raise ValueError(f"fgsm makes one step, not {steps}; use pgd for more")
    if checked:
        check_inputs(x, y)
    if threat.epsilon == 0 or len(x) == 0:
        return x.detach().clone()
    step_size = threat.epsilon if step_size is None else step_size
    with attack_mode(model), torch.no_grad():
        x, y = x.detach().clone(), y.to(x.device, copy=True)
        start = threat.random_start(x, ImageNoise.of(x, generator=generator)) if random_start else x
        value, gradient = value_and_input_gradient(model, round_towards(start, x, x.dtype), y, loss)
        x_adv = threat.project(threat.step(wide(start), gradient, step_size), x)
    if checked:
        require_logits(value)
    return round_towards(x_adv, x, x.dtype)
