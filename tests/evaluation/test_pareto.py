"""robust/evaluation/pareto.py against a definition written out, and against Optuna's own front."""

import numpy as np
import pytest

from robust.evaluation.pareto import pareto_front


def beaten(point, by):
    return all(b >= p for p, b in zip(point, by)) and any(b > p for p, b in zip(point, by))


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_nothing_beats(seed):
    rng = np.random.default_rng(seed)
    points = np.round(rng.random((40, 3)), 1).tolist()  # rounded: many are equal in one figure or in all
    assert pareto_front(points) == [i for i, point in enumerate(points) if not any(beaten(point, other) for other in points)]


def test_the_front_is_that_of_optuna():
    import optuna

    rng = np.random.default_rng(7)
    points = rng.random((30, 3))
    study = optuna.create_study(directions=["maximize", "maximize", "minimize"])
    study.add_trials([optuna.trial.create_trial(values=[a, b, -cost]) for a, b, cost in points])
    assert pareto_front(points) == [trial.number for trial in study.best_trials] and 1 < len(study.best_trials) < 30


def test_equal_points_share_the_front_and_one_point_is_it():
    assert pareto_front([(1, 2), (1, 2), (0, 2)]) == [0, 1]
    assert pareto_front([(0.5, 0.5, -3)]) == [0] and pareto_front([]) == []
