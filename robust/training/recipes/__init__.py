"""Training recipes: how a batch is perturbed. A new one is a file beside this and a line here."""
from robust.errors import ConfigError
from robust.training.recipes import adversarial

RECIPES = {"adversarial": adversarial.perturb}


def recipe_named(name: str):
    """Raises: ConfigError for an unknown name."""
    if name not in RECIPES:
        raise ConfigError(f"train.*.recipe: {name!r} is not a recipe; there are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
