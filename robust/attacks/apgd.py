"""APGD: PGD with momentum whose step size halves by itself (Croce & Hein 2020, arXiv 2003.01690, algorithm 1)."""

import math
from dataclasses import dataclass, replace

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
FIRST_STEP = {Linf: 1.0, L2: 2.0}  # in epsilons; 2 in the paper: benchmarks/apgd_first_step.py has both for Linf
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
    first_step: float | None = None,
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
        first_step: length of the first steps, in epsilons; None: that of FIRST_STEP.
    Returns:
        (N, 3, H, W) images inside the ball and [0, 1], dtype of x: each image's point of largest loss, x included.
    Raises:
        ValueError: bad images, labels, logits or settings.
    Source: Croce & Hein 2020, whose first steps are of 2 epsilon in Linf too. The momentum starts anew after a return to
        the best point; theirs goes on.
    """
    first_step = FIRST_STEP[type(threat)] if first_step is None else first_step
    if steps < 1 or restarts < 1 or not first_step > 0:
        raise ValueError(f"apgd needs at least one step, one restart and a first step, not steps={steps}, "
                         f"restarts={restarts}, first_step={first_step}")
    check_inputs(x, y)
    if threat.epsilon == 0 or len(x) == 0:
        return x.detach().clone()
    with attack_mode(model), torch.no_grad():
        x, y = x.detach().clone(), y.to(x.device, copy=True)
        noise = ImageNoise.of(x, generator=generator)
        best = BestSoFar(x)
        best.update(x, loss(model(x), y))
        for restart in range(restarts):
            rows = _still_right(best.loss, y, loss) if early_stop else slice(None)
            if len(y[rows]):
                mine = replace(noise, keys=noise.keys[rows], shape=x[rows].shape)
                start = threat.random_start(x[rows], mine, stream=restart)
                target = _Target(model, loss, early_stop)
                points, losses = _climb(target, x[rows], y[rows], start, threat, steps, first_step * threat.epsilon)
                if early_stop:
                    points, losses = _among_all(best, rows, points, losses)
                best.update(points, losses)
    require_logits(best.loss)
    return best.images


def checkpoints(steps: int) -> list[int]:
    """The steps at which the step sizes are looked at: 22 % of all, then at intervals that shrink from 19 % to 6 %."""
    checks, percent, last = [], 22, 0
    while percent <= 100:
        checks.append(math.ceil(percent * steps / 100))
        percent, last = percent + max(percent - last - 3, 6), percent
    return checks


def _still_right(value: Tensor, y: Tensor, loss: AttackLoss) -> Tensor:
    """Rows whose loss is not above that of the logit 0, the boundary."""
    return (value <= loss(torch.zeros_like(value), y)).nonzero().squeeze(1)


def _among_all(best: BestSoFar, rows: Tensor, points: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
    """Points and losses of some images as those of all; the others have their best point and no loss."""
    images, loss = best.images.clone(), torch.full_like(best.loss, -torch.inf, dtype=losses.dtype)
    images[rows], loss[rows] = points, losses
    return images, loss


@dataclass(frozen=True)
class _Target:
    """What a path climbs, and whether it leaves an image at the first point of the wrong class."""

    model: nn.Module
    loss: AttackLoss
    early_stop: bool


@dataclass
class _Path:
    """Where the images of a path are; every tensor has a row an image, so that images can be left behind."""

    x: Tensor
    y: Tensor
    x_adv: Tensor
    last_adv: Tensor
    top: Tensor  # the point of largest loss so far
    top_loss: Tensor
    top_gradient: Tensor
    step_size: Tensor
    rises: Tensor  # moves since the last checkpoint that raised the loss
    halved: Tensor  # at the last checkpoint
    last_value: Tensor
    last_top: Tensor  # top_loss at the last checkpoint

    @classmethod
    def begin(cls, x: Tensor, y: Tensor, x_adv: Tensor, step_size: float) -> "_Path":
        of_images = torch.zeros(len(x), device=x.device)
        never = torch.full_like(of_images, torch.inf)
        return cls(x, y, x_adv, x_adv, x, -never, torch.zeros_like(x), torch.full_like(of_images, step_size),
                   of_images, of_images.bool(), never, never)

    def take(self, rows: Tensor) -> "_Path":
        return _Path(*(tensor[rows] for tensor in vars(self).values()))


def _climb(
    target: _Target, x: Tensor, y: Tensor, x_adv: Tensor, threat: Threat, steps: int, first_step: float
) -> tuple[Tensor, Tensor]:
    """One path of `steps` moves from x_adv: (N, 3, H, W) its points of largest loss and (N,) these losses.

    Args:
        first_step: its length, in [0, 1] pixel units.
    """
    path, last_check, checks = _Path.begin(x, y, x_adv, first_step), 0, checkpoints(steps)
    points, losses = x.clone(), torch.empty(len(x), device=x.device, dtype=torch.float64)
    left = torch.arange(len(x), device=x.device)  # images still on their way
    for step in range(steps):
        seen = round_towards(path.x_adv, path.x, x.dtype)
        value, gradient = value_and_input_gradient(target.model, seen, path.y, target.loss)
        higher = value > path.top_loss
        path.top = torch.where(per_image(higher, x), seen, path.top)
        path.top_gradient = torch.where(per_image(higher, x), gradient, path.top_gradient)
        path.top_loss = torch.where(higher, value, path.top_loss)
        if target.early_stop:
            rows = _still_right(path.top_loss, path.y, target.loss)
            if len(rows) < len(left):
                gone = torch.ones_like(left, dtype=torch.bool).index_fill_(0, rows, False)
                points[left[gone]], losses[left[gone]] = path.top[gone], path.top_loss[gone].double()
                path, left, value, gradient = path.take(rows), left[rows], value[rows], gradient[rows]
                if len(rows) == 0:
                    return points, losses
        path.rises = path.rises + (value > path.last_value)
        if step in checks:
            value, gradient = _check_step_size(path, value, gradient, step - last_check)
            last_check = step
        path.last_value = value
        _move(path, gradient, threat, NEW_SHARE if step else 1.0)
    last = round_towards(path.x_adv, path.x, x.dtype)
    value = target.loss(target.model(last), path.y)
    higher = value > path.top_loss
    points[left] = torch.where(per_image(higher, x), last, path.top)
    losses[left] = torch.where(higher, value, path.top_loss).double()
    return points, losses


def _check_step_size(path: _Path, value: Tensor, gradient: Tensor, moves: int) -> tuple[Tensor, Tensor]:
    """Where the path stalls, halves its steps and goes back to its best point; value and gradient there."""
    stalls = path.rises < RISING_SHARE * moves
    path.halved = halved = stalls | (~path.halved & (path.top_loss == path.last_top))
    path.step_size = torch.where(halved, path.step_size / 2, path.step_size)
    path.x_adv = torch.where(per_image(halved, path.x), wide(path.top), path.x_adv)
    path.last_adv = torch.where(per_image(halved, path.x), path.x_adv, path.last_adv)
    path.rises, path.last_top = torch.zeros_like(path.rises), path.top_loss
    gradient = torch.where(per_image(halved, path.x), path.top_gradient, gradient)
    return torch.where(halved, path.top_loss, value), gradient


def _move(path: _Path, gradient: Tensor, threat: Threat, share: float) -> None:
    """One step uphill, and 1 - share of the last move again."""
    uphill = threat.step(path.x_adv.new_zeros(()), gradient, 1.0)
    goal = threat.project(path.x_adv.addcmul(per_image(path.step_size, path.x).to(path.x_adv.dtype), uphill), path.x)
    if share < 1:
        last_move = path.x_adv - path.last_adv
        goal = threat.project(path.x_adv.lerp(goal, share).add_(last_move, alpha=1 - share), path.x)
    path.x_adv, path.last_adv = goal, path.x_adv
