"""What all layouts share: their result, and saying by name what is missing, misnamed or left over."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import posixpath
import re
from collections.abc import Iterable, Sequence

from robust.data.rows import VideoRow
from robust.data.tree import FileTree, is_video
from robust.errors import UserError

NAMES_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class LayoutResult:
    """The rows of one data set and, in sentences, everything about it that a user should know.

    Args:
        rows: one a video, split set only where the data set itself has official lists.
        problems: missing folders, files that do not fit, list entries without a file, what is not known.
    """

    rows: list[VideoRow]
    problems: list[str]


def stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def name_below(path: str, folder: str) -> str:
    """A video's name: its path below `folder` without suffix, deeper folders joined by "__"."""
    return posixpath.splitext(posixpath.relpath(path, folder))[0].replace("/", "__")


def listed(what: str, names: Iterable[str]) -> list[str]:
    """One problem that counts `names` and shows the first ten, or none if there are none."""
    names = sorted(names)
    if not names:
        return []
    shown = ", ".join(names[:NAMES_SHOWN])
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return [f"{what} ({len(names)}): {shown}{more}"]


def matched_videos(
    tree: FileTree, folder: str, pattern: re.Pattern, example: str
) -> tuple[list[tuple[str, re.Match]], list[str]]:
    """Videos below `folder` whose stem fits `pattern`, and the problems: other files there, a missing folder."""
    matched, odd = [], []
    for path in tree.below(folder):
        match = pattern.fullmatch(stem(path)) if is_video(path) else None
        if match:
            matched.append((path, match))
        else:
            odd.append(path)
    problems = listed(f"files in {folder} that are not named like {example}, left out", odd)
    if folder not in tree.folders:
        problems.append(describe_missing(tree, folder))
    return matched, problems


def describe_missing(tree: FileTree, expected: str) -> str:
    """Say that folder or file `expected` is not there, and what looks like it."""
    entries = tree.folders | set(tree.files)
    missing = f"{expected} not found"
    elsewhere = sorted(entry for entry in entries if entry.endswith(f"/{expected}"))
    if elsewhere:
        above = elsewhere[0].removesuffix(f"/{expected}")
        return f"{missing} at the root but in {above}/: set the data set's uri to {tree.uri(above)}"
    parts = expected.split("/")
    for depth, part in enumerate(parts):
        parent = "/".join(parts[:depth])
        if posixpath.join(parent, part) in entries:
            continue
        beside = [posixpath.basename(entry) for entry in entries if posixpath.dirname(entry) == parent]
        similar = _most_similar(part, beside)
        if similar:
            return f"{missing}: found '{posixpath.join(parent, similar)}', expected '{posixpath.join(parent, part)}'"
        return f"{missing}: {parent} holds {', '.join(sorted(beside)[:NAMES_SHOWN])}" if parent else missing
    return missing


def require_rows(rows: Sequence[VideoRow], tree: FileTree, layout: str, expected: Sequence[str], problems: list[str]):
    """Raise UserError if a layout matched nothing: what it expected, what is there instead."""
    if rows:
        return
    here = tree.subfolders()[:NAMES_SHOWN] + [path for path in tree.files if "/" not in path][:NAMES_SHOWN]
    raise UserError(
        f"{tree.root_uri} does not look like {layout}: no video found. Expected {', '.join(expected)}. "
        f"There is: {', '.join(here) or 'nothing'}. {'. '.join(problems)}"
    )


def read_csv(tree: FileTree, path: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """The records of a small CSV with a header.

    Raises:
        UserError: a column is missing, or a record lacks a value.
    """
    reader = csv.DictReader(io.StringIO(tree.read_text(path)))
    missing = [column for column in columns if column not in (reader.fieldnames or [])]
    if missing:
        raise UserError(
            f"{tree.uri(path)} has no column {', '.join(missing)}; its first line must name {','.join(columns)}"
        )
    records = [{column: (record[column] or "").strip() for column in columns} for record in reader]
    for number, record in enumerate(records, start=2):
        if not all(record.values()):
            raise UserError(f"{tree.uri(path)}, line {number}: {columns} must all have a value, found {record}")
    return records


def _most_similar(name: str, candidates: Iterable[str]) -> str | None:
    by_lower = {candidate.lower(): candidate for candidate in sorted(candidates)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.7)
    return by_lower[close[0]] if close else None
