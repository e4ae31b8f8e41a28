"""The binarisation test: adversarial examples that are known to exist, which the attack must find.

Around each image the last linear layer is fitted anew, so that it tells the image and its neighbourhood from one corner
of the ball. That corner is then an adversarial example by construction, for the same features and the same gradients.
Source: Zimmermann et al. 2022, "Increasing Confidence in Adversarial Robustness Evaluations", section 4.
"""

import torch
from torch import Tensor, nn

from robust.attacks.gates.budget import STEPS
from robust.attacks.gates.evidence import Evidence
from robust.attacks.gates.gate import Gate
from robust.attacks.noise import ImageNoise

IMAGES = 8
"""Images with a planted example; each costs NEIGHBOURS + CORNERS forwards."""

NEIGHBOURS = 16
"""Random points of the ball that must keep the image's class."""

CORNERS = 4
"""Corners of the ball, +-epsilon at every value, from which the easiest to tell apart is planted."""

RIDGE = 1e-3
"""Of the fit, relative to the spread of the features; without it, rounding errors decide among equal fits."""

CLEAR = 100
"""Times the rounding of float32 features that the gap must have: below it, whether the corner is found is chance."""

FOUND = 0.75
"""Share of the planted examples that must be found. Honest models give 1; the paper asks 0.95 of far more images."""


def finds_planted(evidence: Evidence) -> Gate:
    """The attack finds adversarial examples that were planted in the ball."""
    x = evidence.x[:: max(1, len(evidence.x) // IMAGES)][:IMAGES]
    planted, fitted = plant(evidence.model, x, evidence.threat, evidence.generator())
    x, labels = x[fitted], torch.zeros(int(fitted.sum()), device=x.device)
    remedy = "the attack misses what is there: its gradient is masked, or its steps are too few"
    if len(x) == 0:
        measured = "nothing to find: random corners of the ball move the model's features by no more than rounding"
        return Gate("finds_planted", True, measured, remedy)
    x_adv = evidence.budget.attack(planted, x, labels, evidence.threat, steps=STEPS, generator=evidence.generator())
    found = int((_score(planted, x_adv) > 0).sum())
    measured = f"{found} of {len(x)} planted examples found in {STEPS} steps"
    return Gate("finds_planted", found >= FOUND * len(x), measured, remedy)


class PlantedDetector(nn.Module):
    """The model's features with one linear layer an image: (N, 3, H, W), exactly the planted images, to (N,) logits.

    Args:
        weight, centre: (N, D); the logit is weight . (features - centre). float64: the features may hardly move.
    """

    def __init__(self, features: "Features", weight: Tensor, centre: Tensor) -> None:
        super().__init__()
        self.features, self.weight, self.centre = features, weight, centre
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return ((self.features(x).double() - self.centre) * self.weight).sum(dim=1).float()


class Features(nn.Module):
    """(N, D) inputs of the model's last linear layer of one output; where it has none, its logit as the one feature."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        heads = [part for part in model.modules() if isinstance(part, nn.Linear) and part.out_features == 1]
        self.head = heads[-1] if heads else None

    def forward(self, x: Tensor) -> Tensor:
        if self.head is None:
            return self.model(x).float()[:, None]
        seen = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.model(x)
        finally:
            hook.remove()
        return seen[-1].float()


@torch.no_grad()
def plant(model: nn.Module, x: Tensor, threat, generator: torch.Generator) -> tuple[PlantedDetector, Tensor]:
    """Heads that call each image and its neighbours negative and one corner of its ball positive.

    Args:
        x: (N, 3, H, W) images in [0, 1].
    Returns:
        the detector for the M images that such a head exists for, and which these are, (N,) bool.
    """
    features, noise = Features(model), ImageNoise.of(x, generator=generator)
    inner = [features(x)] + [features(threat.random_start(x, noise, stream=i)) for i in range(NEIGHBOURS)]
    signs = [torch.where(noise.uniform(NEIGHBOURS + i) < 0, -1.0, 1.0) for i in range(CORNERS)]
    corners = [features(threat.project(x + threat.epsilon * sign, x)) for sign in signs]
    inner, corners = torch.stack(inner, 1).double(), torch.stack(corners, 1).double()  # (N, points, D)
    weight = _separating(inner, corners)  # (N, corners, D)
    values = torch.einsum("ncd,npd->ncp", weight, inner)
    planted = torch.einsum("ncd,ncd->nc", weight, corners)
    gap, best = (planted - values.amax(dim=2)).max(dim=1)
    each = torch.arange(len(x), device=x.device)
    weight, corner = weight[each, best], corners[each, best]
    rounding = torch.finfo(torch.float32).eps * corner.norm(dim=1) * weight.norm(dim=1)
    fitted = gap > CLEAR * rounding
    # Half way along the gap, and scaled so that the planted corner has logit 1 and every neighbour at most -1.
    weight = weight[fitted] * (2 / gap[fitted])[:, None]
    centre = corner[fitted] - weight / weight.square().sum(dim=1, keepdim=True)
    return PlantedDetector(features, weight, centre), fitted


def _separating(inner: Tensor, corners: Tensor) -> Tensor:
    """(N, corners, D) directions in which the neighbours vary least for how far the corner lies: Fisher's discriminant.

    Solved in the space of the neighbours, which are fewer than the features (Woodbury's identity).
    """
    centre = inner.mean(dim=1, keepdim=True)
    spread, away = inner - centre, corners - centre
    gram = spread @ spread.mT
    ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-30
    damped = gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    return away - (spread.mT @ torch.linalg.solve(damped, spread @ away.mT)).mT


@torch.no_grad()
def _score(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).float()
