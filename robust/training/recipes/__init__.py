"""Training recipes, one file each in the same loop. A new one is a file beside these and a line here."""
from robust.config import RecipeConfig
from robust.errors import ConfigError
from robust.training.recipes import madry
from robust.training.recipes.base import Recipe

RECIPES: dict[str, Recipe] = {"madry": madry.RECIPE}


def recipe_named(name: str) -> Recipe:
    """Raises: ConfigError for an unknown name."""
    if name not in RECIPES:
        raise ConfigError(f"train.*.recipe: {name!r} is not a recipe; there are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]


def stage_of(settings: RecipeConfig, *, epoch: int) -> RecipeConfig:
    """What an epoch is trained with: settings whose recipe has no stages of its own.

    Raises:
        ConfigError: an unknown recipe, or settings that one cannot work with.
    """
    stage = recipe_named(settings.recipe).stage(settings, epoch)
    return stage if stage.recipe == settings.recipe else stage_of(stage, epoch=epoch)
