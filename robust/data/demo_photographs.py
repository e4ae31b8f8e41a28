"""More people for the demo data: whoever is in a folder of photographs, for training alone.

The demo has few people, and a detector trained under attack knows its training people by heart long before it knows
forgeries. Photographs of others help: each becomes a real video and the target of swaps, made as the demo's own are.
They are in no list, so the demo's validation and test people stay who they are. The files are not trusted: they are
decoded in a process of its own, as videos are.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from robust.data.decoder_process import DecodeLimits, DecoderProcess
from robust.data.demo_footage import LandmarkDetector, Portrait, portrait_of
from robust.data.demo_plan import Swap
from robust.data.face_swap import TEMPLATE, fit_affine
from robust.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MOST_BYTES = 64 * 2**20  # of a file
LEAST_PIXELS = 100  # of the shorter side: smaller ones have no face as large as the demo's
LIMITS = DecodeLimits(timeout_s=60, memory_mb=2048, decord=False)
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
        digest.update(os.fsencode(path.relative_to(folder)) + b"\0")
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
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
    of_demo = np.array([view for portrait in known for view in views(portrait)]).reshape(-1, SIDE * SIDE)
    before = np.empty((0, SIDE * SIDE), np.float32)
    with closing(DecoderProcess(LIMITS)) as decoder:
        for path in list_photographs(folder):
            name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
            portrait, reason = _read(path, size, detect, decoder)
            if portrait is None:
                found.left_out[name] = reason
                continue
            shown = np.array(views(portrait))
            if (of_demo @ shown.T).max(initial=-1) >= SAME:
                found.left_out[name] = "a copy of one of the demo's own people"
            elif (before @ shown.T).max(initial=-1) >= SAME:
                found.left_out[name] = "a copy of one of the photographs before"
            else:
                before = np.concatenate([before, shown[:1]])
                found.portraits[name] = portrait
    if len(found.portraits) < 2:
        raise UserError(f"data.demo.photographs: {folder}: {len(found.portraits)} faces found in it; a swap needs two")
    return found


def _read(path: Path, size: int, detect: LandmarkDetector, decoder: DecoderProcess) -> tuple[Portrait | None, str]:
    """The largest face of a photograph, or None and why."""
    if path.stat().st_size > MOST_BYTES:
        return None, f"more than {MOST_BYTES >> 20} MiB"
    decoded = decoder.read_image(path)
    if not len(decoded.frames):
        return None, decoded.reason
    image = decoded.frames[0]
    if min(image.shape[:2]) < LEAST_PIXELS:
        return None, f"a side of less than {LEAST_PIXELS} pixels"
    if max(image.shape[:2]) > 4 * min(image.shape[:2]):
        return None, "more than four times as long as wide"
    portrait = portrait_of(image, size, detect)
    return portrait, "" if portrait is not None else "no face found"


def views(portrait: Portrait) -> list[np.ndarray]:
    """Its thumbnail, and that of its mirror image: copies are often mirrored."""
    width = portrait.image.shape[1]
    points = portrait.landmarks[[1, 0, 2, 4, 3]]  # left and right change places
    mirrored = np.stack([width - 1 - points[:, 0], points[:, 1]], axis=1)
    return [thumbnail(portrait), thumbnail(Portrait(np.ascontiguousarray(portrait.image[:, ::-1]), mirrored))]


def thumbnail(portrait: Portrait) -> np.ndarray:
    """(SIDE * SIDE,) float32: the aligned face in grey, mean 0, norm 1."""
    view = fit_affine(portrait.landmarks, (TEMPLATE * SIDE / 112).astype(np.float64))
    shrunk = cv2.GaussianBlur(portrait.image, (0, 0), max(0.1, 0.5 / np.sqrt(abs(np.linalg.det(view[:, :2])))))
    grey = cv2.cvtColor(cv2.warpAffine(shrunk, view, (SIDE, SIDE)), cv2.COLOR_RGB2GRAY).astype(np.float32).ravel()
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1e-6)


def swap_photographs(count: int, *, first: int, rng: np.random.Generator) -> list[Swap]:
    """Each photograph is a target once and a source once, within its group.

    Args:
        count: of photographs; their identity numbers begin at `first`.
    """
    order = rng.permutation(count)
    groups = [order[start :: max(1, round(count / GROUP))] for start in range(max(1, round(count / GROUP)))]
    pairs = ((group[place], group[(place + 1) % len(group)]) for group in groups for place in range(len(group)))
    return sorted((Swap(first + int(target), 0, first + int(source)) for target, source in pairs), key=lambda swap: swap.target)


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
