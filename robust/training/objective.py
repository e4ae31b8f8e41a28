"""What one training step minimises: the recipe's loss and the Lipschitz term.

    loss(clean logits, adversarial logits) + weight * Lipschitz

It is a module of its own so that DistributedDataParallel wraps all of it: one forward and one backward a step through DDP,
however many passes of the network the terms need, hence one reduction of the gradients.
The reference implementation mixed clean and adversarial gradients by accident (the attack left its own behind); here the
mixture is a setting.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from robust.config import PIXEL, RecipeConfig
from robust.training.lipschitz import lipschitz_term
from robust.training.modes import evaluation_mode
from robust.training.recipes import recipe_named, stage_of


class Objective(nn.Module):
    """
    Args:
        network: the detector.
        settings: the recipe, its mixture, Lipschitz settings, the attack's epsilon (the length of the finite difference).

    `settings` are those of the epoch being trained (`begin`).
    """

    def __init__(self, network: nn.Module, settings: RecipeConfig):
        super().__init__()
        self.network = network
        self.settings = stage_of(settings, epoch=0)

    def begin(self, settings: RecipeConfig) -> None:
        """The settings of an epoch, as of `stage_of`."""
        self.settings = settings

    def forward(self, clean: Tensor, adversarial: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """
        Args:
            clean, adversarial: (N, 3, H, W) in [0, 1]; the same tensor when there is no attack.
            labels: (N,) 1 = fake.
        Returns:
            scalars: total (to minimise), lipschitz and the loss's own terms (detached, to log).
        """
        on_clean, on_adversarial = self._logits(clean, adversarial)
        terms = recipe_named(self.settings.recipe).loss(on_clean, on_adversarial, labels.to(clean.dtype), self.settings)
        weight = self.settings.lipschitz.weight
        slope = self._slope(clean, adversarial, labels) if weight > 0 else clean.new_zeros(())
        told = {name: value.detach() for name, value in terms.items()}
        return {**told, "lipschitz": slope.detach(), "total": terms["total"] + weight * slope}

    def _logits(self, clean: Tensor, adversarial: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Of the points that the recipe looks at; all clean where nothing was attacked."""
        points = recipe_named(self.settings.recipe).looks_at(self.settings)
        if adversarial is clean or points == ("clean",):
            return self.network(clean).float(), None
        if points == ("adversarial",):
            return None, self.network(adversarial).float()
        on_clean, on_adversarial = self.network(torch.cat([clean, adversarial])).float().chunk(2)
        return on_clean, on_adversarial

    def _slope(self, clean: Tensor, adversarial: Tensor, labels: Tensor) -> Tensor:
        settings = self.settings.lipschitz
        point = adversarial if settings.at == "adversarial" else clean
        h = max(self.settings.attack.epsilon, 0.5) * PIXEL
        # In half precision the two logits of a finite difference round to the same number: h is below a step of bfloat16.
        halved = torch.is_autocast_enabled(clean.device.type) and settings.kind == "exact"
        with evaluation_mode(self.network), torch.autocast(clean.device.type, dtype=torch.bfloat16, enabled=halved):
            told = labels if settings.of == "loss" else None
            return lipschitz_term(self.network, point, kind=settings.kind, norm=settings.norm, h=h, labels=told)
