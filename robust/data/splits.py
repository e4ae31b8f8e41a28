"""Splits that share no person: train, val and test by construction, official test lists kept.

A fake links two people, the target and the source. People linked by videos form groups (connected components of the
graph of identities), and a group goes into one split as a whole. Two things can stand in the way:

- A group too big for the split. In Celeb-DF v2 fakes link nearly all celebrities. Such a group is divided by person
  instead, and the fakes that link two parts are "excluded" (counted in the report).
- An official test list that was not made disjoint by person. The list is kept as it is; every other video with one of
  its people is "excluded". Of Celeb-DF v2 too little is then left, and the error says to set official_test=false.

What the modes mean:

- official_test: videos that a data set's own lists call test (and val) are that. All else is as below.
- fractions: test_fraction of the videos for test, then val_fraction of the others for validation.
- folds=k, fold=i: people are dealt into k parts once for a seed; test is the i-th. Official lists are not used.
- use_everything: all that is not test is train, and there is no val. Then nothing may be selected: the last checkpoint
  is the result, and a threshold can only come from training videos, whose scores are too good; it must be marked so.

For a seed the outcome does not depend on the order of the rows.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from robust.data.identity_groups import connected_components
from robust.data.rows import FAKE, REAL, VideoRow
from robust.errors import ConfigError, UserError

CUT_TRIALS = 64
LABEL_NAMES = {REAL: "real", FAKE: "fake"}
SHARES_TEST = "shares a person with the test split"
SHARES_VAL = "shares a person with the validation split"
BY_OFFICIAL_LISTS = "not in one of the data set's official splits"


def assign_splits(
    rows: Sequence[VideoRow], splits, seed: int, *, fakes_needed: bool = True
) -> tuple[list[VideoRow], dict]:
    """Give every video its split; no identity is in two of train, val and test.

    Args:
        rows: videos; `split` holds what the data set's official lists say, None where there is none.
        splits: config.data.splits.
        seed: same seed, same splits, whatever the order of `rows`.
        fakes_needed: False lets splits be without fakes.
    Returns:
        The rows in their order, with split set, and a report (JSON types): mode, seed, notes, videos per split x label
        x method, identities per split, excluded videos per reason.
    Raises:
        UserError: train or val would have no video of one label that it needs; says what to change.
        ConfigError: `fold` is not one of `folds`.
    """
    if splits.folds is not None and splits.fold >= splits.folds:
        raise ConfigError(f"data.splits.fold is {splits.fold}, must be below data.splits.folds ({splits.folds})")
    official = splits.official_test and splits.folds is None and any(row.split == "test" for row in rows)
    draft = _Draft(rows, official=official)
    _take_test(draft, splits, seed)
    _take_val(draft, splits, seed)
    draft.assign(draft.open_rows(), "train")
    report = _report(draft, splits, seed)
    _require_both_labels(draft, splits, report, ("real", "fake") if fakes_needed else ("real",))
    return [row.with_split(draft.split[row.video_id]) for row in rows], report


class _Draft:
    """The splits while they are made: which videos are decided, why some are out, what to tell."""

    def __init__(self, rows: Sequence[VideoRow], *, official: bool):
        self.rows = sorted(rows, key=lambda row: row.video_id)
        self.official = official
        self.said = {row.video_id: row.split if official else None for row in self.rows}
        self.split: dict[str, str] = {}
        self.reasons: Counter = Counter()
        self.notes: list[str] = []
        self.exclude(self.open_rows("excluded"), BY_OFFICIAL_LISTS)

    def open_rows(self, *said: str | None) -> list[VideoRow]:
        """Videos not yet decided; with `said`, those about which the official lists say one of these."""
        undecided = (row for row in self.rows if row.video_id not in self.split)
        return [row for row in undecided if not said or self.said[row.video_id] in said]

    def people(self, split: str) -> set[str]:
        return {person for row in self.rows if self.split.get(row.video_id) == split for person in row.identities}

    def assign(self, rows: Iterable[VideoRow], split: str) -> None:
        for row in rows:
            self.split[row.video_id] = split

    def exclude(self, rows: Sequence[VideoRow], reason: str) -> None:
        self.assign(rows, "excluded")
        self.reasons[reason] += len(rows)

    def exclude_those_with(self, people: set[str], reason: str) -> None:
        self.exclude([row for row in self.open_rows() if not people.isdisjoint(row.identities)], reason)


def _take_test(draft: _Draft, splits, seed: int) -> None:
    """Official test videos, then a share (or fold) of the videos no official list speaks of."""
    draft.assign(draft.open_rows("test"), "test")
    draft.exclude_those_with(draft.people("test"), SHARES_TEST)
    kept_out = {person for row in draft.open_rows("train", "val") for person in row.identities}
    candidates = draft.open_rows(None)
    if splits.folds is not None:
        parts, chosen = [1 / splits.folds] * splits.folds, splits.fold
    else:
        parts, chosen = [splits.test_fraction, 1 - splits.test_fraction], 0
    if not candidates or not parts[chosen]:
        return
    part_of = divide_people(candidates, parts, seed=seed, pinned=dict.fromkeys(kept_out, 1), notes=draft.notes)
    people = {person for person, part in part_of.items() if part == chosen}
    draft.assign([row for row in candidates if people.issuperset(row.identities)], "test")
    draft.exclude_those_with(people, SHARES_TEST)


def _take_val(draft: _Draft, splits, seed: int) -> None:
    """Official val videos, then a share of the others, data sets with an official val aside."""
    if splits.use_everything:
        draft.notes.append(
            "use_everything: no validation split; nothing can be selected, thresholds are of training data"
        )
        return
    draft.assign(draft.open_rows("val"), "val")
    draft.exclude_those_with(draft.people("val"), SHARES_VAL)
    have_val = {row.dataset for row in draft.rows if draft.said[row.video_id] == "val"}
    fixed = {row.video_id: row for row in draft.open_rows("train") if row.dataset in have_val}
    kept_out = {person for row in fixed.values() for person in row.identities}
    candidates = [row for row in draft.open_rows() if row.video_id not in fixed]
    if not candidates:
        return
    parts = [splits.val_fraction, 1 - splits.val_fraction]
    part_of = divide_people(candidates, parts, seed=seed + 1, pinned=dict.fromkeys(kept_out, 1), notes=draft.notes)
    people = {person for person, part in part_of.items() if part == 0}
    draft.assign([row for row in candidates if people.issuperset(row.identities)], "val")
    draft.exclude_those_with(people, SHARES_VAL)


# ---------------------------------------------------------------------------------------------------- dividing people


@dataclasses.dataclass(frozen=True)
class Group:
    """People linked by videos, and how many videos of each stratum (data set, label, method) they have."""

    people: tuple[str, ...]
    videos: Counter

    @property
    def size(self) -> int:
        return self.videos.total()


def connected_groups(rows: Iterable[VideoRow]) -> list[Group]:
    """Groups of people linked by videos, the biggest first; each video belongs to exactly one group."""
    rows = list(rows)
    people, videos = defaultdict(set), defaultdict(Counter)
    for number, row in zip(connected_components([row.identities for row in rows]), rows, strict=True):
        people[number].update(row.identities)
        videos[number][_stratum(row)] += 1
    groups = [Group(tuple(sorted(members)), videos[number]) for number, members in people.items()]
    return sorted(groups, key=lambda group: (-group.size, group.people))


def divide_people(
    rows: Sequence[VideoRow],
    fractions: Sequence[float],
    *,
    seed: int,
    pinned: Mapping[str, int],
    notes: list[str],
) -> dict[str, int]:
    """Deal people into parts so that each part holds its fraction of the videos of every method.

    Groups stay whole if that works out. If a part then has less than half of its share of the real or of the fake
    videos, dividing the big groups by person is tried; the videos that then link two parts are nobody's.

    Args:
        fractions: one a part, summing to 1.
        pinned: people whose part is given (those of videos that are decided already).
        notes: gets a sentence if groups had to be divided.
    Returns:
        {person: part}.
    """
    groups = connected_groups(rows)
    totals = sum((group.videos for group in groups), Counter())
    whole = _deal_groups(groups, fractions, totals, [Counter() for _ in fractions], pinned, random.Random(seed))
    to_cut = [group for group in groups if len(group.people) > 1 and _share(group, totals) > min(fractions)]
    if not to_cut or not _falls_short(rows, whole, fractions):
        return whole
    trials = (
        _deal_cut(rows, groups, to_cut, fractions, totals, pinned, random.Random(seed * CUT_TRIALS + trial))
        for trial in range(CUT_TRIALS)
    )
    best = max([whole, *trials], key=lambda part_of: _quality(rows, part_of))
    if best is not whole:
        people, videos = sum(len(group.people) for group in to_cut), sum(group.size for group in to_cut)
        lost = sum(_part(row, best) is None for row in rows)
        notes.append(
            f"videos link {people} people into {len(to_cut)} group(s) of {videos} videos, too big to stay whole: "
            f"divided by person; {lost} videos link two parts and are excluded where those parts are different splits"
        )
    return best


def _deal_groups(groups, fractions, totals: Counter, held: list[Counter], pinned, rng: random.Random) -> dict[str, int]:
    """Give each group to the part that lacks most of what it has; big groups first, equals in seeded order."""
    held = [Counter(counts) for counts in held]
    part_of = {}
    order = list(groups)
    rng.shuffle(order)
    for group in sorted(order, key=lambda group: -group.size):
        pins = [pinned[person] for person in group.people if person in pinned]

        def lack(part: int, group=group) -> float:
            return sum(
                count / totals[stratum] * (fractions[part] - held[part][stratum] / totals[stratum])
                for stratum, count in group.videos.items()
            )

        part = pins[0] if pins else max(range(len(fractions)), key=lack)
        held[part].update(group.videos)
        part_of.update(dict.fromkeys(group.people, part))
    return part_of


def _deal_cut(rows, groups, to_cut, fractions, totals: Counter, pinned, rng: random.Random) -> dict[str, int]:
    """Deal the people of `to_cut` one by one at random, by fraction, then the other groups whole."""
    part_of = {}
    for group in to_cut:
        people = list(group.people)
        rng.shuffle(people)
        part_of.update(zip(people, _quota(len(people), fractions), strict=True))
    part_of.update({person: part for person, part in pinned.items() if person in part_of})
    held = [Counter() for _ in fractions]
    for row in rows:
        if row.identities[0] in part_of and (part := _part(row, part_of)) is not None:
            held[part][_stratum(row)] += 1
    cut = {group.people for group in to_cut}
    rest = [group for group in groups if group.people not in cut]
    return part_of | _deal_groups(rest, fractions, totals, held, pinned, rng)


def _quota(count: int, fractions: Sequence[float]) -> list[int]:
    """`count` part numbers in the given fractions; each part gets two (a fake needs a pair) if there are enough."""
    bounds = [round(total * count) for total in itertools.accumulate(fractions)]
    numbers = [end - start for start, end in itertools.pairwise([0, *bounds[:-1], count])]
    while min(numbers) < 2 and count >= 2 * len(fractions):
        numbers[numbers.index(max(numbers))] -= 1
        numbers[numbers.index(min(numbers))] += 1
    return [part for part, number in enumerate(numbers) for _ in range(number)]


def _quality(rows, part_of: Mapping[str, int]) -> tuple[int, float]:
    """Of a division: how many parts have which labels; then videos kept, where a scarce kind in a part counts most."""
    counts = _held(rows, part_of)
    labels = {(part, label) for part, (_, label, _) in counts}
    return len(labels), sum(math.log1p(count) for count in counts.values())


def _falls_short(rows, part_of: Mapping[str, int], fractions: Sequence[float]) -> bool:
    """True if a part has less than half of what it should have of the videos of a label."""
    held, total = Counter(), Counter(row.label for row in rows)
    for (part, (_, label, _)), count in _held(rows, part_of).items():
        held[part, label] += count
    return any(
        held[part, label] < fraction * total[label] / 2 for part, fraction in enumerate(fractions) for label in total
    )


def _held(rows, part_of: Mapping[str, int]) -> Counter:
    """{(part, stratum): videos all of whose people are in that part}."""
    return Counter((part, _stratum(row)) for row in rows if (part := _part(row, part_of)) is not None)


def _part(row: VideoRow, part_of: Mapping[str, int]) -> int | None:
    """The part that holds all people of a video, None if two parts do."""
    parts = {part_of[person] for person in row.identities}
    return parts.pop() if len(parts) == 1 else None


def _share(group: Group, totals: Counter) -> float:
    """The share of all videos of a label that a group holds, the larger of the two."""
    held, total = Counter(), Counter()
    for stratum, count in totals.items():
        total[stratum[1]] += count
        held[stratum[1]] += group.videos[stratum]
    return max(held[label] / total[label] for label in total)


def _stratum(row: VideoRow) -> tuple[str, int, str]:
    return row.dataset, row.label, row.method


# ----------------------------------------------------------------------------------------------- report and complaints


def _report(draft: _Draft, splits, seed: int) -> dict:
    videos = {split: {"real": {}, "fake": {}} for split in ("train", "val", "test", "excluded")}
    for row in draft.rows:
        methods = videos[draft.split[row.video_id]][LABEL_NAMES[row.label]]
        key = f"{row.dataset}/{row.method}"
        methods[key] = methods.get(key, 0) + 1
    mode = "folds" if splits.folds is not None else "official" if draft.official else "fractions"
    return {
        "mode": mode,
        "folds": splits.folds,
        "fold": splits.fold if splits.folds is not None else None,
        "use_everything": splits.use_everything,
        "seed": seed,
        "videos": videos,
        "identities": {split: len(draft.people(split)) for split in ("train", "val", "test")},
        "excluded": {reason: count for reason, count in sorted(draft.reasons.items()) if count},
        "notes": list(draft.notes) + _lopsided(videos),
    }


def _lopsided(videos: dict) -> list[str]:
    """Methods of fakes that a split lacks, by name."""
    every = {key for split in videos for key in videos[split]["fake"]}
    notes = []
    for split in ("train", "val", "test"):
        absent = sorted(every - set(videos[split]["fake"]))
        if absent and videos[split]["fake"]:
            notes.append(f"the {split} split has no fake of {', '.join(absent)}")
    return notes


def _require_both_labels(draft: _Draft, splits, report: dict, labels: Sequence[str]) -> None:
    """Raise UserError if train or val lacks one of the labels (or test does, though there is a test split)."""
    needed = ["train"] if splits.use_everything else ["train", "val"]
    if report["identities"]["test"]:
        needed.append("test")
    empty = [
        f"no {label} video in {split}"
        for split in needed
        for label in labels
        if not report["videos"][split][label]
    ]
    if not empty:
        return
    out = sum(report["excluded"].values())
    told = f"; {out} of {len(draft.rows)} videos were excluded ({', '.join(report['excluded'])})" if out else ""
    if draft.official:
        advice = (
            "Its official test list leaves too few other people: set data.splits.official_test=false to split by person"
        )
    else:
        advice = "Add videos or data sets of other people, or change data.splits.test_fraction, val_fraction or folds"
    raise UserError(f"the splits can not be made disjoint by person: {', '.join(empty)}{told}. {advice}.")
