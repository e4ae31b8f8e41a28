"""Which of several results no other one beats."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other point dominates: at least as good in everything and better in something.

    Args:
        points: (N, M), larger is better; a cost goes in negated. Equal points are both on the front.
    """
    values = np.asarray(points, dtype=float)
    return [i for i, value in enumerate(values) if not ((values >= value).all(1) & (values > value).any(1)).any()]
