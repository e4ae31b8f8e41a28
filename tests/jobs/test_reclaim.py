"""jobs/reclaim.py: workers ask together, not after each step, and save once."""

from types import SimpleNamespace

import pytest

from jobs import reclaim
from jobs.reclaim import ReclaimWatch, steps_within


def watched(monkeypatch, *, steps: int, notice_from: int, pauses_from: int = 1, step_s: float = 0.5):
    """The steps after which it asked, and after which it saved."""
    asked, saved, clock = [], [], [0.0]
    monkeypatch.setattr(reclaim.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(reclaim.ray.train, "get_preemption_info", lambda: asked.append(step) or ("soon" if step >= notice_from else None))
    monkeypatch.setattr(reclaim, "broadcast_from_rank_zero", lambda value: value)
    watch = ReclaimWatch(lambda training: saved.append(step))
    for step in range(1, steps + 1):
        clock[0] += step_s
        watch(SimpleNamespace(can_pause=step >= pauses_from))
    return asked, saved


def test_it_asks_every_other_second_and_saves_once(monkeypatch):
    assert watched(monkeypatch, steps=30, notice_from=10) == ([1, 5, 9, 13], [13])
    assert watched(monkeypatch, steps=6, notice_from=99, step_s=5.0) == ([1, 2, 3, 4, 5, 6], [])


def test_where_training_cannot_pause_it_waits_until_it_can(monkeypatch):
    assert watched(monkeypatch, steps=30, notice_from=2, pauses_from=12)[1] == [13]


@pytest.mark.parametrize(("taken_s", "steps", "expected"), [(1.0, 4, 8), (60.0, 1, 1), (0.0, 1, 2_000_000)])
def test_the_steps_of_two_seconds(taken_s, steps, expected):
    assert steps_within(2.0, taken_s=taken_s, steps=steps) == expected
