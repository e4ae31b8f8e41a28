"""Who is in the demo data, who is swapped with whom, and who is in the lists. Pure planning, no pictures.

People are put into groups of about six of similar look, and faces are swapped only inside a group. So no fake
connects two groups, and a split by identity that keeps groups whole loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np

from robust.data.demo_sources import Person
from robust.errors import UserError

TEST_SHARE, VAL_SHARE = 0.3, 0.15  # of the people outside shoots


@dataclass(frozen=True)
class Swap:
    """The face of `source` in take number `take` of `target`; both are identity numbers."""

    target: int
    take: int
    source: int


@dataclass(frozen=True)
class DemoPlan:
    """cast: people by identity number. groups, test, val: those numbers. swaps: made once a kind. extras: never swapped."""

    cast: list[Person]
    groups: list[list[int]]
    test: set[int]
    val: set[int]
    swaps: list[Swap]
    extras: list[Person]


def plan_demo(
    everyone: list[Person], *, seed: int, identities: int, fakes_per_kind: int, group_size: int = 6, takes: int = 1
) -> DemoPlan:
    """Casts, groups and pairs people; the same plan for the same arguments.

    Args:
        group_size: people of a group, about; takes: films made of a person's photographs.
    Raises:
        UserError: more identities or fakes than there are people or pairs.
    """
    if identities > len(everyone):
        raise UserError(f"data.demo.identities is {identities}, but there are only {len(everyone)} people")
    rng = np.random.default_rng([seed, 0])
    cast, extras = _cast(everyone, identities, rng)
    groups = _groups(cast, group_size, rng)
    test, val = _test_and_val(cast, groups, rng)
    rounds = _rounds(cast, groups, takes)
    return DemoPlan(cast, groups, test, val, _choose(rounds, test, fakes_per_kind, rng), extras)


def takes_of(person: Person, takes: int) -> int:
    """Real videos that a person has: one a part of a clip, or `takes` of the photographs in turn, at least one of each."""
    if person.filmed:
        return sum(len(clip.starts_s) for clip in person.sources)
    return max(takes, len(person.sources))


def _cast(everyone: list[Person], count: int, rng: np.random.Generator) -> tuple[list[Person], list[Person]]:
    """Everybody filmed, and others by lot."""
    filmed = [person for person in everyone if person.filmed]
    others = [person for person in everyone if not person.filmed]
    others = [others[i] for i in rng.permutation(len(others))]
    ordered = filmed + others
    chosen = ordered[:count]
    return [chosen[i] for i in rng.permutation(count)], ordered[count:]


def _groups(cast: list[Person], size: int, rng: np.random.Generator) -> list[list[int]]:
    """About six identities each, of one look and one shoot or none; the filmed ones in different groups."""
    groups = []
    kinds = sorted({(person.look, person.shoot or "") for person in cast})
    for kind in kinds:
        members = [i for i, person in enumerate(cast) if (person.look, person.shoot or "") == kind]
        members = [members[i] for i in rng.permutation(len(members))]
        members.sort(key=lambda i: not cast[i].filmed)  # stable: filmed first, dealt to different groups
        count = max(1, round(len(members) / size))
        groups += [members[start::count] for start in range(count)]
    return groups


def _test_and_val(cast: list[Person], groups: list[list[int]], rng: np.random.Generator) -> tuple[set[int], set[int]]:
    """Whole groups, about those shares of the people outside shoots and, in the test, of the filmed ones.

    Validation people are of the same kind as the test's, else a threshold found on them would not fit there.
    """
    allowed = [groups[i] for i in rng.permutation(len(groups)) if cast[groups[i][0]].shoot is None]
    people = sum(map(len, allowed))
    filmed = [group for group in allowed if any(cast[i].filmed for i in group)]
    others = [group for group in allowed if group not in filmed]
    test = _take(filmed[: max(1, round(TEST_SHARE * len(filmed)))] if filmed else [], others, TEST_SHARE * people, cast)
    val = _take([], others, VAL_SHARE * people, cast)
    return test, val


def _take(chosen: list[list[int]], others: list[list[int]], wanted: float, cast: list[Person]) -> set[int]:
    """The chosen groups and, out of `others`, more until about `wanted` people; looks in turn."""
    while others and sum(map(len, chosen)) + len(others[0]) / 2 <= wanted:
        taken = list(chain.from_iterable(chosen))
        of_look = {look: sum(cast[i].look == look for i in taken) for look in ("man", "woman")}
        others.sort(key=lambda group: of_look[cast[group[0]].look])
        chosen.append(others.pop(0))
    return set(chain.from_iterable(chosen))


def _choose(rounds: list[list[Swap]], test: set[int], count: int, rng: np.random.Generator) -> list[Swap]:
    """`count` swaps, test and training people in proportion; nobody is a target twice as often as another."""
    total = sum(len(swaps) for swaps in rounds)
    if count > total:
        raise UserError(f"data.demo.fakes_per_kind is {count}, but these people give only {total} pairs; lower it")
    chosen: list[Swap] = []
    for swaps in rounds:
        missing = count - len(chosen)
        swaps = [swaps[i] for i in rng.permutation(len(swaps))]
        of_test = [swap for swap in swaps if swap.target in test]
        of_train = [swap for swap in swaps if swap.target not in test]
        share = min(1.0, missing / len(swaps)) if swaps else 0
        cut = round(share * len(of_test))
        chosen += (of_test[:cut] + of_train)[:missing]
    return sorted(chosen, key=lambda swap: (swap.target, swap.take, swap.source))


def _rounds(cast: list[Person], groups: list[list[int]], takes: int) -> list[list[Swap]]:
    """All swaps there can be; in each round every take of everybody is a target once."""
    rounds = []
    for turn in range(max(len(group) for group in groups) - 1):
        swaps = []
        for group in (group for group in groups if turn < len(group) - 1):
            for place, target in enumerate(group):
                for take in range(takes_of(cast[target], takes)):
                    offset = (turn + take) % (len(group) - 1) + 1
                    swaps.append(Swap(target, take, group[(place + offset) % len(group)]))
        rounds.append(swaps)
    return rounds
