"""Who is the video about? Detections of the sampled frames are linked into tracks; the subject is the best track.

A frame alone cannot tell: a passer-by is larger for a moment, a poster scores higher. The choice is made once, over the
whole video, and every crop of a video then shows the same person.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from robust.data.faces import Face

MAX_JUMP = 1.5
"""A face's centre moves by less than so many face sizes between two sampled frames, which may lie seconds apart."""
MAX_GROWTH = 2.0
"""A face's size changes by less than this factor between two sampled frames."""
MAX_GAP_SHARE = 0.34
"""A track that is lost for more than this share of the sampled frames is over."""

MIN_LIKENESS = 0.5
"""Correlation of two faces below which they are two people's, where faces have embeddings; table (c) of benchmarks.faces counts
the cuts between people that it finds, and the people whom it tears apart."""
MEMORY = 5
"""A face is compared with so many last ones of a track and has to be like one of them: a head that turns stays itself."""


@dataclasses.dataclass(frozen=True)
class Track:
    """One person through a video.

    Args:
        faces: their face by the number of the sampled frame, rising.
    """

    number: int
    faces: dict[int, Face]

    @property
    def weight(self) -> float:
        """Length x size x score: sum of the scores of its faces, times their median size in pixels."""
        faces = self.faces.values()
        return sum(face.score for face in faces) * float(np.median([face.size for face in faces]))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = max(0.0, float(width)) * max(0.0, float(height))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both
    return both / union if union > 0 else 0.0


def link_cost(a: Face, b: Face) -> float | None:
    """How unlikely it is that two detections are one person, in [0, 2]; None where it is ruled out."""
    size = max(min(a.size, b.size), 1e-6)
    centre = [(face.box[:2] + face.box[2:]) / 2 for face in (a, b)]
    jump = float(np.linalg.norm(centre[0] - centre[1])) / ((a.size + b.size) / 2 + 1e-6)
    growth = max(a.size, b.size) / size
    if jump >= MAX_JUMP or growth >= MAX_GROWTH:
        return None
    return (1 - overlap(a.box, b.box)) + jump / MAX_JUMP


def link_tracks(detections: Sequence[Sequence[Face]]) -> list[Track]:
    """Links the faces of consecutive sampled frames, the likeliest pairs together (optimal assignment).

    Args:
        detections: the faces of each sampled frame, in time order.
    Returns:
        All tracks, the heaviest first, numbered from 0 in that order.
    """
    max_gap = max(1, round(MAX_GAP_SHARE * len(detections)))
    tracks: list[dict[int, Face]] = []
    for index, faces in enumerate(detections):
        alive = [track for track in tracks if index - max(track) <= max_gap]
        linked = set()
        for track_row, face_row in _assign(alive, faces):
            alive[track_row][index] = faces[face_row]
            linked.add(face_row)
        tracks += [{index: face} for row, face in enumerate(faces) if row not in linked]
    ordered = sorted(tracks, key=lambda faces: -Track(0, faces).weight)
    return [Track(number, faces) for number, faces in enumerate(ordered)]


def _assign(tracks: list[dict[int, Face]], faces: Sequence[Face]) -> list[tuple[int, int]]:
    if not tracks or not faces:
        return []
    forbidden = 1e3
    costs = np.full((len(tracks), len(faces)), forbidden)
    for row, track in enumerate(tracks):
        last = [track[number] for number in sorted(track)[-MEMORY:]]
        for column, face in enumerate(faces):
            cost, unlike = link_cost(last[-1], face), _unlikeness(last, face)
            costs[row, column] = forbidden if cost is None or unlike is None else cost + unlike
    rows, columns = linear_sum_assignment(costs)
    return [(int(row), int(column)) for row, column in zip(rows, columns) if costs[row, column] < forbidden]


def _unlikeness(track: Sequence[Face], face: Face) -> float | None:
    """1 - the best correlation with a face of the track; None: another person; 0 where there are no embeddings."""
    known = [one.embedding for one in track if one.embedding is not None]
    if face.embedding is None or not known:
        return 0.0
    likeness = max(float(one @ face.embedding) for one in known)
    return 1 - likeness if likeness >= MIN_LIKENESS else None


def choose_subject(tracks: Sequence[Track]) -> Track | None:
    """The track of the person whom the video is about: the heaviest; None without any face."""
    return max(tracks, key=lambda track: (track.weight, -track.number), default=None)
