"""UADFV: real/0000.mp4 and, made from it, fake/0000_fake.mp4.

The data set does not name the faces that were put in, so a fake carries the identity of its target only.
Source: Li et al., "In Ictu Oculi: Exposing AI Generated Fake Face Videos by Detecting Eye Blinking", 2018;
Yang et al., "Exposing Deep Fakes Using Inconsistent Head Poses", ICASSP 2019.
"""

from __future__ import annotations

import re

from robust.data.layouts.matching import LayoutResult, listed, matched_videos, require_rows, stem
from robust.data.rows import FAKE, REAL, make_row
from robust.data.tree import FileTree

FOLDERS = {
    "real": (REAL, re.compile(r"(\d{4})"), "0000.mp4"),
    "fake": (FAKE, re.compile(r"(\d{4})_fake"), "0000_fake.mp4"),
}
NO_SOURCES = "UADFV does not name the faces put into its fakes: a fake's identity is its target's only"


def uadfv(tree: FileTree, dataset) -> LayoutResult:
    """Rows of UADFV; it has no official split."""
    name = dataset.name or dataset.layout
    rows, problems, people = [], [NO_SOURCES], {}
    for folder, (label, pattern, example) in FOLDERS.items():
        videos, folder_problems = matched_videos(tree, folder, pattern, example)
        problems += folder_problems
        people[folder] = {match[1] for _, match in videos}
        rows += [
            make_row(
                dataset=name,
                method=folder,
                name=stem(path),
                uri=tree.uri(path),
                label=label,
                people=[match[1]],
                numbered_by="uadfv",
            )
            for path, match in videos
        ]
    require_rows(rows, tree, "UADFV", ["real/0000.mp4", "fake/0000_fake.mp4"], problems)
    problems += listed("fakes without their real video", (f"{one}_fake" for one in people["fake"] - people["real"]))
    return LayoutResult(rows, problems)
