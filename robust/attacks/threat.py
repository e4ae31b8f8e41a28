"""Threat models: what an attacker may do to an image, as a ball around it with three verbs.

`project` brings an image back into the ball and the box [0, 1], `step` moves it uphill by a given length, and
`random_start` draws a point of the ball. The design follows the attack steps of MadryLab's `robustness`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robust.attacks.noise import ImageNoise

PROJECTION_ROUNDS = 8
"""Of the projection onto a ball in L2 and the box. Three are exact to rounding, tried on random images, unless the ball holds nearly all of the box: then eight."""


@dataclass(frozen=True)
class Linf:
    """Every pixel value may move by at most epsilon: {x' : max|x' - x| <= epsilon}.

    Args:
        epsilon: radius in [0, 1] pixel units, e.g. 4 / 255.
    Raises:
        ValueError: epsilon is negative or not finite.
    """

    epsilon: float

    def __post_init__(self) -> None:
        _check_radius(self)

    @classmethod
    def from_255(cls, epsilon: float) -> "Linf":
        """The ball whose radius is written in 0-255 units, as in the config: Linf.from_255(4) is Linf(4 / 255)."""
        return cls(epsilon / 255)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The nearest point to x_adv in the ball around x and in [0, 1]; dtype of x_adv."""
        delta = (wide(x_adv) - x).clamp_(-self.epsilon, self.epsilon)
        return round_towards(delta.add_(x).clamp_(0, 1), x, x_adv.dtype)

    def step(self, x_adv: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """Steepest ascent in this norm: each pixel value moves by step_size; none where its gradient is zero or NaN."""
        return torch.add(x_adv, gradient.sign(), alpha=step_size)

    def random_start(self, x: Tensor, noise: ImageNoise, *, stream: int = 0) -> Tensor:
        """A point drawn uniformly from the ball, then clipped to [0, 1]; `stream` numbers independent draws."""
        return self.project(x + self.epsilon * noise.uniform(stream), x)


@dataclass(frozen=True)
class L2:
    """The perturbation of a whole image, all pixels and channels together, is at most epsilon long.

    {x' : sqrt(sum (x' - x)^2) <= epsilon}, the sum over the C * H * W values that the model is given (after the
    resize), so one epsilon means less on a larger image: spread evenly, each value moves by epsilon / sqrt(C H W).

    Args:
        epsilon: radius in [0, 1] pixel units, e.g. 0.5 = 128 / 255, CIFAR's usual one.
    Raises:
        ValueError: epsilon is negative or not finite.
    """

    epsilon: float

    def __post_init__(self) -> None:
        _check_radius(self)

    @classmethod
    def from_255(cls, epsilon: float) -> "L2":
        """The ball whose length is written in 0-255 units: L2.from_255(127.5) is L2(0.5)."""
        return cls(epsilon / 255)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The nearest point to x_adv in the ball around x and in [0, 1]; dtype of x_adv.

        It is clip(x + s (x_adv - x)) with the largest s up to 1 that stays in the ball (the KKT conditions of the two constraints). What
        clipping takes from some values is length that the others may have: s grows round by round until no other value meets the
        box, which few rounds see to, and every round's point is in both sets.
        """
        delta = wide(x_adv) - x
        low, high, most = -x, 1 - x, self.epsilon**2
        scale = (self.epsilon / _lengths(delta).clamp_min(self.epsilon or 1)).to(delta.dtype)
        for _ in range(PROJECTION_ROUNDS):
            moved = delta * scale
            clipped = moved.clamp(low, high)
            free = clipped == moved
            left = (most - _lengths(torch.where(free, 0, clipped)).square()).clamp_min(0).sqrt()
            grown = left / _lengths(torch.where(free, delta, 0)).clamp_min(torch.finfo(torch.float64).tiny)
            scale = torch.maximum(scale, grown.clamp_max(1).to(delta.dtype))
        return round_towards((x + delta * scale).clamp_(0, 1), x, x_adv.dtype)

    def step(self, x_adv: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """Steepest ascent in this norm: step_size along each image's gradient; none where that is zero."""
        # Scaled by the largest value first: the square of a tiny gradient would underflow to a length of zero.
        largest = gradient.abs().amax(dim=_image_dims(gradient), keepdim=True)
        scaled = (wide(gradient) / torch.where(largest > 0, largest, 1)).nan_to_num_(0, 0, 0)
        return x_adv + step_size * scaled / _lengths(scaled).clamp_min(1).to(scaled.dtype)

    def random_start(self, x: Tensor, noise: ImageNoise, *, stream: int = 0) -> Tensor:
        """A point drawn uniformly from the ball, then clipped to [0, 1]; `stream` numbers independent draws."""
        direction = noise.normal(stream)
        radius = self.epsilon * noise.fraction(stream) ** (1 / x[0].numel())
        return self.project(x + direction * (radius.view(_per_image(x)) / _lengths(direction)).to(direction.dtype), x)


Threat = Linf | L2
THREATS = {"linf": Linf, "l2": L2}


def usual_step(threat: Threat, steps: int) -> float:
    """Step size of an attack that is given none, in [0, 1] units: so many can cross the ball (Madry et al. 2018)."""
    return 2.5 * threat.epsilon / steps


def wide(tensor: Tensor) -> Tensor:
    """The tensor in at least float32: half precision cannot hold a step of a fraction of 1/255."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def round_towards(x_adv: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """x_adv in `dtype`, never further from x than it was: plain rounding to bfloat16 would leave a small ball.

    A no-op where nothing is rounded. x must be exact in `dtype`.
    """
    if x_adv.dtype == dtype:
        return x_adv
    rounded, centre = x_adv.to(dtype), x.to(dtype)
    further = (rounded.to(x_adv.dtype) - x).abs() > (x_adv - x).abs()
    return torch.where(further, torch.nextafter(rounded, centre), rounded)


def _lengths(delta: Tensor) -> Tensor:
    """(N, 1, ..., 1) L2 lengths, summed in float64 so that an image of many pixels stays within epsilon + 1e-6."""
    return torch.linalg.vector_norm(delta, dim=_image_dims(delta), keepdim=True, dtype=torch.float64)


def _image_dims(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _per_image(x: Tensor) -> tuple[int, ...]:
    return (len(x),) + (1,) * (x.ndim - 1)


def _check_radius(threat: "Threat") -> None:
    if not (math.isfinite(threat.epsilon) and threat.epsilon >= 0):
        raise ValueError(f"{type(threat).__name__}: epsilon is {threat.epsilon}; it must be a finite number >= 0")
