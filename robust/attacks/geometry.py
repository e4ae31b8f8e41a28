"""Lengths, balls and hyperplanes for a batch in which each image has its own radius, in the norms of threat.py."""

import torch
from torch import Tensor

from robust.attacks.threat import L2, Linf

Norm = type[Linf] | type[L2]


def per_image(values: Tensor, x: Tensor) -> Tensor:
    """(N,) values, shaped to broadcast over the images x."""
    return values.view(-1, *[1] * (x.ndim - 1))


def length(delta: Tensor, norm: Norm) -> Tensor:
    """(N,) lengths of (N, ...) perturbations, summed in float64."""
    order = torch.inf if norm is Linf else 2
    return torch.linalg.vector_norm(delta.flatten(1), order, dim=1, dtype=torch.float64).to(delta.dtype)


def project_to_balls(x_adv: Tensor, x: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Into the ball of each image, then into [0, 1], as `project` of threat.py does it with one radius.

    Args:
        radius: (N,), in [0, 1] pixel units.
    """
    delta, radius = x_adv - x, per_image(radius, x)
    if norm is L2:
        delta = delta * (radius / per_image(length(delta, norm), x)).nan_to_num(0).clamp_max(1)
    return (x + delta.clamp(-radius, radius)).clamp(0, 1)


def move_to_hyperplane(x: Tensor, normal: Tensor, rise: Tensor, norm: Norm) -> Tensor:
    """The shortest move m for which <normal, m> = rise and x + m stays in [0, 1], exactly.

    Pixel i may move by room_i, to 0 or to 1. In both norms the shortest move brings it min(s, limit_i) on its way, for
    one number s per image: Linf moves each pixel by s until it has no room left; L2 moves it by s |normal_i|. What
    they rise by is sum_i slope_i min(s, limit_i), concave and piecewise linear in s, and sorting the limits gives s.

    Args:
        x: (N, ...) images in [0, 1].
        normal: (N, ...), e.g. the gradient of the logit; pixels where it is 0 or NaN do not move.
        rise: (N,), e.g. minus the logit; may be negative.
        norm: in which the move is shortest.
    Returns:
        (N, ...) moves in the dtype of x; where no image rises enough, the one that goes as far as it can.
    Source: the problem is eq. 6 of Croce & Hein 2020 (FAB, arXiv 1907.02044).
    """
    rise = rise.double()
    normal = normal.flatten(1).double().nan_to_num(0, 0, 0) * torch.where(rise < 0, -1.0, 1.0)[:, None]
    start = x.flatten(1).double()
    room = torch.where(normal > 0, 1 - start, start)
    speed = normal.abs() if norm is L2 else (normal != 0).double()  # how a pixel moves while s grows by 1
    limit = torch.where(speed > 0, room / speed, torch.inf)
    way = torch.minimum(_parameter(speed * normal.abs(), limit, rise.abs())[:, None] * speed, room)
    return (way * normal.sign()).to(x.dtype).view(x.shape)


def _parameter(slopes: Tensor, limits: Tensor, total: Tensor) -> Tensor:
    """(N,) the s with sum_i slopes_i min(s, limits_i) = total; the largest finite limit where the sum stays below."""
    limits, order = limits.sort(dim=1)
    slopes = slopes.gather(1, order)
    finite = torch.where(slopes > 0, limits, 0)
    gains = slopes * finite
    before = gains.cumsum(1) - gains  # by the pixels that have stopped when s reaches this limit
    still = slopes.flip(1).cumsum(1).flip(1)  # slope of the others
    reached = (before + still * finite).cummax(1).values  # it grows but for rounding, which would spoil the search
    first = torch.searchsorted(reached, total[:, None]).clamp_max(limits.shape[1] - 1)
    s = ((total[:, None] - before.gather(1, first)) / still.gather(1, first)).squeeze(1)
    return torch.where(total > reached[:, -1], finite.amax(1), s).nan_to_num(0)
