"""Schedules over the steps of a run: cosine learning rate with warm-up, and the rise of epsilon."""
from __future__ import annotations

import math


def cosine_rate(step: int, *, total: int, highest: float, lowest: float, warmup: int = 0) -> float:
    """Learning rate at `step` (0-based): linear to `highest` over `warmup` steps, then cosine to `lowest` at `total`.

    Source: Loshchilov & Hutter 2017, eq. 5, one cycle.
    """
    if step < warmup:
        return highest * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return lowest + (highest - lowest) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def rising_epsilon(step: int, *, total: int, epsilon: float, warmup: float) -> float:
    """Epsilon at `step`: linear from 0 over the first `warmup` share of the steps, in the units given."""
    ramp = warmup * total
    return epsilon if step >= ramp else epsilon * step / ramp
