"""EOT: APGD on the expected logit over random transformations (Athalye et al. 2018, arXiv 1707.07397, eq. 1).

For what is random or has no gradient in front of a model, and for perturbations that must outlive compression.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from robust.attacks.apgd import apgd
from robust.attacks.gradients import attack_mode
from robust.attacks.inputs import check_inputs
from robust.attacks.losses import AttackLoss, margin_loss
from robust.attacks.mean_logit import mean_logit
from robust.attacks.noise import ImageNoise
from robust.attacks.threat import Threat
from robust.attacks.transformations import TRANSFORMATIONS, Draw, Transformation


def eot(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    samples: int = 8,
    restarts: int = 1,
    transformations: Sequence[Transformation] = TRANSFORMATIONS,
    loss: AttackLoss = margin_loss,
) -> Tensor:
    """APGD on the mean logit of `samples` views of each image, the same ones in every step.

    Each image has its own views, spread evenly over the transformations' strengths. With views drawn anew in every step,
    losses of two steps do not compare: APGD halves its steps for nothing and keeps the point with the luckiest views.

    The images are those that are wrong on average behind the transformations; on the bare model they may be weaker than
    apgd's. Where the model itself has a part without a gradient, give the rest of it as `model` and that part as a
    transformation, StraightThrough(part) (BPDA). Where the model itself is random, transformations=() averages over its
    own draws; these come from wherever the model takes them, so they are repeatable only if the model's are.

    Passes of the model: `samples` times those of apgd, samples * (1 + restarts * (steps + 1)) forwards and
    samples * restarts * steps input gradients, with the memory of one.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float images in [0, 1].
        y: (N,) labels, 1 = fake.
        threat: the ball, e.g. Linf.from_255(4).
        generator: a CPU one, seeds transformations and starts (two numbers are drawn); None is the seed 0.
        samples: views of an image in one step.
        restarts: how many paths, each from another random point of the ball.
        transformations: applied one after another.
        loss: of the mean logit; with the margin the same as the mean of the views' losses.
    Returns:
        (N, 3, H, W) images inside the ball and [0, 1], dtype of x: each image's point of largest loss, x included.
    Raises:
        ValueError: bad images, labels, logits or settings.
    """
    if samples < 1:
        raise ValueError(f"eot needs at least one sample a step, not samples={samples}")
    check_inputs(x, y)
    if not (threat.epsilon == 0 or len(x) == 0):
        with attack_mode(model):
            noise = ImageNoise.of(x, generator=generator)
            model = Expectation(model, transformations, samples, noise)
    return apgd(model, x, y, threat, steps=steps, generator=generator, restarts=restarts, loss=loss)


class Expectation(nn.Module):
    """The mean logit of a model over random views of each image, the same views in every call.

    Args:
        noise: of the clean images; every call must be with all of them, in order.
    """

    def __init__(self, model: nn.Module, transformations: Sequence[Transformation], samples: int, noise: ImageNoise):
        super().__init__()
        self.model, self.transformations, self.samples, self.noise = model, tuple(transformations), samples, noise

    def forward(self, x: Tensor) -> Tensor:
        return mean_logit([partial(self.view, sample=sample) for sample in range(self.samples)], x)

    def view(self, x: Tensor, *, sample: int) -> Tensor:
        """(N,) logits of one view."""
        for kind, transformation in enumerate(self.transformations):
            x = transformation(x, Draw(self.noise, sample, self.samples, kind))
        return self.model(x)
