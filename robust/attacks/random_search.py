"""Black-box random search in the Linf ball for a few dozen queries: only logits are seen, so a hidden gradient does not
stop it.

Square (square.py) is the one for thousands of queries: its colours are drawn channel by channel and its squares shrink on
that schedule. With the 30 queries of the gates it misses the masked detector of tests/attacks/test_gates.py that this finds.
"""

import torch
from torch import Tensor, nn

from robust.attacks.best import BestSoFar
from robust.attacks.gradients import attack_mode
from robust.attacks.inputs import check_inputs, require_logits
from robust.attacks.losses import margin_loss
from robust.attacks.noise import ImageNoise
from robust.attacks.threat import Linf

LARGEST_SHARE = 0.6
"""Side of the first squares as a share of the image's; it shrinks to one pixel over the queries."""


def random_search(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Linf,
    *,
    steps: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sets random squares of a perturbation to +-epsilon and keeps what raises the margin; steps + 1 forwards.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float images in [0, 1].
        y: (N,) labels, 1 = fake.
        threat: an Linf ball.
        steps: queries after the first.
        generator: a CPU one, seeds the search (one number is drawn); None is the seed 0.
    Returns:
        (N, 3, H, W) images inside the ball and [0, 1], dtype of x.
    Raises:
        ValueError: bad images, labels, logits, steps, or another ball.
    Source: Andriushchenko et al. 2020 (Square Attack), section 3: striped start, squares of +-epsilon.
    """
    if steps < 1 or not isinstance(threat, Linf):
        raise ValueError(f"random_search needs an Linf ball and at least one step, not {threat} and steps={steps}")
    check_inputs(x, y)
    if threat.epsilon == 0 or len(x) == 0:
        return x.detach().clone()
    with attack_mode(model), torch.no_grad():
        x, y = x.detach().clone(), y.to(x.device, copy=True)
        noise, best = ImageNoise.of(x, generator=generator), BestSoFar(x)
        stripes = _signs(noise.uniform()[:, :, :1, :]).expand_as(x)
        candidate = threat.project(x + threat.epsilon * stripes, x)
        for step in range(steps + 1):
            best.update(candidate, margin_loss(model(candidate), y))
            square = _random_squares(noise, x.shape, side=LARGEST_SHARE * (1 - step / steps), stream=3 * step)
            signs = _signs(noise.uniform(step + 1)[:, :, :1, :1])
            candidate = torch.where(square, threat.project(x + threat.epsilon * signs, x), best.images)
    require_logits(best.loss)
    return best.images


def _signs(numbers: Tensor) -> Tensor:
    return torch.where(numbers < 0, -1.0, 1.0).to(numbers.dtype)


def _random_squares(noise: ImageNoise, shape: torch.Size, *, side: float, stream: int) -> Tensor:
    """(N, 1, H, W) masks, one square of `side` (share of the shorter side, at least a pixel) an image."""
    height, width = shape[-2:]
    pixels = max(1, round(side * min(height, width)))
    top = (noise.fraction(stream + 1) * (height - pixels + 1)).long().view(-1, 1, 1, 1)
    left = (noise.fraction(stream + 2) * (width - pixels + 1)).long().view(-1, 1, 1, 1)
    rows = torch.arange(height, device=top.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=top.device).view(1, 1, 1, -1)
    return (rows >= top) & (rows < top + pixels) & (columns >= left) & (columns < left + pixels)
