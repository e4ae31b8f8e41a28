"""MART: the divergence of TRADES counts where the clean image is called wrong (Wang et al. 2020), with one logit.

    BCE'(z', y) + beta * KL(p || p') * (1 - p_y),   p_y: probability of the right class at the clean image

The paper's boosted cross-entropy, -log p'_y - log(1 - max_{k != y} p'_k), is 2 BCE(z', y) with two classes: there
1 - max_{k != y} p'_k is p'_y again.
Source: Wang et al. 2020 (Improving adversarial robustness requires revisiting misclassified examples), eqs. 7 to 11; x' by PGD.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robust.config import RecipeConfig
from robust.training.recipes import madry
from robust.training.recipes.base import Recipe, bernoulli_kl


def loss(clean: Tensor, adversarial: Tensor | None, targets: Tensor, settings: RecipeConfig) -> dict[str, Tensor]:
    """Means over the batch; without an attack the image is its own adversarial example."""
    adversarial = clean if adversarial is None else adversarial
    boosted = 2 * F.binary_cross_entropy_with_logits(adversarial, targets)
    wrong = torch.sigmoid((1 - 2 * targets) * clean)
    kl = (bernoulli_kl(clean, adversarial) * wrong).mean()
    return {"total": boosted + settings.beta * kl, "adversarial": boosted, "kl": kl}


RECIPE = Recipe(madry.attack, loss, looks_at=lambda settings: ("clean", "adversarial"))
