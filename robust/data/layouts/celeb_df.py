"""Celeb-DF v1 and v2.

    Celeb-real/id0_0000.mp4             person 0, video 0
    YouTube-real/00170.mp4              people without a number
    Celeb-synthesis/id0_id1_0000.mp4    the video id0_0000 with the face of person 1
    List_of_testing_videos.txt          lines "1 Celeb-real/id1_0007.mp4"; here 1 means REAL
    methods.csv (optional, not official) columns video,method: tells kinds of fakes apart
    List_of_validation_videos.txt       (optional, not official) the same for the validation split; needs the test list

The official test list names nearly every celebrity, so few or no fakes are left whose people are not in it: see
robust/data/splits.py for what that means. v1 and v2 share one numbering of people here: a video of v1 that shows up in
v2 must not land in another split.

Source: Li et al., "Celeb-DF: A Large-scale Challenging Dataset for DeepFake Forensics", CVPR 2020, and its release.
"""

from __future__ import annotations

import re

from robust.data.layouts.matching import (
    LayoutResult,
    describe_missing,
    listed,
    matched_videos,
    read_csv,
    require_rows,
    stem,
)
from robust.data.rows import FAKE, REAL, make_row
from robust.data.tree import FileTree

NUMBERED_BY = "celeb_df_v2"
TEST_LIST = "List_of_testing_videos.txt"
VALIDATION_LIST = "List_of_validation_videos.txt"
LISTS = {TEST_LIST: "test", VALIDATION_LIST: "val"}
METHODS = "methods.csv"
FOLDERS = {
    # folder: (label, pattern of the name, example)
    "Celeb-real": (REAL, re.compile(r"(id\d+)_\d+"), "id0_0000.mp4"),
    "YouTube-real": (REAL, re.compile(r"(\d+)"), "00000.mp4"),
    "Celeb-synthesis": (FAKE, re.compile(r"(id\d+)_(id\d+)_\d+"), "id0_id1_0000.mp4"),
}


def celeb_df(tree: FileTree, dataset) -> LayoutResult:
    """Rows of Celeb-DF; with the test list its videos come as split "test" and all others as "train" (or "val")."""
    name = dataset.name or dataset.layout
    methods, problems = _methods(tree)
    official, list_problems = _official_splits(tree)
    problems += list_problems
    rows, seen = [], set()
    for folder, (label, pattern, example) in FOLDERS.items():
        videos, folder_problems = matched_videos(tree, folder, pattern, example)
        problems += folder_problems
        for path, match in videos:
            key = f"{folder}/{stem(path)}"
            seen.add(key)
            people = match.groups() if folder != "YouTube-real" else [f"youtube_{match[1]}"]
            rows.append(
                make_row(
                    dataset=name,
                    method=methods.get(key, folder),
                    name=stem(path),
                    uri=tree.uri(path),
                    label=label,
                    people=people,
                    numbered_by=NUMBERED_BY,
                    split=official.get(key, "train") if official else None,
                )
            )
    require_rows(rows, tree, "Celeb-DF", [f"{folder}/" for folder in FOLDERS], problems)
    for file, split in LISTS.items():
        absent = {key for key, said in official.items() if said == split} - seen
        problems += listed(f"videos of {file} that are not there", absent)
    problems += listed(f"videos of {METHODS} that are not there", set(methods) - seen)
    return LayoutResult(rows, problems)


def _official_splits(tree: FileTree) -> tuple[dict[str, str], list[str]]:
    """{"Celeb-real/id1_0007": "test" or "val"} from the lists; empty without a test list, which the other needs."""
    if not tree.has_file(TEST_LIST):
        return {}, [describe_missing(tree, TEST_LIST) + "; without it the split is ours, not the official one"]
    test, problems = _read_list(tree, TEST_LIST)
    if not tree.has_file(VALIDATION_LIST):
        return dict.fromkeys(test, "test"), problems
    validation, more = _read_list(tree, VALIDATION_LIST)
    both = listed(f"videos of {VALIDATION_LIST} that are test videos too; they are tests", validation & test)
    return dict.fromkeys(validation, "val") | dict.fromkeys(test, "test"), problems + more + both


def _read_list(tree: FileTree, file: str) -> tuple[set[str], list[str]]:
    """The videos of a list, as "Celeb-real/id1_0007", and what is wrong with it."""
    videos, bad_lines, wrong_labels = set(), [], []
    for line in tree.read_text(file).splitlines():
        if not line.strip():
            continue
        match = re.fullmatch(r"([01])\s+([^/\s]+)/([^/\s]+)", line.strip())
        if not match or match[2] not in FOLDERS:
            bad_lines.append(line.strip())
            continue
        videos.add(f"{match[2]}/{stem(match[3])}")
        if (REAL if match[1] == "1" else FAKE) != FOLDERS[match[2]][0]:
            wrong_labels.append(line.strip())
    problems = listed(f"lines of {file} that are not like '1 Celeb-real/id0_0000.mp4', left out", bad_lines)
    problems += listed(f"lines of {file} whose label (1 = real) contradicts the folder; the folder counts", wrong_labels)
    return videos, problems


def _methods(tree: FileTree) -> tuple[dict[str, str], list[str]]:
    """{"Celeb-synthesis/id0_id1_0000": kind} from methods.csv, which names videos with or without their folder."""
    if not tree.has_file(METHODS):
        return {}, []
    kinds, bad = {}, []
    for record in read_csv(tree, METHODS, ["video", "method"]):
        folder, _, name = record["video"].rpartition("/")
        if folder not in ("", "Celeb-synthesis") or "/" in record["method"]:
            bad.append(f"{record['video']} ({record['method']})")
            continue
        kinds[f"Celeb-synthesis/{stem(name)}"] = record["method"]
    return kinds, listed(f"records of {METHODS} that are not a fake of Celeb-synthesis and a plain name", bad)
