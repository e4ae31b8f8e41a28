"""PGD: repeated gradient steps inside the ball (Madry et al. 2018, arXiv 1706.06083, eq. 2)."""

import torch
from torch import Tensor, nn

from robust.attacks.best import BestSoFar
from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.inputs import check_inputs, require_logits
from robust.attacks.losses import AttackLoss, margin_loss
from robust.attacks.noise import ImageNoise
from robust.attacks.threat import Threat, round_towards, usual_step, wide


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    loss: AttackLoss = margin_loss,
    keep_best: bool = True,
    checked: bool = True,
) -> Tensor:
    """Projected gradient ascent on the margin; keeps the strongest point that each image's paths went through.

    Passes of the model: restarts * (steps + 1) forwards, one more for x itself when the starts are random, and
    restarts * steps input gradients. With keep_best=False: steps forwards and steps gradients.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float images in [0, 1].
        y: (N,) labels, 1 = fake.
        threat: the ball, e.g. Linf.from_255(4).
        generator: a CPU one, seeds the random starts (one number is drawn); None is the seed 0.
        step_size: in [0, 1] pixel units; default 2.5 * epsilon / steps, which can cross the ball.
        restarts: how many paths, each from another random point; more than one needs random_start and keep_best.
        random_start: begin at a random point of the ball, not at x.
        loss: maps (N,) logits and (N,) labels to (N,) losses to maximise.
        keep_best: return each image's strongest point, x included. False returns the last point and saves the passes
            that only measure: for training.
        checked: verify x, y and that the logits are numbers, which waits for the device; False in a training loop.
    Returns:
        (N, 3, H, W) images inside the ball and [0, 1], dtype of x.
    Raises:
        ValueError: bad images, labels, logits or settings.
    Source: Madry et al. 2018; the best iterate as in Croce & Hein 2020.
    """
    _check_settings(steps, step_size, restarts, restartable=random_start and keep_best)
    if checked:
        check_inputs(x, y)
    if threat.epsilon == 0 or len(x) == 0:
        return x.detach().clone()
    step_size = step_size or usual_step(threat, steps)
    with attack_mode(model), torch.no_grad():
        x, y = x.detach().clone(), y.to(x.device, copy=True)
        noise = ImageNoise.of(x, generator=generator) if random_start else None
        best = BestSoFar(x)
        if keep_best and random_start:
            best.update(x, loss(model(x), y))
        for restart in range(restarts):
            x_adv = threat.random_start(x, noise, stream=restart) if random_start else wide(x)
            for _ in range(steps):
                seen = round_towards(x_adv, x, x.dtype)
                value, gradient = value_and_input_gradient(model, seen, y, loss)
                if keep_best:
                    best.update(seen, value)
                x_adv = threat.project(threat.step(x_adv, gradient, step_size), x)
            last = round_towards(x_adv, x, x.dtype)
            if not keep_best:
                return last
            best.update(last, loss(model(last), y))
    if checked:
        require_logits(best.loss)
    return best.images


def _check_settings(steps: int, step_size: float | None, restarts: int, *, restartable: bool) -> None:
    if steps < 1 or restarts < 1:
        raise ValueError(f"pgd needs at least one step and one restart, not steps={steps}, restarts={restarts}")
    if step_size is not None and not step_size > 0:
        raise ValueError(f"pgd's step_size is {step_size}; it must be positive, in [0, 1] pixel units")
    if restarts > 1 and not restartable:
        raise ValueError(f"restarts={restarts} needs random_start=True and keep_best=True: the paths would be the same")
