"""What a finished search of the run says about the defended model's recipe."""
from __future__ import annotations

from dataclasses import dataclass

from jobs.run_folder import RunFolder
from robust.config import Config, RecipeConfig
from robust.errors import UserError
from robust.storage import Storage


@dataclass(frozen=True)
class Tuned:
    """The winner's settings, as its trial had them."""

    settings: dict  # of with_settings
    source: str
    checkpoint: str | None  # key of the winner's checkpoint, if it is to be taken over

    def apply(self, recipe: RecipeConfig) -> RecipeConfig:
        return with_settings(recipe, **self.settings)


def with_settings(
    base: RecipeConfig, *, epsilon: float, steps: int, lipschitz_weight: float, step_size: float | None = None,
    lipschitz_kind: str | None = None, activation: str | None = None, recipe: str | None = None,
) -> RecipeConfig:
    """A recipe with the settings that a search varies, in trials and afterwards alike.

    Args:
        epsilon: 0-255 units.
        step_size: in epsilon / steps; None: the attack's usual, whatever the base says.
        lipschitz_kind, activation, recipe: None: the base's.
    """
    size = None if step_size is None else step_size * epsilon / steps
    attack = base.attack.model_copy(update={"epsilon": epsilon, "steps": steps, "step_size": size})
    lipschitz = base.lipschitz.model_copy(update={"weight": lipschitz_weight, "kind": lipschitz_kind or base.lipschitz.kind})
    return base.model_copy(update={"attack": attack, "lipschitz": lipschitz, "activation": activation or base.activation,
                                   "recipe": recipe or base.recipe})


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
    number = winner["trial"].rpartition("_")[2]  # what is before it Ray draws anew, and the same run again should give the same card
    return Tuned(winner["settings"], f"tune trial {number}", checkpoint)
