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
from robust.training.modes import acts_as_deployed, evaluation_mode
from robust.training.recipes import recipe_named


class Objective(nn.Module):
    """
    Args:
        network: the detector.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, clean: Tensor, adversarial: Tensor, labels: Tensor, recipe: RecipeConfig) -> dict[str, Tensor]:
        """
        Args:
            clean, adversarial: (N, 3, H, W) in [0, 1]; the same tensor when there is no attack.
            labels: (N,) 1 = fake.
            recipe: the epoch's, as of `stage_of`: its loss and mixture, Lipschitz settings, the attack's epsilon (the length
                of the finite difference).
        Returns:
            scalars: total (to minimise), lipschitz and the loss's own terms (detached, to log).
        """
        clean_logits, adversarial_logits, point, shared = self._logits(clean, adversarial, recipe)
        terms = recipe_named(recipe.recipe).loss(clean_logits, adversarial_logits, labels.to(clean.dtype), recipe)
        weight = recipe.lipschitz.weight
        slope = self._slope(point, labels, shared, recipe) if weight > 0 else clean.new_zeros(())
        told = {name: value.detach() for name, value in terms.items()}
        return {**told, "lipschitz": slope.detach(), "total": terms["total"] + weight * slope}

    def _logits(
        self, clean: Tensor, adversarial: Tensor, recipe: RecipeConfig
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None]:
        """The logits of the clean and the adversarial point, as far as the recipe looks at them; all clean where nothing was
        attacked. Then the point of the Lipschitz term, and its logits where they serve the term as well.
        """
        points = recipe_named(recipe.recipe).looks_at(recipe) if adversarial is not clean else ("clean",)
        at = "clean" if adversarial is clean else recipe.lipschitz.at
        images = {"clean": clean, "adversarial": adversarial}
        if at in points and self._shares(recipe):
            if not images[at].requires_grad:
                images[at] = images[at].detach().requires_grad_()
            logits = {name: self.network(images[name]).float() for name in points}
            return logits.get("clean"), logits.get("adversarial"), images[at], logits[at]
        # Together: batch norms that are training see one batch of both.
        halves = self.network(torch.cat([images[name] for name in points]) if len(points) > 1 else images[points[0]]).float()
        logits = dict(zip(points, halves.chunk(len(points)), strict=True))
        return logits.get("clean"), logits.get("adversarial"), images[at], None

    def _shares(self, recipe: RecipeConfig) -> bool:
        """Whether the loss's forward is also the term's: it is that of the deployed function, in the term's precision."""
        settings = recipe.lipschitz
        return settings.weight > 0 and acts_as_deployed(self.network) and (settings.kind == "exact" or not self._halved())

    def _halved(self) -> bool:
        return torch.is_autocast_enabled(next(self.network.parameters()).device.type)

    def _slope(self, point: Tensor, labels: Tensor, logits: Tensor | None, recipe: RecipeConfig) -> Tensor:
        settings = recipe.lipschitz
        h = max(recipe.attack.epsilon, 0.5) * PIXEL
        told = labels if settings.of == "loss" else None
        # In half precision the two logits of a finite difference round to the same number: h is below a step of bfloat16.
        halved = self._halved() and settings.kind == "exact"
        with evaluation_mode(self.network), torch.autocast(point.device.type, dtype=torch.bfloat16, enabled=halved):
            return lipschitz_term(self.network, point, kind=settings.kind, norm=settings.norm, h=h, labels=told, logits=logits)
