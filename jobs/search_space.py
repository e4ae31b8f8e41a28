"""The settings that a search varies, each a range or choices of `tune` in the config."""
from __future__ import annotations

from ray import tune

from robust.config import Config, TuneConfig

CHOICES = ("recipe", "activation", "lipschitz_kind")
"""Settings that are the defended recipe's own unless the config lists some."""


def param_space(settings: TuneConfig) -> dict:
    """Ray Tune's space: {name: distribution or fixed value}, names as in jobs/tuned.py's `with_settings`.

    What is left to the defended recipe is no part of it, so that a config without it draws what it always drew.
    """
    space = {"epsilon": _between(*settings.epsilon), "steps": tune.choice(settings.steps),
             "lipschitz_weight": _between(*settings.lipschitz_weight)}
    if settings.step_size is not None:
        space["step_size"] = _between(*settings.step_size)
    listed = {name: getattr(settings, name) for name in CHOICES}
    return space | {name: tune.choice(choices) for name, choices in listed.items() if choices is not None}


def _between(low: float, high: float):
    """Log-uniform, or the one value that there is."""
    return low if low == high else tune.loguniform(low, high)


def require_recipes(config: Config) -> None:
    """Raises: ConfigError: a recipe that does not exist, now and not in every trial."""
    from robust.training.recipes import stage_of  # brings torch, which the search itself does without

    for name in config.tune.recipe or ():
        stage_of(config.train.defended.model_copy(update={"recipe": name}), epoch=0)
