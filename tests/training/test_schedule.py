"""robust/training/schedule.py: known points of the two curves."""

import pytest

from robust.training.schedule import cosine_rate, rising_epsilon


def rate(step, **changes):
    return cosine_rate(step, **{"total": 100, "highest": 1.0, "lowest": 0.1, **changes})


def test_the_cosine_falls_from_highest_to_lowest():
    assert rate(0) == 1.0 and rate(50) == pytest.approx(0.55) and rate(100) == pytest.approx(0.1) and rate(130) == pytest.approx(0.1)
    assert all(rate(step) > rate(step + 1) for step in range(100))


def test_the_warm_up_is_linear_and_meets_the_cosine():
    assert [rate(step, warmup=4) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rate(0, warmup=200, total=100) == pytest.approx(1 / 200)


def test_epsilon_rises_over_its_share_of_the_steps():
    assert [rising_epsilon(step, total=100, epsilon=4, warmup=0.5) for step in (0, 25, 50, 99)] == [0, 2, 4, 4]
    assert rising_epsilon(0, total=100, epsilon=4, warmup=0) == 4
    assert rising_epsilon(99, total=100, epsilon=4, warmup=1) == pytest.approx(3.96)
