"""No attack at all: clean loss and the Lipschitz term (Rodriguez-Munoz et al. 2024, arXiv 2409.20139).

The paper's setting is `lipschitz: {of: loss, norm: l1}` on a network without ReLU (`activation: silu`): with ReLU the penalty's
own gradient is 0 almost everywhere, and it fails.
"""
from __future__ import annotations

from robust.config import RecipeConfig
from robust.errors import ConfigError
from robust.training.recipes.base import Recipe


def stage(settings: RecipeConfig, epoch: int) -> RecipeConfig:
    """Raises: ConfigError: the term is off, and nothing would be left."""
    if settings.lipschitz.weight == 0:
        raise ConfigError("train.*.recipe: gradnorm has nothing but the Lipschitz term, and train.*.lipschitz.weight is 0; "
                          "set it above 0")
    return settings.model_copy(update={"recipe": "madry", "attack": settings.attack.model_copy(update={"epsilon": 0.0})})


RECIPE = Recipe(stage=stage)
