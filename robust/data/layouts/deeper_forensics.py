"""DeeperForensics-1.0.

    manipulated_videos/<variant>/000_M101.mp4    target: sequence 000 of FaceForensics++; source: actor M101
    lists/splits/{train,val,test}.txt            names of manipulated videos, one a line
    source_videos/M101/.../*.mp4                 recordings of the actors

Its authors say that the source videos are not the real half: that is FaceForensics++'s YouTube sequences at c23, which
it does not contain. They are read from target_videos/ or original_sequences/youtube/c23/videos/ below the same root, or
come with an entry of data.datasets of layout faceforensics (methods: [] keeps the real ones only); people are numbered
alike, so splits stay disjoint over both. Source videos are read, as real, only if `methods` names "source_videos".
Source: Jiang et al., "DeeperForensics-1.0", CVPR 2020, and the documentation of its release.
"""

from __future__ import annotations

import re

from robust.data.layouts import faceforensics
from robust.data.layouts.matching import LayoutResult, describe_missing, listed, matched_videos, require_rows, stem
from robust.data.rows import FAKE, REAL, VideoRow
from robust.data.tree import FileTree

VARIANTS = (
    "end_to_end",
    "end_to_end_level_1",
    "end_to_end_level_2",
    "end_to_end_level_3",
    "end_to_end_level_4",
    "end_to_end_level_5",
    "end_to_end_mix_2_distortions",
    "end_to_end_mix_3_distortions",
    "end_to_end_mix_4_distortions",
    "end_to_end_random_level",
    "reenact_postprocess",
)
PAIR = re.compile(r"(\d{3})_([MW]\d{3})")
SOURCE = re.compile(r"([MW]\d{3})_.+")
NO_REALS = (
    "DeeperForensics has no real half of its own: put FaceForensics++'s c23 YouTube videos into target_videos/, or add "
    "that data set to data.datasets (layout faceforensics, methods: [])"
)


def deeper_forensics(tree: FileTree, dataset) -> LayoutResult:
    """Rows of DeeperForensics, with its official splits where the lists are there."""
    name = dataset.name or dataset.layout
    splits, problems = _splits(tree)
    rows, targets, divided = [], {}, set()
    wanted = set(VARIANTS) if dataset.methods is None else set(dataset.methods)
    for variant in (variant for variant in VARIANTS if variant in wanted):
        videos, folder_problems = matched_videos(tree, f"manipulated_videos/{variant}", PAIR, "000_M101.mp4")
        problems += folder_problems
        for path, match in videos:
            split = splits.get(stem(path))
            if targets.setdefault(match[1], split) != split:
                divided.add(match[1])
            rows.append(_row(name, variant, tree, path, FAKE, (_target(match[1]), _actor(match[2])), split))
    if "source_videos" in wanted:
        videos, folder_problems = matched_videos(tree, "source_videos", SOURCE, "M101_light_up_happy_camera_front.mp4")
        problems += folder_problems
        rows += [_row(name, "source_videos", tree, path, REAL, (_actor(match[1]),), None) for path, match in videos]
    real_rows, real_problems = _target_rows(tree, name, targets, divided)
    require_rows(rows, tree, "DeeperForensics", ["manipulated_videos/end_to_end/000_M101.mp4"], problems)
    names = {stem(path) for path in tree.videos("manipulated_videos")}
    problems += listed("videos of lists/splits that are not there", set(splits) - names)
    return LayoutResult(rows + real_rows, problems + real_problems)


def _target_rows(tree: FileTree, name: str, targets: dict[str, str | None], divided: set[str]):
    """The real half, if it lies below the same root; a target goes where its fakes go."""
    for folder in ("target_videos", "original_sequences/youtube/c23/videos"):
        if folder in tree.folders:
            videos, problems = matched_videos(tree, folder, faceforensics.SEQUENCE, "000.mp4")
            splits = {target: split for target, split in targets.items() if target not in divided}
            return [
                _row(name, "youtube", tree, path, REAL, (_target(match[1]),), splits.get(match[1]))
                for path, match in videos
            ], problems
    return [], [NO_REALS]


def _splits(tree: FileTree) -> tuple[dict[str, str], list[str]]:
    """{"000_M101": "train"} from the official lists; empty if one of the three is missing."""
    paths = {split: f"lists/splits/{split}.txt" for split in ("train", "val", "test")}
    missing = [path for path in paths.values() if not tree.has_file(path)]
    if missing:
        notes = [describe_missing(tree, path) for path in missing]
        return {}, [f"{'; '.join(notes)}: the split is ours, not the official one"]
    return {
        stem(line.strip()): split
        for split, path in paths.items()
        for line in tree.read_text(path).splitlines()
        if line.strip()
    }, []


def _target(sequence: str) -> str:
    return f"{faceforensics.NUMBERED_BY}:{sequence}"


def _actor(actor: str) -> str:
    return f"deeper_forensics:{actor}"


def _row(name, method, tree, path, label, identities, split) -> VideoRow:
    return VideoRow(f"{name}/{method}/{stem(path)}", tree.uri(path), label, name, method, identities, split)
