"""More people for the demo data: whoever is in a folder of photographs, for training alone.

The demo has few people, and a detector trained under attack knows its training people by heart long before it knows
forgeries. Photographs of others help: each becomes a real video and the target of swaps, made as the demo's own are.
They are in no list, so the demo's validation and test people stay who they are.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from robust.data.demo_footage import LandmarkDetector, Portrait, portrait_of
from robust.data.demo_plan import Swap
from robust.data.face_swap import TEMPLATE, fit_affine
from robust.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
GROUP = 6  # photographs among which faces are swapped, as in the plan of the demo's own people
SIDE = 32  # pixels of the thumbnails that copies are found by
SAME = 0.95  # correlation of two thumbnails from which on they show one photograph, however cut, scaled or compressed


@dataclass(frozen=True)
class Photographs:
    """portraits: by the name of their file, in its order. left_out: the other files, and why."""

    portraits: dict[str, Portrait] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def list_photographs(folder: str | Path) -> list[Path]:
    """Its pictures and those of its folders, in order of their names.

    Raises:
        UserError: no folder, or none in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"data.demo.photographs: {folder} is no folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(paths) < 2:
        raise UserError(f"data.demo.photographs: {folder} has {len(paths)} pictures ({', '.join(SUFFIXES)}); a swap needs two")
    return paths


def fingerprint(folder: str | Path) -> str:
    """Which pictures these are, by their names and bytes."""
    digest = hashlib.sha256()
    paths = list_photographs(folder)
    for path in paths:
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{len(paths)} pictures, {digest.hexdigest()[:16]}"


def read_photographs(folder: str | Path, size: int, detect: LandmarkDetector, known: list[Portrait]) -> Photographs:
    """The largest face of each photograph.

    Args:
        size: height of the frames it will be shown in.
        known: people of the demo; a photograph of theirs is left out, so that none of it is in two splits.
    Raises:
        UserError: fewer than two are left.
    """
    folder, found = Path(folder), Photographs()
    seen = [("the demo's own people", thumbnail(portrait)) for portrait in known]
    for path in list_photographs(folder):
        name = str(path.relative_to(folder))
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        portrait = None if image is None else portrait_of(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), size, detect)
        if portrait is None:
            found.left_out[name] = "not a picture" if image is None else "no face found"
            continue
        picture = thumbnail(portrait)
        same = next((whose for whose, other in seen if similarity(picture, other) >= SAME), None)
        if same is not None:
            found.left_out[name] = f"a copy of one of {same}"
            continue
        seen.append(("the photographs before", picture))
        found.portraits[name] = portrait
    if len(found.portraits) < 2:
        raise UserError(f"data.demo.photographs: {folder}: {len(found.portraits)} faces found in it; a swap needs two")
    return found


def thumbnail(portrait: Portrait) -> np.ndarray:
    """(SIDE * SIDE,) float32: the aligned face in grey, mean 0, norm 1."""
    view = fit_affine(portrait.landmarks, (TEMPLATE * SIDE / 112).astype(np.float64))
    shrunk = cv2.GaussianBlur(portrait.image, (0, 0), max(0.1, 0.5 / np.sqrt(abs(np.linalg.det(view[:, :2])))))
    grey = cv2.cvtColor(cv2.warpAffine(shrunk, view, (SIDE, SIDE)), cv2.COLOR_RGB2GRAY).astype(np.float32).ravel()
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1e-6)


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of two thumbnails, -1 to 1."""
    return float(first @ second)


def swap_photographs(count: int, *, first: int, swaps: int, rng: np.random.Generator) -> list[Swap]:
    """Each photograph is a target `swaps` times, each time of another one of its group.

    Args:
        count: of photographs; their identity numbers begin at `first`.
    Raises:
        UserError: more swaps than a group has other faces.
    """
    order = rng.permutation(count)
    groups = [order[start :: max(1, round(count / GROUP))] for start in range(max(1, round(count / GROUP)))]
    smallest = min(map(len, groups))
    if swaps >= smallest:
        raise UserError(f"data.demo.photograph_swaps is {swaps}; {count} photographs allow {smallest - 1}")
    return sorted(
        (
            Swap(first + int(target), 0, first + int(group[(place + turn) % len(group)]))
            for group in groups
            for place, target in enumerate(group)
            for turn in range(1, swaps + 1)
        ),
        key=lambda swap: (swap.target, swap.source),
    )


def write_table(path: Path, found: Photographs, *, first: int) -> dict:
    """A line a photograph: its identity number (from `first` on), or why it was left out; returns the counts."""
    if not found.portraits:
        return {}
    identities = {name: f"id{first + number}" for number, name in enumerate(found.portraits)}
    with path.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["photograph", "identity", "left_out"])
        for name in sorted(identities | found.left_out):
            table.writerow([name, identities.get(name, ""), found.left_out.get(name, "")])
    return {"photographs": len(identities), "left_out": dict(Counter(found.left_out.values()))}
