"""Transfer: images made on surrogate models by momentum and input diversity, for a target that is never asked.

Where these turn more images than a white-box attack on the target, the target hides its gradients.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust.attacks.geometry import per_image
from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.inputs import check_inputs, require_logits
from robust.attacks.losses import AttackLoss, margin_loss
from robust.attacks.mean_logit import mean_logit
from robust.attacks.noise import ImageNoise
from robust.attacks.separable import apply_separable, resize_matrix
from robust.attacks.threat import Threat, round_towards, usual_step, wide

SMALLEST = 0.9
"""Share of the side to which input diversity shrinks an image at most, before it pads it again."""

DIVERSE_SHARE = 0.5
"""Of the steps in which an image is shrunk and padded; in the others it is shown as it is."""


def mi_fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    step_size: float | None = None,
    decay: float = 1.0,
    diversity: float = DIVERSE_SHARE,
    loss: AttackLoss = margin_loss,
) -> Tensor:
    """Steps along a running sum of gradients, taken on randomly resized and padded images; the last point counts.

    The strongest point on this model is not the one that transfers best, so none is kept. Passes of the model: `steps`
    forwards and input gradients.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float images in [0, 1].
        y: (N,) labels, 1 = fake.
        threat: the ball, e.g. Linf.from_255(4).
        generator: a CPU one, seeds the input diversity (one number is drawn); None is the seed 0.
        step_size: in [0, 1] pixel units; default 2.5 * epsilon / steps, as for pgd (Dong et al.: epsilon / steps).
        decay: of the sum of gradients from step to step; 0: no momentum.
        diversity: probability in [0, 1] with which an image is resized and padded in a step; 0: never.
        loss: maps (N,) logits and (N,) labels to (N,) losses to maximise.
    Returns:
        (N, 3, H, W) images inside the ball and [0, 1], dtype of x.
    Raises:
        ValueError: bad images, labels, logits or settings.
    Source: Dong et al. 2018 (arXiv 1710.06081), algorithm 1; Xie et al. 2019 (arXiv 1803.06978), section 3.3. Theirs
        enlarges and pads; here the padded image has the size of the model's input.
    """
    if steps < 1 or not 0 <= diversity <= 1 or (step_size is not None and not step_size > 0):
        raise ValueError(
            f"mi_fgsm needs at least one step, a positive step size and a diversity in [0, 1], not steps={steps}, "
            f"step_size={step_size}, diversity={diversity}"
        )
    check_inputs(x, y)
    if threat.epsilon == 0 or len(x) == 0:
        return x.detach().clone()
    step_size = step_size or usual_step(threat, steps)
    with attack_mode(model), torch.no_grad():
        x, y = x.detach().clone(), y.to(x.device, copy=True)
        seen = _Diverse(model, ImageNoise.of(x, generator=generator), diversity)
        x_adv, momentum = wide(x), torch.zeros_like(wide(x))
        best_loss = torch.full((len(x),), -torch.inf, device=x.device)
        for _ in range(steps):
            value, gradient = value_and_input_gradient(seen, round_towards(x_adv, x, x.dtype), y, loss)
            best_loss = torch.fmax(best_loss, value)
            gradient = wide(gradient).nan_to_num(0, 0, 0)
            size = gradient.abs().flatten(1).mean(dim=1)
            momentum = decay * momentum + gradient / per_image(torch.where(size > 0, size, 1), x)
            x_adv = threat.project(threat.step(x_adv, momentum, step_size), x)
    require_logits(best_loss)
    return round_towards(x_adv, x, x.dtype)


def transfer(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    surrogates: Sequence[nn.Module] = (),
    **settings,
) -> Tensor:
    """`mi_fgsm` on the mean logit of the surrogates; the target, `model`, is not run.

    Args:
        model: the target; here so that all attacks are called alike.
        surrogates: other models, with (N,) logits for images of the target's size; see AtInputSize.
        settings: of mi_fgsm.
    Raises:
        ValueError: no surrogates, or what mi_fgsm refuses.
    Source: Dong et al. 2018, section 3.3: an ensemble is attacked through the mean of its logits.
    """
    if not surrogates:
        raise ValueError("transfer needs at least one surrogate, a model other than the target")
    return mi_fgsm(Ensemble(surrogates), x, y, threat, steps=steps, generator=generator, **settings)


class Ensemble(nn.Module):
    """The mean logit of several models."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return mean_logit(self.models, x)


class AtInputSize(nn.Module):
    """A model behind a differentiable resize to the size that it was trained at.

    Args:
        model: takes (N, 3, size, size) images.
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        size = (self.size, self.size)
        return self.model(x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", antialias=True))


class _Diverse(nn.Module):
    """The model, seeing each image shrunk and put at a random place of a black frame; every call draws anew."""

    def __init__(self, model: nn.Module, noise: ImageNoise, share: float) -> None:
        super().__init__()
        self.model, self.noise, self.share, self.calls = model, noise, share, 0

    def forward(self, x: Tensor) -> Tensor:
        chosen, size, *places = (self.noise.fraction(4 * self.calls + k) for k in range(4))
        self.calls += 1
        if self.share == 0:
            return self.model(x)
        matrices = []
        for side, place in zip(x.shape[2:], places, strict=True):
            length = (side * SMALLEST + size * (side + 1 - side * SMALLEST)).floor().clamp(1, side)
            length = torch.where(chosen < self.share, length, side)
            matrices.append(resize_matrix(side, side, length, (place * (side - length + 1)).floor()))
        return self.model(apply_separable(x, *matrices))
