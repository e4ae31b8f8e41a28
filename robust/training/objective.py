"""What one training step minimises.

    (1 - share) * BCE(clean) + share * BCE(adversarial) + weight * Lipschitz

It is a module of its own so that DistributedDataParallel wraps all of it: one forward and one backward a step through DDP,
however many passes of the network the terms need, hence one reduction of the gradients.
The reference implementation mixed clean and adversarial gradients by accident (the attack left its own behind); here the
mixture is a setting.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from robust.config import PIXEL, RecipeConfig
from robust.training.lipschitz import lipschitz_term
from robust.training.modes import evaluation_mode


class Objective(nn.Module):
    """
    Args:
        network: the detector.
        recipe: mixture, Lipschitz settings, the attack's epsilon (the length of the finite difference).
    """

    def __init__(self, network: nn.Module, recipe: RecipeConfig):
        super().__init__()
        self.network = network
        self.recipe = recipe

    def forward(self, clean: torch.Tensor, adversarial: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            clean, adversarial: (N, 3, H, W) in [0, 1]; the same tensor when there is no attack.
            labels: (N,) 1 = fake.
        Returns:
            scalars total (to minimise), clean, adversarial, lipschitz (detached, to log).
        """
        share = self.recipe.adversarial_share if adversarial is not clean else 0.0
        zero = clean.new_zeros(())
        targets = labels.to(clean.dtype)
        if 0 < share < 1:
            logits = self.network(torch.cat([clean, adversarial])).float()
            on_clean, on_adversarial = (F.binary_cross_entropy_with_logits(part, targets) for part in logits.chunk(2))
        else:
            point = clean if share == 0 else adversarial
            loss = F.binary_cross_entropy_with_logits(self.network(point).float(), targets)
            on_clean, on_adversarial = (loss, zero) if share == 0 else (zero, loss)
        slope = self._slope(clean, adversarial) if self.recipe.lipschitz.weight > 0 else zero
        total = (1 - share) * on_clean + share * on_adversarial + self.recipe.lipschitz.weight * slope
        return {"total": total, "clean": on_clean.detach(), "adversarial": on_adversarial.detach(), "lipschitz": slope.detach()}

    def _slope(self, clean: torch.Tensor, adversarial: torch.Tensor) -> torch.Tensor:
        settings = self.recipe.lipschitz
        point = adversarial if settings.at == "adversarial" else clean
        h = max(self.recipe.attack.epsilon, 0.5) * PIXEL
        # In half precision the two logits of a finite difference round to the same number: h is below a step of bfloat16.
        halved = torch.is_autocast_enabled(clean.device.type) and settings.kind == "exact"
        with evaluation_mode(self.network), torch.autocast(clean.device.type, dtype=torch.bfloat16, enabled=halved):
            return lipschitz_term(self.network, point, kind=settings.kind, norm=settings.norm, h=h)
