"""A machine that is about to be taken away: the training is saved between two steps, and goes on from there elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray.train
from ray.train.collective import broadcast_from_rank_zero

from robust.training.loop import Training

ASK_EVERY_S = 2.0
"""A notice comes 30 s (GCP) to 2 minutes (AWS) before the end; asking is a call of all workers to one of Ray's actors."""


class ReclaimWatch:
    """Called between steps on all workers alike; asks Ray now and then whether a node of theirs is being drained, and saves once.

    Asking is a barrier, so it follows from the number of steps, which is the same everywhere, and not from each one's clock.
    Where training cannot pause, it goes on from the epoch's beginning.

    Args:
        save: a barrier too.
    """

    def __init__(self, save: Callable[[Training], None]):
        self.save, self.saved = save, False
        self.gap = self.left = 1  # steps between two questions, and until the next
        self.asked = time.monotonic()

    def __call__(self, training: Training) -> None:
        self.left -= 1
        if self.saved or self.left > 0:
            return
        notice = ray.train.get_preemption_info()
        now = time.monotonic()
        self.gap = self.left = broadcast_from_rank_zero(steps_within(ASK_EVERY_S, taken_s=now - self.asked, steps=self.gap))
        self.asked = now
        if notice is not None and training.can_pause:
            self.saved = True
            self.save(training)


def steps_within(seconds: float, *, taken_s: float, steps: int) -> int:
    """How many steps fit into the time, 1 or more, if so many took `taken_s`."""
    return max(1, int(seconds * steps / max(taken_s, 1e-6)))
