"""All configured data sets as one table of videos, with splits."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from robust.data.layouts import LAYOUTS
from robust.data.rows import FAKE, REAL, VideoRow, require_unique_ids
from robust.data.splits import assign_splits
from robust.data.tree import FileTree, FoundFile
from robust.errors import ConfigError, UserError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Every configured video and what is to be known about them.

    Args:
        rows: one a video, split set, sorted by video_id.
        split_report: how the splits came out (robust/data/splits.py).
        problems: {data set: sentences}: what is missing, misnamed, left out or not known.
        files: {video_id: size and version} as the data set's listing tells them.
    """

    rows: list[VideoRow]
    split_report: dict
    problems: dict[str, list[str]]
    files: dict[str, FoundFile] = dataclasses.field(default_factory=dict)


def load_dataset(data, *, storage=None, seed: int, fakes_needed: bool = True) -> Dataset:
    """Read all of `config.data.datasets`, check that video ids are unique, and make the splits.

    Args:
        data: config.data.
        storage: config.storage, needed for roots on s3://.
        seed: of the splits.
        fakes_needed: False where training makes its own fakes of real videos (train.self_blend).
    Raises:
        ConfigError: no data set, an unknown layout, or a name used twice.
        UserError: a root does not fit its layout, or the splits can not be made.
    """
    trees: list[FileTree] = []
    rows, problems = load_rows(data.datasets, storage=storage, trees=trees)
    rows, report = assign_splits(rows, data.splits, seed, fakes_needed=fakes_needed)
    found = {tree.uri(path): file for tree in trees for path, file in tree.found.items()}
    return Dataset(rows, report, problems, {row.video_id: found[row.uri] for row in rows if row.uri in found})


def load_rows(
    datasets: Sequence, *, storage=None, trees: list[FileTree] | None = None
) -> tuple[list[VideoRow], dict[str, list[str]]]:
    """Rows of all data sets (official splits as the layouts give them) and the problems of each.

    `trees`, where given, gets the listing of each data set.
    """
    _check(datasets)
    rows, problems = [], {}
    for dataset in datasets:
        tree = FileTree.open(dataset.uri, storage)
        if trees is not None:
            trees.append(tree)
        result = LAYOUTS[dataset.layout](tree, dataset)
        chosen = limit_videos(select_methods(result.rows, dataset.methods), dataset.max_videos)
        rows += chosen
        left_out = len(result.rows) - len(chosen)
        told = [f"{left_out} of {len(result.rows)} videos not used, by `methods` and `max_videos`"] if left_out else []
        problems[dataset.name or dataset.layout] = result.problems + told
    require_unique_ids(rows)
    return sorted(rows, key=lambda row: row.video_id), problems


def select_methods(rows: Sequence[VideoRow], methods: Sequence[str] | None) -> list[VideoRow]:
    """Keep the fakes of `methods`, and all real videos unless `methods` names real ones too.

    Raises:
        UserError: a method has no video; names those there are.
    """
    if methods is None:
        return list(rows)
    there = {label: {row.method for row in rows if row.label == label} for label in (REAL, FAKE)}
    unknown = sorted(set(methods) - there[REAL] - there[FAKE])
    if unknown:
        found = ", ".join(sorted(there[REAL] | there[FAKE]))
        raise UserError(
            f"data.datasets: no video of method {', '.join(unknown)} in {rows[0].dataset}; there are {found}"
        )
    reals = (there[REAL] & set(methods)) or there[REAL]
    return [row for row in rows if row.method in (methods if row.label == FAKE else reals)]


def limit_videos(rows: Sequence[VideoRow], most: int | None) -> list[VideoRow]:
    """At most `most` videos: equally many of each method as far as there are, evenly spaced over their sorted names."""
    if most is None or len(rows) <= most:
        return list(rows)
    by_method = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.video_id):
        by_method[row.label, row.method].append(row)
    chosen, left = [], most
    by_size = sorted(by_method.values(), key=len)
    for number, videos in enumerate(by_size):
        take = min(len(videos), left // (len(by_size) - number))
        chosen += [videos[index * len(videos) // take] for index in range(take)]
        left -= take
    return sorted(chosen, key=lambda row: row.video_id)


def _check(datasets: Sequence) -> None:
    if not datasets:
        raise ConfigError("data.datasets is empty: name at least one data set (layout and uri)")
    names = [dataset.name or dataset.layout for dataset in datasets]
    for index, dataset in enumerate(datasets):
        if dataset.layout not in LAYOUTS:
            raise ConfigError(f"data.datasets[{index}].layout is {dataset.layout!r}; known: {', '.join(LAYOUTS)}")
        if names.count(names[index]) > 1:
            raise ConfigError(f"data.datasets: the name {names[index]!r} is used twice; give each its own `name`")
