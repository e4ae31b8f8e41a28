"""Training recipes, one file each in the same loop. A new one is a file beside these and a line here."""
from robust.config import RecipeConfig
from robust.errors import ConfigError
from robust.training.recipes import fast, flagship, free, gradnorm, madry, mart, reference, trades
from robust.training.recipes.base import Recipe

RECIPES: dict[str, Recipe] = {
    "madry": madry.RECIPE, "fast": fast.RECIPE, "free": free.RECIPE, "trades": trades.RECIPE, "mart": mart.RECIPE,
    "gradnorm": gradnorm.RECIPE, "reference": reference.RECIPE, "flagship": flagship.RECIPE,
}


def recipe_named(name: str) -> Recipe:
    """Raises: ConfigError for an unknown name."""
    if name not in RECIPES:
        raise ConfigError(f"train.*.recipe: {name!r} is not a recipe; there are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]


def stage_of(settings: RecipeConfig, *, epoch: int, collapsed: bool = False) -> RecipeConfig:
    """What an epoch is trained with: settings whose recipe has no stages of its own.

    Args:
        collapsed: a single-step attack has been fooled before in this run: it is PGD from then on.
    Raises:
        ConfigError: an unknown recipe, or settings that one cannot work with.
    """
    recipe = recipe_named(settings.recipe)
    stage = recipe.stage(settings, epoch)
    if collapsed and recipe.single_step:
        stage = settings.model_copy(update={"recipe": "madry"})
    return stage if stage.recipe == settings.recipe else stage_of(stage, epoch=epoch, collapsed=collapsed)
