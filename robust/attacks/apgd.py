"""APGD: PGD with momentum whose step size halves by itself (Croce & Hein 2020, arXiv 2003.01690, algorithm 1)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust.attacks.best import BestSoFar
from robust.attacks.geometry import per_image
from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.inputs import check_inputs, require_logits
from robust.attacks.losses import AttackLoss, margin_loss
from robust.attacks.noise import ImageNoise
from robust.attacks.threat import L2, Linf, Threat, round_towards, wide

NEW_SHARE = 0.75  # of the new step in a move; the rest is the last move again (alpha in the paper)
FIRST_STEP = {Linf: 1.0, L2: 2.0}  # in epsilons; 2 in the paper, which throws every Linf start into a corner (docs/attacks.md)
RISING_SHARE = 0.75  # of the moves between two checkpoints that must raise the loss (rho in the paper)


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    restarts: int = 1,
    loss: AttackLoss = margin_loss,
    early_stop: bool = False,
) -> Tensor:
    """Gradient ascent with steps of epsilon (L2: twice that) that halve, for each image alone, where they stall.

    Passes of the model: 1 + restarts * (steps + 1) forwards and restarts * steps input gradients.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float images in [0, 1].
        y: (N,) labels, 1 = fake.
        threat: the ball, e.g. Linf.from_255(4).
        generator: a CPU one, seeds the random starts (one number is drawn); None is the seed 0.
        restarts: how many paths, each from another random point of the ball.
        loss: maps (N,) logits and (N,) labels to (N,) losses to maximise; must grow with being wrong.
        early_stop: leave an image at the first point that is called the wrong class and run the model on the others
            only. For robust accuracy, which needs no more; the point is then not the strongest.
    Returns:
        (N, 3, H, W) images inside the ball and [0, 1], dtype of x: each image's point of largest loss, x included.
    Raises:
        ValueError: bad images, labels, logits or settings.
    Source: Croce & Hein 2020, whose first steps are of 2 epsilon in Linf too. The momentum starts anew after a return to
        the best point; theirs goes on.
    """
    if steps < 1 or restarts < 1:
        raise ValueError(f"apgd needs at least one step and one restart, not steps={steps}, restarts={restarts}")
    check_inputs(x, y)
    if threat.epsilon == 0 or len(x) == 0:
        return x.detach().clone()
    with attack_mode(model), torch.no_grad():
        x, y = x.detach().clone(), y.to(x.device, copy=True)
        noise = ImageNoise.of(x, generator=generator)
        best = BestSoFar(x)
        best.update(x, loss(model(x), y))
        target = _Target(model, y, loss, best, early_stop)
        for restart in range(restarts):
            _climb(target, x, threat.random_start(x, noise, stream=restart), threat, steps)
    require_logits(best.loss)
    return best.images


def checkpoints(steps: int) -> list[int]:
    """The steps at which the step sizes are looked at: 22 % of all, then at intervals that shrink from 19 % to 6 %."""
    checks, percent, last = [], 22, 0
    while percent <= 100:
        checks.append(math.ceil(percent * steps / 100))
        percent, last = percent + max(percent - last - 3, 6), percent
    return checks


@dataclass(frozen=True)
class _Target:
    """The model and the loss that a path climbs; asked only for images that are still to be attacked."""

    model: nn.Module
    y: Tensor
    loss: AttackLoss
    best: BestSoFar
    early_stop: bool

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) losses and their gradients, -inf and 0 for images that are done with; keeps the best."""
        if not self.early_stop:
            value, gradient = value_and_input_gradient(self.model, images, self.y, self.loss)
        else:
            value, gradient = torch.full_like(self.best.loss, -torch.inf), torch.zeros_like(images)
            if len(rows := self._still_right()):
                value[rows], gradient[rows] = value_and_input_gradient(
                    self.model, images[rows], self.y[rows], self.loss
                )
        self.best.update(images, value)
        return value, gradient

    def last_look(self, images: Tensor) -> None:
        """Keeps the best, without a gradient."""
        rows = self._still_right() if self.early_stop else slice(None)
        value = torch.full_like(self.best.loss, -torch.inf)
        if len(self.y[rows]):
            value[rows] = self.loss(self.model(images[rows]), self.y[rows])
        self.best.update(images, value)

    def _still_right(self) -> Tensor:
        """Rows whose best loss is not above that of the logit 0, the boundary."""
        at_boundary = self.loss(torch.zeros_like(self.best.loss), self.y)
        return (self.best.loss <= at_boundary).nonzero().squeeze(1)


def _climb(target: _Target, x: Tensor, x_adv: Tensor, threat: Threat, steps: int) -> None:
    """One path of `steps` moves from x_adv; its points go to target.best."""
    top, top_gradient = BestSoFar(x), BestSoFar(torch.zeros_like(x))  # of this path
    step_size = torch.full_like(top.loss, FIRST_STEP[type(threat)] * threat.epsilon)
    rises, halved = torch.zeros_like(top.loss), torch.zeros_like(top.loss, dtype=torch.bool)
    last_value = last_top = torch.full_like(top.loss, torch.inf)
    last_check, checks, last_adv = 0, checkpoints(steps), x_adv
    for step in range(steps):
        value, gradient = target.look(seen := round_towards(x_adv, x, x.dtype))
        top.update(seen, value)
        top_gradient.update(gradient, value)
        rises += value > last_value
        if step in checks:
            stalls = rises < RISING_SHARE * (step - last_check)
            halved = stalls | (~halved & (top.loss == last_top))
            step_size = torch.where(halved, step_size / 2, step_size)
            x_adv = torch.where(per_image(halved, x), wide(top.images), x_adv)
            last_adv = torch.where(per_image(halved, x), x_adv, last_adv)
            gradient = torch.where(per_image(halved, x), top_gradient.images, gradient)
            value = torch.where(halved, top.loss, value)
            rises, last_top, last_check = torch.zeros_like(rises), top.loss, step
        last_value = value
        uphill = threat.step(torch.zeros_like(x_adv), gradient, 1.0)
        goal = threat.project(x_adv + per_image(step_size, x).to(x_adv.dtype) * uphill, x)
        share = NEW_SHARE if step else 1.0
        moved = x_adv + share * (goal - x_adv) + (1 - share) * (x_adv - last_adv)
        x_adv, last_adv = threat.project(moved, x), x_adv
    target.last_look(round_towards(x_adv, x, x.dtype))
