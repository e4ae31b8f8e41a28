"""How long each attack of the gates is: the evaluation's budget, and the gates' own."""

import dataclasses

from robust.attacks.pgd import pgd
from robust.attacks.random_search import random_search
from robust.attacks.registry import Attack

STEPS = 10
"""Steps of the attacks that gates compare with each other: on equal terms, and half the cost of the usual 20."""

NOISE_DRAWS = 5
"""Draws of +-epsilon noise; the worst of them counts."""

QUERIES = 3 * STEPS
"""Of the black-box search: as much work as the gradient attack's steps, each a forward and a backward of twice that."""

LARGE_BUDGETS = ((16.0, 4, None), (48.0, 4 * STEPS, None), (128.0, 6 * STEPS, 2.0))
"""(epsilon, steps, step size) in 0-255 units of the attacks that together must turn everything; None: PGD's own step.

Each is tried on what the last one left. No single one does for all honest models: in a large ball, a random start and
large sign steps are noise to a detector of fine traces, and small steps may stop on the way.
"""

LONGER = 2
"""The longer attack has so many times the steps, and so many times the restarts, of the evaluation's."""

LEAST_LONG_STEPS = 4 * STEPS
"""Of the longer attack: twice a single step would show nothing."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """The attack whose figures are to be believed.

    Args:
        epsilon: radius of the Linf ball in 0-255 units.
        steps, restarts: of the evaluation.
        seed: of every random start.
        attack: the gradient attack.
        black_box: attack(model, x, y, threat, *, steps, generator) that sees logits only; steps are its queries.
    Raises:
        ValueError: epsilon is not positive.
    """

    epsilon: float
    steps: int = 20
    restarts: int = 1
    seed: int = 0
    attack: Attack = pgd
    black_box: Attack = random_search

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"gates need an attack, so an epsilon above 0, not {self.epsilon}")
