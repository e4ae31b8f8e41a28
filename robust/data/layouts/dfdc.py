"""The Deepfake Detection Challenge data set, and its preview.

DFDC:     any folder with a metadata.json and the videos it names beside it, as in
              dfdc_train_part_0/metadata.json   {"aaa.mp4": {"label": "FAKE", "split": "train", "original": "bbb.mp4"}}
              test/metadata.json                {"ccc.mp4": {"is_fake": 1, ...}}
          or, for the validation videos, a labels.csv with the columns filename,label (1 = fake).
Preview:  dataset.json at the root
              {"method_A/.../x.mp4": {"label": "fake", "target_id": 1, "swapped_id": 2, "set": "train", ...}}

DFDC names no people. `original` links a fake to the video it was made from, so the source video stands for the
identity: splits are disjoint by source video, and an actor who was filmed twice may still be on both sides.
Source: Dolhansky et al., "The DeepFake Detection Challenge (DFDC) Dataset", 2020; preview: 2019.
"""

from __future__ import annotations

import posixpath

from robust.data.layouts.matching import (
    LayoutResult,
    describe_missing,
    listed,
    name_below,
    read_csv,
    require_rows,
    stem,
)
from robust.data.people import DFDC
from robust.data.rows import FAKE, REAL, make_row
from robust.data.tree import FileTree
from robust.errors import UserError

NO_IDENTITIES = (
    "DFDC names no people: the identity is the original video, so one actor's different videos may be on both sides of "
    "a split; figures on its own test part are not fully identity-disjoint"
)


def dfdc(tree: FileTree, dataset) -> LayoutResult:
    """Rows of DFDC; videos below a folder `test` or `validation` are official splits, the others then "train"."""
    name = dataset.name or dataset.layout
    rows, problems, absent, unlabelled, orphans, listed_paths = [], [NO_IDENTITIES], [], [], [], set()
    entries = [*_metadata_entries(tree), *_label_entries(tree)]
    names = {stem(path) for path, _ in entries}
    has_official = any(_official_split(path) for path, _ in entries)
    for path, facts in entries:
        listed_paths.add(path)
        label = _label(facts)
        if not tree.has_file(path) or label is None:
            (absent if label is not None else unlabelled).append(path)
            continue
        original = stem(str(facts.get("original") or path))
        if original not in names:
            orphans.append(f"{path} (original {original})")
        rows.append(
            make_row(
                dataset=name,
                method=f"{name}-{'fake' if label else 'real'}",
                name=stem(path),
                uri=tree.uri(path),
                label=label,
                people=[original],
                numbered_by=DFDC,
                split=(_official_split(path) or "train") if has_official else None,
            )
        )
    expected = ["dfdc_train_part_*/metadata.json with its videos beside it", "test/metadata.json"]
    if not entries:
        problems.append(describe_missing(tree, "metadata.json"))
    require_rows(rows, tree, "DFDC", expected, problems)
    problems += listed("videos of a metadata.json that are not there", absent)
    problems += listed("videos without a label REAL or FAKE, left out", unlabelled)
    problems += listed("fakes whose original is in no metadata.json (parts missing?)", orphans)
    problems += listed("videos in no metadata.json, left out", set(tree.videos("")) - listed_paths)
    return LayoutResult(rows, problems)


def dfdc_preview(tree: FileTree, dataset) -> LayoutResult:
    """Rows of the DFDC preview, with its official train and test sets and its two numbered people a fake."""
    name = dataset.name or dataset.layout
    if not tree.has_file("dataset.json"):
        require_rows([], tree, "the DFDC preview", ["dataset.json"], [describe_missing(tree, "dataset.json")])
    entries = _object(tree, "dataset.json")
    rows, absent, incomplete = [], [], []
    for path, facts in sorted(entries.items()):
        label = _label(facts)
        people = [str(facts[key]) for key in ("target_id", "swapped_id") if facts.get(key) is not None]
        if label is None or len(people) < 1 + label:
            incomplete.append(path)
        elif not tree.has_file(path):
            absent.append(path)
        else:
            method = path.split("/")[0]
            split = facts.get("set") if facts.get("set") in ("train", "test") else None
            rows.append(
                make_row(
                    dataset=name,
                    method=method,
                    name=name_below(path, method),
                    uri=tree.uri(path),
                    label=label,
                    people=people,
                    numbered_by="dfdc_preview",
                    split=split,
                )
            )
    problems = listed("videos of dataset.json that are not there", absent)
    problems += listed("videos of dataset.json without label, target_id or (fakes) swapped_id, left out", incomplete)
    require_rows(
        rows, tree, "the DFDC preview", ["dataset.json", "method_A/", "method_B/", "original_videos/"], problems
    )
    problems += listed("videos not in dataset.json, left out", set(tree.videos("")) - set(entries))
    return LayoutResult(rows, problems)


def _metadata_entries(tree: FileTree) -> list[tuple[str, dict]]:
    """(path, facts) of every video of every metadata.json."""
    entries = []
    for path in tree.files:
        if posixpath.basename(path) == "metadata.json":
            folder = posixpath.dirname(path)
            entries += [(posixpath.join(folder, video), facts) for video, facts in sorted(_object(tree, path).items())]
    return entries


def _label_entries(tree: FileTree) -> list[tuple[str, dict]]:
    """(path, facts) of every video of a labels.csv in a folder without metadata.json."""
    entries = []
    for path in tree.files:
        folder = posixpath.dirname(path)
        if posixpath.basename(path) == "labels.csv" and not tree.has_file(posixpath.join(folder, "metadata.json")):
            for record in read_csv(tree, path, ["filename", "label"]):
                entries.append((posixpath.join(folder, record["filename"]), {"is_fake": record["label"]}))
    return entries


def _object(tree: FileTree, path: str) -> dict[str, dict]:
    content = tree.read_json(path)
    if not isinstance(content, dict) or not all(isinstance(facts, dict) for facts in content.values()):
        raise UserError(f"{tree.uri(path)} must be an object of {{file: {{label: ...}}}}; unpack the data set again")
    return content


def _label(facts: dict) -> int | None:
    written = str(facts.get("label", facts.get("is_fake", ""))).upper()
    return {"FAKE": FAKE, "1": FAKE, "TRUE": FAKE, "REAL": REAL, "0": REAL, "FALSE": REAL}.get(written)


def _official_split(path: str) -> str | None:
    folders = path.split("/")[:-1]
    if "test" in folders:
        return "test"
    return "val" if "validation" in folders else None
