"""How much each setting of a search had to do with what its trials reached."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

FEWEST_TRIALS = 8
"""With fewer, the forest that the shares come from is fitted to next to nothing."""
TREES = 64
LOGARITHMIC = {"epsilon", "lipschitz_weight", "step_size"}


def importances(settings: Sequence[Mapping], values: Sequence[float], *, seed: int) -> dict[str, float] | None:
    """Share of the variance of `values` over the searched space that each setting alone explains, largest first; sum 1.

    Functional ANOVA on a random forest (Optuna's). It says what mattered in this search, in the range that it searched, not
    in which direction.

    Args:
        settings: of each trial, numbers or names. One that is the same in all is left out.
        values: what each trial reached.
    Returns:
        None where there are too few trials, or nothing varies.
    Source: Hutter et al. 2014.
    """
    varied = [name for name in settings[0] if len({trial[name] for trial in settings}) > 1] if settings else []
    if len(values) < FEWEST_TRIALS or not varied or len(set(values)) == 1:
        return None
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: _distribution(name, [trial[name] for trial in settings]) for name in varied}
    study = optuna.create_study(direction="maximize")
    study.add_trials([optuna.trial.create_trial(params={name: trial[name] for name in varied}, distributions=space, value=value)
                      for trial, value in zip(settings, values, strict=True)])
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    return {name: float(share) for name, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()}


def _distribution(name: str, values: list):
    """What a setting was drawn from, as far as the trials show it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if any(isinstance(value, str) for value in values):
        return CategoricalDistribution(sorted(set(values)))
    if all(isinstance(value, int) for value in values):
        return IntDistribution(min(values), max(values))
    return FloatDistribution(min(values), max(values), log=name in LOGARITHMIC and min(values) > 0)
