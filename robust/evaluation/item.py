"""What a measurement of the evaluation is run for."""

from __future__ import annotations


class Item:
    """An attack at one epsilon, a corruption, a way of sharing: a frozen dataclass, whose fields name the results.

    Attributes:
        after: items whose results on the same block of crops the measurement is also given; they are measured before.
    """

    after: tuple[Item, ...] = ()
