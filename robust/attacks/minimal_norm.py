"""The smallest perturbation that flips each image, so that one run gives robust accuracy at every epsilon.

FMN (Pintor et al. 2021, arXiv 2102.12827) with one logit: a path of gradient steps inside a ball that shrinks while
the image is flipped and grows while it is not. It begins as FAB does (Croce & Hein 2020, arXiv 1907.02044), with the
exact move to the linearised boundary, logit = 0, inside [0, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from robust.attacks.best import BestSoFar
from robust.attacks.geometry import Norm, length, move_to_hyperplane, per_image, project_to_balls
from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.inputs import check_inputs, require_logits
from robust.attacks.losses import margin_loss
from robust.attacks.noise import ImageNoise
from robust.attacks.threat import Linf, Threat, round_towards, wide

# All measured with benchmarks/small_detector.py, as shares of each image's radius.
OVERSHOOT = 0.02  # of the way to the linearised boundary, to land behind it
STEP = 0.2  # the first step; the last is a tenth of that
MOMENTUM = 0.75
RADIUS_CHANGE = (0.1, 0.001)  # the first and the last, in between a cosine
LARGEST_SHRINK, LARGEST_GROWTH = 0.5, 1.5
HALVINGS = 10  # of the line from the image to the flipped point, at the end of a path


def minimal_perturbation(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    *,
    steps: int,
    restarts: int = 1,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The nearest image of the wrong class that is found for each image; an upper bound of the true distance.

    Passes of the model: restarts * steps input gradients and 1 + restarts * (2 + HALVINGS) forwards; images that are
    wrong without an attack take one forward.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float images in [0, 1].
        y: (N,) labels, 1 = fake.
        norm: Linf or L2, the class.
        steps: of each path.
        restarts: how many paths; the first begins at x, the others at random points as far off as the best found.
        generator: a CPU one, seeds the random starts (one number is drawn); None is the seed 0.
    Returns:
        (N, 3, H, W) images in [0, 1], dtype of x (x itself where nothing was found), and (N,) their distances in
        [0, 1] pixel units: 0 where x is wrong already, inf where nothing was found.
    Raises:
        ValueError: bad images, labels, logits or settings.
    """
    if steps < 1 or restarts < 1:
        raise ValueError(f"minimal_perturbation needs steps and restarts >= 1, not steps={steps}, restarts={restarts}")
    check_inputs(x, y)
    if len(x) == 0:
        return x.detach().clone(), torch.zeros(0, device=x.device)
    with attack_mode(model), torch.no_grad():
        x, y = x.detach().clone(), y.to(x.device, copy=True)
        noise = ImageNoise.of(x, generator=generator)
        clean = margin_loss(model(x), y)
        require_logits(clean)
        x_adv, distance = x.clone(), torch.where(clean > 0, 0.0, torch.inf)
        if len(rows := (clean <= 0).nonzero().squeeze(1)):
            noise = replace(noise, keys=noise.keys[rows], shape=x[rows].shape)
            nearest = _nearest_flip(model, x[rows], y[rows], norm, noise, steps, restarts)
            x_adv[rows], distance[rows] = nearest.images, -nearest.loss.to(distance.dtype)
    return x_adv, distance


def fmn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    restarts: int = 1,
) -> Tensor:
    """`minimal_perturbation` as an attack: flipped images where they lie in the ball, the others brought into it."""
    found = minimal_perturbation(model, x, y, type(threat), steps=steps, restarts=restarts, generator=generator)
    return inside_ball(model, x, y, threat, *found)


def inside_ball(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, x_adv: Tensor, distance: Tensor) -> Tensor:
    """Minimal perturbations as the result of an attack on a ball: those further off are projected, or x where better.

    Args:
        x_adv, distance: (N, 3, H, W) and (N,), as `minimal_perturbation` returns them.
    """
    if threat.epsilon == 0 or len(x) == 0:
        return x.detach().clone()
    with attack_mode(model), torch.no_grad():
        x = x.detach().clone()
        near = per_image(distance <= threat.epsilon, x)
        x_adv = torch.where(near, x_adv, threat.project(x_adv, x))  # projecting a near one could round it back
        best = BestSoFar(x)
        best.update(x, margin_loss(model(x), y))
        best.update(x_adv, margin_loss(model(x_adv), y))
    return best.images


def logits_at_each(
    model: nn.Module, x: Tensor, y: Tensor, threats: Sequence[Threat], x_adv: Tensor, distance: Tensor
) -> tuple[Tensor, Tensor]:
    """What the model says of x, and of `inside_ball` for each of several balls, from as few passes as that takes.

    A flipped image is the same in every ball that it lies in. Passes of the model: one of x, one of the images that are
    right without an attack, and for each ball one of those that were flipped outside of it.

    Args:
        threats: E balls of one norm.
        x_adv, distance: (N, 3, H, W) and (N,), as `minimal_perturbation` returns them.
    Returns:
        (N,) and (E, N) logits.
    """
    with attack_mode(model), torch.no_grad():
        clean = model(x)
        flipped, at_each = clean.clone(), clean.repeat(len(threats), 1)
        right = distance > 0
        if right.any():
            flipped[right] = model(x_adv[right])  # beside the images that it was found beside: no other rounding
        for threat, logits in zip(threats, at_each, strict=True):
            if threat.epsilon == 0:
                continue
            logits[:] = torch.where(distance <= threat.epsilon, flipped, clean)
            outside = (distance > threat.epsilon) & distance.isfinite()
            if outside.any():
                logits[outside] = model(threat.project(x_adv[outside], x[outside]))
            logits[:] = torch.where(margin_loss(logits, y) > margin_loss(clean, y), logits, clean)
    return clean, at_each


