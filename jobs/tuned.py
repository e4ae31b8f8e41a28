"""What a finished search of the run says about the defended model's recipe."""
from __future__ import annotations

from dataclasses import dataclass

from jobs.run_folder import RunFolder
from robust.config import Config, RecipeConfig
from robust.errors import UserError
from robust.storage import Storage


@dataclass(frozen=True)
class Tuned:
    """The winner's settings. Epsilon in 0-255 units."""

    epsilon: float
    steps: int
    lipschitz_weight: float
    source: str
    checkpoint: str | None  # key of the winner's checkpoint, if it is to be taken over

    def apply(self, recipe: RecipeConfig) -> RecipeConfig:
        return with_settings(recipe, epsilon=self.epsilon, steps=self.steps, lipschitz_weight=self.lipschitz_weight)


def with_settings(recipe: RecipeConfig, *, epsilon: float, steps: int, lipschitz_weight: float) -> RecipeConfig:
    """A recipe with the settings that a search varies; the step size follows from them, in trials and afterwards alike."""
    attack = recipe.attack.model_copy(update={"epsilon": epsilon, "steps": steps, "step_size": None})
    lipschitz = recipe.lipschitz.model_copy(update={"weight": lipschitz_weight})
    return recipe.model_copy(update={"attack": attack, "lipschitz": lipschitz})


def tuned_settings(config: Config, storage: Storage) -> Tuned | None:
    """None before a search, or when `tune.winner` is `report`."""
    if config.tune.winner == "report":
        return None
    result = RunFolder(storage, config).result("tune")
    if result is None:
        return None
    winner = result["winner"]
    checkpoint = winner["checkpoint"] if config.tune.winner == "checkpoint" else None
    if config.tune.winner == "checkpoint" and checkpoint is None:
        raise UserError(f"tune.winner=checkpoint: trial {winner['trial']} left no checkpoint; set tune.winner=retrain")
    settings = winner["settings"]
    return Tuned(settings["epsilon"], settings["steps"], settings["lipschitz_weight"], f"tune trial {winner['trial']}", checkpoint)
