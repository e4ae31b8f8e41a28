"""FaceForensics++ with DeepFakeDetection and FaceShifter, as its download script lays it out.

    original_sequences/youtube/c23/videos/000.mp4
    original_sequences/actors/c23/videos/01__exit_phone_room.mp4                             (DeepFakeDetection)
    manipulated_sequences/Deepfakes/c23/videos/000_003.mp4                                   target 000, source 003
    manipulated_sequences/DeepFakeDetection/c23/videos/01_02__exit_phone_room__YVGY8LOK.mp4  target 01, source 02
    {train,val,test}.json (optional; also in splits/)   official lists of pairs, of the YouTube videos only
    conversion_dict.json (optional)                     which sequences come from one YouTube video: the same person

Compression: c23, c40, or c0, which the script calls "raw" in its folders.
Source: Roessler et al., "FaceForensics++", ICCV 2019, and its release.
"""

from __future__ import annotations

import posixpath
import re

from robust.data.layouts.matching import LayoutResult, describe_missing, listed, matched_videos, require_rows, stem
from robust.data.rows import FAKE, REAL, make_row
from robust.data.tree import FileTree
from robust.errors import UserError

NUMBERED_BY = "faceforensics"
SPLIT_FOLDERS = ("", "splits", "dataset/splits")
YOUTUBE_FAKES = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
ACTOR_FAKES = ("DeepFakeDetection",)

SEQUENCE = re.compile(r"(\d{3})")
SEQUENCE_PAIR = re.compile(r"(\d{3})_(\d{3})")
ACTOR = re.compile(r"(\d{2})__.+")
ACTOR_PAIR = re.compile(r"(\d{2})_(\d{2})__.+")


def faceforensics(tree: FileTree, dataset) -> LayoutResult:
    """Rows of FaceForensics++ at `dataset.compression`; the official splits where their json files are there."""
    name = dataset.name or dataset.layout
    splits, problems = official_splits(tree)
    same_person, conversion_problems = _same_person(tree)
    problems += conversion_problems
    rows, divided = [], []
    for method, label, parent, pattern, example in _sources(dataset.methods):
        folder = compression_folder(tree, parent, dataset.compression)
        videos, folder_problems = matched_videos(tree, folder, pattern, example)
        problems += folder_problems
        for path, match in videos:
            is_youtube = pattern in (SEQUENCE, SEQUENCE_PAIR)
            sequences = match.groups()
            split = _split_of(sequences, splits) if is_youtube else None
            if split == "excluded":
                divided.append(path)
            people = sequences if is_youtube else [f"actor{number}" for number in sequences]
            people = list(dict.fromkeys(same_person.get(person, person) for person in people))
            rows.append(
                make_row(
                    dataset=name,
                    method=method,
                    name=stem(path),
                    uri=tree.uri(path),
                    label=label,
                    people=people,
                    numbered_by=NUMBERED_BY,
                    split=split,
                )
            )
    expected = [f"original_sequences/youtube/{dataset.compression}/videos/", "manipulated_sequences/<method>/..."]
    require_rows(rows, tree, "FaceForensics++", expected, problems)
    problems += listed("videos whose two sequences are in different official splits, or in none, excluded", divided)
    return LayoutResult(rows, problems)


def compression_folder(tree: FileTree, parent: str, compression: str) -> str:
    """`parent/c23/videos`; for c0 the folder the download script makes, `parent/raw/videos`, unless c0 is there."""
    folder = posixpath.join(parent, compression, "videos")
    if compression == "c0" and folder not in tree.folders:
        return posixpath.join(parent, "raw", "videos")
    return folder


def official_splits(tree: FileTree) -> tuple[dict[str, str], list[str]]:
    """{"000": "test"} for every sequence of the official lists; empty if there are none."""
    found = {}
    for split in ("train", "val", "test"):
        paths = [posixpath.join(folder, f"{split}.json") for folder in SPLIT_FOLDERS]
        found[split] = next((path for path in paths if tree.has_file(path)), None)
    missing = [f"{split}.json" for split, path in found.items() if path is None]
    if len(missing) == 3:
        return {}, [describe_missing(tree, "test.json") + " (nor in splits/): the split is ours, not the official one"]
    problems = listed("official split lists not found; the official split is not used without all three", missing)
    if missing:
        return {}, problems
    splits = {}
    for split, path in found.items():
        for pair in _pairs(tree, path):
            splits.update(dict.fromkeys(pair, split))
    return splits, problems


def _pairs(tree: FileTree, path: str) -> list[list[str]]:
    pairs = tree.read_json(path)
    is_list = isinstance(pairs, list)
    if not is_list or not all(isinstance(pair, list) and all(isinstance(one, str) for one in pair) for pair in pairs):
        raise UserError(f'{tree.uri(path)} must be a list of pairs like ["000", "003"]; download it again')
    return pairs


def _sources(methods: list[str] | None):
    """(method, label, folder, pattern, example) of each kind of video; the actors only beside their fakes."""
    wanted = set(methods) if methods is not None else None
    fakes = [method for method in YOUTUBE_FAKES + ACTOR_FAKES if wanted is None or method in wanted]
    if wanted is None or set(fakes) - set(ACTOR_FAKES) or "youtube" in wanted or not fakes:
        yield "youtube", REAL, "original_sequences/youtube", SEQUENCE, "000.mp4"
    if wanted is None or set(fakes) & set(ACTOR_FAKES) or "actors" in wanted:
        yield "actors", REAL, "original_sequences/actors", ACTOR, "01__scene.mp4"
    for method in fakes:
        pair = (ACTOR_PAIR, "01_02__scene__HASH.mp4") if method in ACTOR_FAKES else (SEQUENCE_PAIR, "000_003.mp4")
        yield method, FAKE, f"manipulated_sequences/{method}", *pair


def _split_of(sequences: tuple[str, ...], splits: dict[str, str]) -> str | None:
    if not splits:
        return None
    found = {splits.get(sequence) for sequence in sequences}
    return found.pop() or "excluded" if len(found) == 1 else "excluded"


def _same_person(tree: FileTree) -> tuple[dict[str, str], list[str]]:
    """{"332": "331"}: the first sequence of the same YouTube video, for each sequence that is not it.

    Values of conversion_dict.json are "<YouTube id> <which part of the video>".
    """
    path = next((path for path in ("conversion_dict.json", "dataset/conversion_dict.json") if tree.has_file(path)), "")
    if not path:
        return {}, ["conversion_dict.json not found: sequences cut from one YouTube video count as different people"]
    first, same = {}, {}
    for sequence, source in sorted(tree.read_json(path).items()):
        video = str(source).rsplit(" ", 1)[0]
        if first.setdefault(video, sequence) != sequence:
            same[sequence] = first[video]
    return same, []
