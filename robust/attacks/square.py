"""Square attack: random search with squares, seeing nothing but logits (Andriushchenko et al. 2020, arXiv 1912.00049).

It finds what gradients can not: where it is stronger than a white-box attack, the detector hides its gradients.
"""

import torch
from torch import Tensor, nn

from robust.attacks.best import BestSoFar
from robust.attacks.geometry import length, per_image
from robust.attacks.gradients import attack_mode
from robust.attacks.inputs import check_inputs, require_logits
from robust.attacks.losses import margin_loss
from robust.attacks.noise import ImageNoise
from robust.attacks.threat import L2, Linf, Threat, round_towards, wide

FIRST_SHARE = 0.8  # of the image's area in the first square, as in AutoAttack
HALVE_AFTER = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of all queries; there the share halves
TILES = 5  # along each side of the first L2 perturbation


def square(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, steps: int, generator: torch.Generator | None = None
) -> Tensor:
    """`square_with_queries` without the counts: (N, 3, H, W) images inside the ball and [0, 1], dtype of x."""
    return square_with_queries(model, x, y, threat, steps=steps, generator=generator)[0]


def square_with_queries(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, steps: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Tries perturbed squares at random and keeps each that raises the margin; an image that flips is done.

    Takes no gradient. Passes of the model: 1 + steps forwards, each only of the images that are not flipped yet.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float images in [0, 1].
        y: (N,) labels, 1 = fake.
        threat: the ball, e.g. Linf.from_255(4).
        steps: queries: how many perturbed images the model is shown for each image.
        generator: a CPU one, seeds the search (one number is drawn); None is the seed 0.
    Returns:
        (N, 3, H, W) images inside the ball and [0, 1], dtype of x, and (N,) int64 queries until the flip: 0 where x
        is wrong already, `steps` where nothing was found.
    Raises:
        ValueError: bad images, labels, logits or settings.
    Source: Andriushchenko et al. 2020, algorithms 1 to 3.
    """
    if steps < 1:
        raise ValueError(f"square needs at least one step, a query of the model, not {steps}")
    check_inputs(x, y)
    if x.ndim != 4:
        raise ValueError(f"square needs images (N, C, H, W), not of shape {tuple(x.shape)}")
    if threat.epsilon == 0 or len(x) == 0:
        return x.detach().clone(), torch.zeros_like(y, dtype=torch.int64)
    with attack_mode(model), torch.no_grad():
        x, y = x.detach().clone(), y.to(x.device, copy=True)
        queries = torch.zeros_like(y, dtype=torch.int64)
        noise = ImageNoise.of(x, generator=generator)
        best, walk = BestSoFar(x), BestSoFar(x)  # the walk does not go back to x, even if its first point is worse
        best.update(x, margin_loss(model(x), y))
        for query in range(steps):
            rows = ((best.loss <= 0) & (walk.loss <= 0)).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            seen = _first(x, threat, noise) if query == 0 else _next(x, walk.images, threat, noise, query, steps)
            seen = round_towards(seen, x, x.dtype)
            value = torch.full_like(walk.loss, -torch.inf)
            value[rows] = margin_loss(model(seen[rows]), y[rows]).to(value.dtype)
            walk.update(seen, value)
            queries[rows] += 1
        best.update(walk.images, walk.loss)
    require_logits(best.loss)
    return best.images, queries


def _first(x: Tensor, threat: Threat, noise: ImageNoise) -> Tensor:
    """Linf: vertical stripes of +-epsilon. L2: a bump of random sign in each tile of a grid."""
    signs = torch.where(noise.uniform(0) < 0, -1.0, 1.0).to(noise.dtype)
    if isinstance(threat, Linf):
        return threat.project(wide(x) + threat.epsilon * signs[:, :, :1], x)
    height, width = x.shape[2:]
    side = max(1, min(height, width) // TILES)
    tiles = signs[:, :, ::side, ::side].repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :height, :width]
    delta = tiles * _bump(side, like=tiles).repeat(-(-height // side), -(-width // side))[:height, :width]
    return threat.project(wide(x) + threat.epsilon * delta / per_image(length(delta, L2), x), x)


def _next(x: Tensor, x_adv: Tensor, threat: Threat, noise: ImageNoise, query: int, steps: int) -> Tensor:
    """x_adv with a square of each image drawn anew; its side shrinks with the queries."""
    share = FIRST_SHARE / 2 ** sum(query > after * steps for after in HALVE_AFTER)
    side = round((share * x.shape[2] * x.shape[3]) ** 0.5)
    side = min(max(side, 1), x.shape[2], x.shape[3])
    draws = [noise.fraction(5 * query + k) for k in range(5)]
    here, there = _window(x, side, draws[0], draws[1]), _window(x, side, draws[2], draws[3])
    bits = (draws[4][:, None] * 2 ** torch.arange(1, x.shape[1] + 2, device=x.device)).long() % 2
    signs = (2.0 * bits - 1).to(noise.dtype)[:, :, None, None]  # (N, C + 1, 1, 1)
    delta = wide(x_adv) - x
    if isinstance(threat, Linf):
        delta[here] = (threat.epsilon * signs[:, 1:]).expand(-1, -1, side, side)
    else:
        _move_length(delta, here, there, threat.epsilon, signs)
    return threat.project(x + delta, x)


def _move_length(delta: Tensor, here: tuple, there: tuple, epsilon: float, signs: Tensor) -> None:
    """Changes delta: all the length of the window `there` goes to `here`, with what is left of epsilon, as a bump."""
    bump = _bump(side := here[2].shape[2], like=delta).expand(len(delta), 1, side, side)
    bump = signs[:, 1:] * torch.where(signs[:, :1] > 0, bump, bump.transpose(2, 3))
    kept = delta[here]
    before = (delta**2).sum((2, 3), keepdim=True)
    spare = (epsilon**2 - before.sum(1, keepdim=True)).clamp_min(0) / delta.shape[1]
    delta[there] = 0
    delta[here] = 0
    freed = (before - (delta**2).sum((2, 3), keepdim=True)).clamp_min(0)
    delta[here] = _unit(_unit(bump) + _unit(kept)) * (freed + spare).sqrt()


def _window(x: Tensor, side: int, down: Tensor, across: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices of a square of each image, (N, C, side, side), placed by two (N,) numbers in [0, 1)."""
    count, channels, height, width = x.shape
    steps = torch.arange(side, device=x.device)
    rows = (down * (height - side + 1)).long()[:, None] + steps
    columns = (across * (width - side + 1)).long()[:, None] + steps
    images, colours = torch.arange(count, device=x.device), torch.arange(channels, device=x.device)
    return images[:, None, None, None], colours[None, :, None, None], rows[:, None, :, None], columns[:, None, None]


def _bump(side: int, *, like: Tensor) -> Tensor:
    """(side, side): two halves of opposite sign, each rising in rings from its edge to its middle (eq. 2)."""
    places = torch.arange(side, device=like.device)
    upper = places < side // 2
    size = torch.where(upper, side // 2, side - side // 2)
    row = torch.where(upper, places, places - side // 2)
    ring = torch.minimum(torch.minimum(row, size - 1 - row)[:, None], torch.minimum(places, side - 1 - places))
    rings = (side - side // 2 + 1) // 2
    heights = (1 / torch.arange(rings, 0, -1, device=like.device).to(like.dtype) ** 2).cumsum(0)
    return heights[ring] * torch.where(upper, 1, -1)[:, None]


def _unit(windows: Tensor) -> Tensor:
    """(N, C, h, h) at length 1 in each channel, 0 where there is nothing."""
    lengths = windows.pow(2).sum((2, 3), keepdim=True).sqrt()
    return windows / torch.where(lengths > 0, lengths, 1)
