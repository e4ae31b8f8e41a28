"""CW-L2: the shortest perturbation that flips, by gradient descent (Carlini & Wagner 2017, arXiv 1608.04644)."""

import torch
from torch import Tensor, nn

from robust.attacks.best import BestSoFar
from robust.attacks.geometry import length, per_image
from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.inputs import check_inputs, require_logits
from robust.attacks.losses import margin_loss
from robust.attacks.minimal_norm import inside_ball
from robust.attacks.threat import L2, Threat, round_towards, wide

SEARCHES = 9  # values of c per image, as in the paper
LEARNING_RATE = 0.01
INSIDE = 1 - 1e-6  # keeps black and white, whose atanh is infinite, just inside the box


def carlini_wagner(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    searches: int = SEARCHES,
    learning_rate: float = LEARNING_RATE,
) -> tuple[Tensor, Tensor]:
    """The shortest perturbation, in L2, that is found to flip each image; has no randomness.

    Minimises |x' - x|^2 + c max(-margin(x'), 0) over x' = (tanh(w) + 1) / 2 with Adam, for `searches` values of c that
    are searched for each image alone. On a linear logit the second term wins from c = 2 |z| / |gradient|^2 on; the
    search begins there, so that the scale of the logits does not matter. Pixels at 0 or 1 hardly move (tanh is flat
    there): on images with many of them `minimal_perturbation` finds less.

    Passes of the model: 1 + searches forwards and 1 + searches * steps input gradients.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float images in [0, 1].
        y: (N,) labels, 1 = fake.
        steps: of Adam, for each c.
        learning_rate: Adam's first, in the units of w; it falls to 0.
    Returns:
        (N, 3, H, W) images in [0, 1], dtype of x (x itself where nothing was found), and (N,) their L2 distances in
        [0, 1] pixel units: 0 where x is wrong already, inf where nothing was found.
    Raises:
        ValueError: bad images, labels, logits or settings.
    Source: Carlini & Wagner 2017, section VI.A with f_6 and confidence 0; the first c is ours.
    """
    if steps < 1 or searches < 1:
        raise ValueError(f"cw needs at least one step and one search, not steps={steps}, searches={searches}")
    check_inputs(x, y)
    if len(x) == 0:
        return x.detach().clone(), torch.zeros(0, device=x.device)
    with attack_mode(model), torch.no_grad():
        x, y = x.detach().clone(), y.to(x.device, copy=True)
        value, gradient = value_and_input_gradient(model, x, y)
        require_logits(value)
        nearest = BestSoFar(x)
        nearest.update(x, torch.where(value > 0, 0.0, -torch.inf))
        c = 2 * value.abs() / length(wide(gradient), L2) ** 2
        c = c.nan_to_num(1, 1).clamp_min(torch.finfo(torch.float32).tiny)
        too_small, enough = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(searches):
            flipped = _minimise(model, x, y, c, steps, learning_rate, nearest)
            enough = torch.where(flipped, c, enough)
            too_small = torch.where(flipped, too_small, c)
            between = (too_small * enough).sqrt()
            c = torch.where(enough.isinf(), 10 * c, torch.where(too_small == 0, c / 10, between))
    return nearest.images, -nearest.loss


def cw(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    searches: int = SEARCHES,
) -> Tensor:
    """`carlini_wagner` as an attack: flipped images where they lie in the ball, the others brought into it.

    Args:
        threat: an L2 ball.
        generator: unused, as nothing is drawn; there so that all attacks are called alike.
    Raises:
        ValueError: the threat is no L2 ball, or as `carlini_wagner`.
    """
    if not isinstance(threat, L2):
        raise ValueError(f"cw makes short perturbations in L2 and can not attack {threat}; use apgd or fmn for Linf")
    return inside_ball(model, x, y, threat, *carlini_wagner(model, x, y, steps=steps, searches=searches))


def _minimise(
    model: nn.Module, x: Tensor, y: Tensor, c: Tensor, steps: int, learning_rate: float, nearest: BestSoFar
) -> Tensor:
    """One run of Adam; flipped points go to `nearest`. (N,) bool: whether there was any."""
    w = torch.atanh((2 * wide(x) - 1) * INSIDE)
    mean, variance = torch.zeros_like(w), torch.zeros_like(w)
    flipped = torch.zeros_like(y, dtype=torch.bool)
    for step in range(steps + 1):
        x_adv = (torch.tanh(w) + 1) / 2
        seen = round_towards(x_adv, x, x.dtype)
        if step == steps:
            value = margin_loss(model(seen), y)
        else:
            value, gradient = value_and_input_gradient(model, seen, y)
        flipped |= value > 0
        nearest.update(seen, torch.where(value > 0, -length(wide(seen) - x, L2), -torch.inf))
        if step == steps:
            return flipped
        uphill = torch.where(per_image(value > 0, x), 0, per_image(c, x) * gradient)
        slope = (2 * (x_adv - x) - uphill) * 2 * x_adv * (1 - x_adv)  # by the chain rule through tanh
        mean = 0.9 * mean + 0.1 * slope
        variance = 0.999 * variance + 0.001 * slope**2
        rate = learning_rate * (1 - step / steps)
        w = w - rate * (mean / (1 - 0.9 ** (step + 1))) / ((variance / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
