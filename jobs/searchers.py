"""Which settings the next trial gets: drawn at random, or by Optuna's TPE from what the others reached.

Both give none once the budget is spent, and both can be put back to where a killed search was.
"""
from __future__ import annotations

import math

from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchGenerator
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.optuna.optuna_search import OptunaTrialState
from ray.tune.search.searcher import Searcher

from jobs.budget import Budget
from jobs.known_trials import KnownTrial, known_trials
from robust.config import Config

DIRECTIONS = {"robust_auc": "max", "auc": "max", "cost": "min"}
"""Reported figures that can be objectives; cost is seconds a step."""
MOST_RANDOM_TRIALS = 10
"""TPE draws its first trials at random: a third of them, but no more than this (Optuna's own default)."""


def search_algorithm(config: Config, *, concurrent: int) -> RandomTrials | OptunaTrials:
    """The config's searcher, seeded.

    Args:
        concurrent: most trials at once.
    """
    settings = config.tune
    budget = Budget(settings.budget_hours, settings.gpus_per_trial or settings.cpus_per_trial)
    if settings.search == "random":
        return RandomTrials(budget, random_state=config.run.seed, max_concurrent=concurrent)
    return OptunaTrials(Tpe(budget, settings.objectives, samples=settings.samples, seed=config.run.seed), concurrent)


class RandomTrials(BasicVariantGenerator):
    """Ray's random search with a budget."""

    def __init__(self, budget: Budget, **keywords):
        super().__init__(**keywords)
        self.budget = budget

    def next_trial(self):
        if self.budget.is_spent:
            self.set_finished()
        return super().next_trial()

    def on_trial_result(self, trial_id, result):
        self.budget.note(trial_id, result)

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.budget.note(trial_id, result)
        super().on_trial_complete(trial_id, result=result, error=error)

    def restore_from_dir(self, dirpath):
        """As Ray does it, then in step with the trials that the search's state knows: the two files are not written at once."""
        super().restore_from_dir(dirpath)
        known = known_trials(dirpath)
        iterator = self._iterators[0]
        ahead = iterator.counter - len(known)
        iterator.num_samples_left += max(0, ahead)  # those are lost: as many others take their place
        for _ in range(-ahead):
            next(iterator)  # there already
        self._live_trials = {trial.trial_id for trial in known if not trial.ended}
        self._finished = iterator.num_samples_left == 0
        for trial in known:
            self.budget.note(trial.trial_id, trial.result)


class OptunaTrials(SearchGenerator):
    """Ray's adapter of a searcher, at most so many trials at once."""

    def __init__(self, searcher: Tpe, concurrent: int):
        super().__init__(ConcurrencyLimiter(searcher, max_concurrent=concurrent))

    def restore_from_dir(self, dirpath):
        """See RandomTrials."""
        super().restore_from_dir(dirpath)
        known, tpe = known_trials(dirpath), self.searcher.searcher
        self._counter, self._finished = len(known), False
        tpe.catch_up(known)
        self.searcher.live_trials = {trial.trial_id for trial in known if not trial.ended}


class Tpe(OptunaSearch):
    """Optuna's TPE of several objectives, with a budget.

    Source: Bergstra et al. 2011; of several objectives Ozaki et al. 2022.
    """

    def __init__(self, budget: Budget, objectives: list[str], *, samples: int, seed: int):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        startup = min(MOST_RANDOM_TRIALS, math.ceil(samples / 3))
        modes = [DIRECTIONS[name] for name in objectives]
        several = len(objectives) > 1
        super().__init__(metric=objectives if several else objectives[0], mode=modes if several else modes[0],
                         sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup))
        self.budget = budget

    def set_search_properties(self, metric, mode, config, **spec):
        return super().set_search_properties(None, None, config, **spec)  # the scheduler's metric is not the objectives

    def suggest(self, trial_id):
        return Searcher.FINISHED if self.budget.is_spent else super().suggest(trial_id)

    def on_trial_result(self, trial_id, result):
        self.budget.note(trial_id, result)
        if trial_id in self._ot_trials:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.budget.note(trial_id, result)
        if trial_id not in self._ot_trials:
            return
        names = self._metric if isinstance(self._metric, list) else [self._metric]
        finite = result is not None and all(math.isfinite(result.get(name, math.nan)) for name in names)
        super().on_trial_complete(trial_id, result=result if finite else None, error=error or not finite)

    def catch_up(self, known: list[KnownTrial]) -> None:
        """Puts the study in step with the trials that the search's state knows."""
        for trial in known:
            self.budget.note(trial.trial_id, trial.result)
            if trial.trial_id not in self._ot_trials:
                self._take_in(trial)
            if trial.ended and trial.trial_id not in self._completed_trials:
                self.on_trial_complete(trial.trial_id, trial.result, error=not trial.result)
        for trial_id in self._ot_trials.keys() - {trial.trial_id for trial in known} - self._completed_trials:
            self.on_trial_complete(trial_id, error=True)  # lost: another takes its place

    def _take_in(self, trial: KnownTrial) -> None:
        """A trial that was drawn after the study was last saved. What the sampler drew then it draws again: that goes unused."""
        study = self._ot_study
        study.tell(study.ask(fixed_distributions=self._space), state=OptunaTrialState.FAIL)
        study.enqueue_trial({name: trial.settings[name] for name in self._space})
        self._ot_trials[trial.trial_id] = study.ask(fixed_distributions=self._space)
