"""A universal perturbation: one for a whole set of images, fitted on some people and tried on others.

What it turns needs no gradient and no time for a new image: an attacker adds one stored pattern to every frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust.attacks.geometry import length, per_image
from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.inputs import check_inputs, require_logits
from robust.attacks.losses import margin_loss
from robust.attacks.threat import Linf, Threat, round_towards, usual_step, wide

CLIP = 1.0
"""Margin beyond which an image that is turned already no longer counts, as a few could outweigh all others."""


@dataclass(frozen=True)
class Universal:
    """Two patterns, one that makes reals look fake and one that makes fakes look real.

    Args:
        patterns: (2, C, H, W), by the label of the images that they are added to; each inside the ball around 0.
        threat: the ball that they were fitted for.
    """

    patterns: Tensor
    threat: Threat

    def apply(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, C, H, W) images with the pattern of their label added, inside the ball and [0, 1], dtype of x.

        Raises:
            ValueError: bad images or labels, or images of another size than the patterns'.
        """
        check_inputs(x, y)
        if x.shape[1:] != self.patterns.shape[1:]:
            raise ValueError(f"the pattern is {tuple(self.patterns.shape[1:])}, the images are {tuple(x.shape[1:])}")
        moved = wide(x) + self.patterns[y.long()].to(wide(x))
        return round_towards(self.threat.project(moved, x), x, x.dtype)


def fit_universal(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: float | None = None,
    clip: float = CLIP,
    batch_size: int = 64,
) -> Universal:
    """Gradient ascent on the mean margin of a set, for its reals and its fakes apart; keeps the best pattern of each.

    Every step looks at the whole set, so it does not depend on an order: passes of the model, steps + 1 forwards of
    every image and steps input gradients.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float images in [0, 1] to fit on; without any of a label, its pattern is 0.
        y: (N,) labels, 1 = fake.
        threat: the ball, e.g. Linf.from_255(8).
        step_size: in [0, 1] pixel units; default 2.5 * epsilon / steps.
        clip: margin above which an image adds nothing more, in logits.
        batch_size: images at once; changes nothing but rounding.
    Raises:
        ValueError: bad images, labels, logits or settings.
    Source: the mean loss and its clipping, Shafahi et al. 2020 (arXiv 1811.11304), section 3; universal perturbations,
        Moosavi-Dezfooli et al. 2017 (arXiv 1610.08401).
    """
    if steps < 1 or batch_size < 1 or (step_size is not None and not step_size > 0):
        raise ValueError(f"fit_universal needs a step, a positive step size and a batch, not {steps}, {step_size}, {batch_size}")
    check_inputs(x, y)
    with attack_mode(model), torch.no_grad():
        patterns = torch.zeros_like(wide(x[:1].clone())).repeat(2, *[1] * (x.ndim - 1))
        for label in (0, 1):
            chosen = (y == label).to(x.device)
            if chosen.any() and threat.epsilon > 0:
                objective = _MeanMargin(model, x[chosen].detach().clone(), label, threat, clip, batch_size)
                patterns[label] = _climb(objective, threat, steps, step_size or usual_step(threat, steps))
    return Universal(patterns, threat)


def universal(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    fit_on: tuple[Tensor, Tensor],
    **settings,
) -> Tensor:
    """`fit_universal` on one set, applied to another, called as all attacks are; draws nothing from the generator.

    Args:
        x, y: the images to perturb and their labels.
        fit_on: images and labels to fit on, of other people than x shows. Fitting is the work: for more than one batch
            fit once and use `Universal.apply`.
        settings: of fit_universal.
    """
    check_inputs(x, y)
    return fit_universal(model, *fit_on, threat, steps=steps, **settings).apply(x, y)


@dataclass(frozen=True)
class _MeanMargin:
    """The mean clipped margin of a set under a pattern, and its gradient."""

    model: nn.Module
    x: Tensor
    label: int
    threat: Threat
    clip: float
    batch_size: int

    def __call__(self, pattern: Tensor, *, gradient: bool = True) -> tuple[Tensor, Tensor]:
        total, uphill = pattern.new_zeros(()), torch.zeros_like(pattern)
        for x in self.x.split(self.batch_size):
            seen = round_towards(self.threat.project(wide(x) + pattern, x), x, x.dtype)
            y = torch.full((len(x),), self.label, device=x.device)
            if gradient:
                value, slope = value_and_input_gradient(self.model, seen, y, self._loss)
                uphill += wide(slope).sum(dim=0)
            else:
                value = self._loss(self.model(seen), y)
            require_logits(value)
            total += value.sum()
        return total / len(self.x), uphill / len(self.x)

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return margin_loss(logits, y).clamp_max(self.clip)


def _climb(objective: _MeanMargin, threat: Threat, steps: int, step_size: float) -> Tensor:
    """The best pattern on a path of `steps` steps from 0."""
    pattern = best = torch.zeros_like(wide(objective.x[0]))
    highest = pattern.new_full((), -torch.inf)
    for step in range(steps + 1):
        value, gradient = objective(pattern, gradient=step < steps)
        if value > highest:
            best, highest = pattern, value
        pattern = _into_ball(threat.step(pattern[None], gradient[None], step_size), threat)[0]
    return best


def _into_ball(pattern: Tensor, threat: Threat) -> Tensor:
    """(1, C, H, W) patterns to the nearest point of the ball around 0."""
    if isinstance(threat, Linf):
        return pattern.clamp(-threat.epsilon, threat.epsilon)
    return pattern * per_image((threat.epsilon / length(pattern, type(threat)).clamp_min(threat.epsilon)), pattern)