def robust_accuracy_curve(distance: Tensor, epsilons: Sequence[float]) -> Tensor:
    """(E,) shares of the images that no perturbation of length epsilon flips.

    Args:
        distance: (N,) minimal distances, of `minimal_perturbation`.
        epsilons: E radii in the same unit, [0, 1] pixels.
    """
    radii = torch.as_tensor(epsilons, dtype=torch.float64, device=distance.device)
    return (distance.double() > radii[:, None]).double().mean(dim=1)


def _nearest_flip(
    model: nn.Module, x: Tensor, y: Tensor, norm: Norm, noise: ImageNoise, steps: int, restarts: int
) -> BestSoFar:
    """The nearest flipped points of images that are right; their loss is minus their distance."""
    nearest = BestSoFar(x)
    for restart in range(restarts):
        x_adv = wide(x)
        if restart:
            farthest = 1.0 if norm is Linf else x[0].numel() ** 0.5
            radius = (-nearest.loss).clamp_max(farthest / 4)  # infinite where nothing was found
            x_adv = project_to_balls(x_adv + per_image(radius, x) * noise.uniform(restart), x, radius, norm)
        _follow_boundary(model, x, y, x_adv, norm, steps, nearest)
        _halve(model, x, y, norm, nearest)
    return nearest


def _halve(model: nn.Module, x: Tensor, y: Tensor, norm: Norm, nearest: BestSoFar) -> None:
    """Moves each nearest point towards x, along the straight line, to where it just flips."""
    near, far = wide(x), wide(nearest.images)
    for _ in range(HALVINGS):
        middle = round_towards((near + far) / 2, x, x.dtype)
        value = margin_loss(model(middle), y)
        _keep(nearest, middle, value, x, norm)
        near = torch.where(per_image(value > 0, x), near, wide(middle))
        far = torch.where(per_image(value > 0, x), wide(middle), far)


def _follow_boundary(
    model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, norm: Norm, steps: int, nearest: BestSoFar
) -> None:
    """One path from x_adv; its flipped points go to `nearest`."""
    value, gradient = value_and_input_gradient(model, start := round_towards(x_adv, x, x.dtype), y)
    _keep(nearest, start, value, x, norm)
    behind = wide(start) + move_to_hyperplane(wide(start), gradient, -(1 + OVERSHOOT) * value, norm)
    value = margin_loss(model(seen := round_towards(behind, x, x.dtype)), y)
    _keep(nearest, seen, value, x, norm)
    found, radius = value > 0, length(behind - x, norm)
    # Where the gradient promised a flip and there is none, the move was too far: back to where it began.
    last_adv = x_adv = torch.where(per_image(found, x), behind, x_adv)
    for step in range(1, steps):
        seen = round_towards(x_adv, x, x.dtype)
        value, gradient = value_and_input_gradient(model, seen, y)
        _keep(nearest, seen, value, x, norm)
        decay = (1 + math.cos(math.pi * step / steps)) / 2
        uphill = norm(0.0).step(torch.zeros_like(x_adv), gradient, 1.0)
        change = RADIUS_CHANGE[1] + (RADIUS_CHANGE[0] - RADIUS_CHANGE[1]) * decay
        slope = (wide(gradient) * uphill).flatten(1).sum(1)  # of the margin, per unit of length
        to_boundary = (value.abs() / slope).nan_to_num(torch.inf, torch.inf)
        flips, away = value > 0, torch.minimum(length(wide(seen) - x, norm), -nearest.loss)
        shrunk = (away - to_boundary).clamp(away * LARGEST_SHRINK, away * (1 - change))
        grown = torch.where(found, radius * (1 + change), torch.maximum(radius, away + to_boundary))
        grown = grown.minimum(radius * LARGEST_GROWTH).minimum(-nearest.loss * (1 - RADIUS_CHANGE[1]))
        radius, found = torch.where(flips, shrunk, grown), found | flips
        forward = STEP * (0.1 + 0.9 * decay) * per_image(radius, x) * uphill + MOMENTUM * (x_adv - last_adv)
        x_adv, last_adv = project_to_balls(x_adv + forward, x, radius, norm), x_adv
    seen = round_towards(x_adv, x, x.dtype)
    _keep(nearest, seen, margin_loss(model(seen), y), x, norm)


def _keep(nearest: BestSoFar, seen: Tensor, value: Tensor, x: Tensor, norm: Norm) -> None:
    nearest.update(seen, torch.where(value > 0, -length(wide(seen) - x, norm), -torch.inf))
