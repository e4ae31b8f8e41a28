"""A plain folder of one's own: real/ and fake/.

real/**.mp4
fake/<method>/**.mp4      or fake/*.mp4, whose method is then "fake"
identities.csv (optional) columns video,identities: path below the root, the people in it separated by ";"
"""

from __future__ import annotations

import posixpath

from robust.data.layouts.matching import LayoutResult, describe_missing, listed, name_below, read_csv, require_rows
from robust.data.people import OF_VIDEO
from robust.data.rows import FAKE, REAL, VideoRow, make_row
from robust.data.tree import FileTree, is_video

IDENTITIES = "identities.csv"
EACH_ITS_OWN = (
    f"no {IDENTITIES}: each video counts as a person of its own, so a person with several videos, or a fake and the "
    "video it was made from, may be on both sides of a split, and the figures too good"
)


def folder(tree: FileTree, dataset) -> LayoutResult:
    """Rows of a plain folder; identities from identities.csv (columns video,identities) if it is there."""
    name = dataset.name or dataset.layout
    people = _identities(tree)
    rows, others, unnamed = [], [], []
    problems = [describe_missing(tree, top) for top in ("real", "fake") if top not in tree.folders]
    for path in [*tree.below("real"), *tree.below("fake")]:
        if not is_video(path):
            others.append(path)
            continue
        row = _row(tree, name, path, people)
        rows.append(row)
        if people is not None and _key(path) not in people:
            unnamed.append(path)
    require_rows(rows, tree, "a folder data set", ["real/*.mp4", "fake/*.mp4 or fake/<method>/*.mp4"], problems)
    problems += listed("files that are not videos, left out", others)
    if people is None:
        problems.append(EACH_ITS_OWN)
    else:
        problems += listed(f"videos not in {IDENTITIES}, each a person of its own", unnamed)
        found = {_key(path) for path in tree.files}
        problems += listed(f"videos of {IDENTITIES} that are not there", set(people) - found)
    return LayoutResult(rows, problems)


def _row(tree: FileTree, name: str, path: str, people: dict[str, list[str]] | None) -> VideoRow:
    top, *between, _ = path.split("/")
    base = posixpath.join(top, between[0]) if top == "fake" and between else top
    return make_row(
        dataset=name,
        method=posixpath.basename(base),
        name=name_below(path, base),
        uri=tree.uri(path),
        label=FAKE if top == "fake" else REAL,
        people=(people or {}).get(_key(path)) or [f"{OF_VIDEO}{_key(path)}"],
    )


def _identities(tree: FileTree) -> dict[str, list[str]] | None:
    """{"fake/a/x": ["anna", "bert"]}; None if there is no identities.csv."""
    if not tree.has_file(IDENTITIES):
        return None
    return {
        _key(record["video"]): [person.strip() for person in record["identities"].split(";") if person.strip()]
        for record in read_csv(tree, IDENTITIES, ["video", "identities"])
    }


def _key(path: str) -> str:
    """A path without its suffix, so that identities.csv may leave the suffix out."""
    return posixpath.splitext(path)[0] if is_video(path) else path
