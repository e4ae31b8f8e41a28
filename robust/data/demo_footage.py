"""Real footage for the demo data: photographs seen by a moving camera, and parts of real clips.

Both come out as the same thing: `Footage`, square frames with the face about half as high as the frame, and five
landmarks in every frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from robust.data.face_swap import TEMPLATE, face_unit, fit_affine, to_uint8, transform
from robust.errors import UserError

FACE_SHARE = 0.5  # height of the face (eyebrows to chin and the forehead) in the frame
FACE_UNITS = 100  # that height in units of face_swap.TEMPLATE
PHOTO_SHARE = 0.96  # the camera sees at most this share of the picture's shorter side, so it can move inside

# (H, W, 3) uint8 RGB -> list of (5, 2) landmarks, one a face
LandmarkDetector = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class Footage:
    """frames: (N, S, S, 3) uint8 RGB. landmarks: (N, 5, 2) pixels."""

    frames: np.ndarray
    landmarks: np.ndarray


@dataclass(frozen=True)
class Portrait:
    """A photograph, cut and shrunk to what is needed. image: (H, W, 3) uint8 RGB. landmarks: (5, 2) pixels."""

    image: np.ndarray
    landmarks: np.ndarray


def read_portrait(path: Path, face: tuple[int, int] | None, size: int, detect: LandmarkDetector) -> Portrait:
    """A face of a photograph.

    Args:
        face: a point in the face, needed where there are several.
        size: height of the frames it will be shown in: a bigger picture is shrunk.
    Raises:
        UserError: the picture can not be read, or no face is found there.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{path}: not a picture; delete it and run again")
    portrait = portrait_of(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), size, detect, face)
    if portrait is None:
        raise UserError(f"{path}: no face found{f' at {face}' if face else ''}; the demo's table of people is wrong")
    return portrait


def portrait_of(
    image: np.ndarray, size: int, detect: LandmarkDetector, face: tuple[int, int] | None = None
) -> Portrait | None:
    """The face of an RGB picture that is at a point, or else its biggest; None if there is none."""
    landmarks = face_at(image, face, detect)
    return None if landmarks is None else _cut(Portrait(image, landmarks), size)


def face_at(image: np.ndarray, face: tuple[int, int] | None, detect: LandmarkDetector) -> np.ndarray | None:
    """(5, 2) landmarks of the face at a point (or the biggest face), rounded to a tenth of a pixel; None if none."""
    scale = _detection_scale(image)
    faces = [points / scale for points in detect(resize(image, scale))]
    if face is not None:
        faces = [points for points in faces if _distance(points, face) < 2 * face_unit(points) * 25]
        faces.sort(key=lambda points: _distance(points, face))
    else:
        faces.sort(key=lambda points: -face_unit(points))
    return np.round(faces[0], 1) if faces else None


def film_portrait(portrait: Portrait, *, frames: int, size: int, rng: np.random.Generator) -> Footage:
    """A photograph under a slowly panning, zooming and turning camera, with slowly changing light."""
    views = camera_path(portrait, frames=frames, size=size, rng=rng)
    tint = rng.uniform(0.94, 1.06) * rng.uniform(0.97, 1.03, 3)  # exposure and white balance of this take
    light = np.float32(tint * (1 + rng.uniform(0.01, 0.05) * wave(frames, rng))[:, None])
    shown = [
        cv2.warpAffine(portrait.image, view, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        for view in views
    ]
    lit = np.stack([to_uint8(frame * gain) for frame, gain in zip(shown, light, strict=True)])
    return Footage(lit, np.stack([transform(view, portrait.landmarks) for view in views]))


def camera_path(portrait: Portrait, *, frames: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One (2, 3) map from the photograph to the frame for each frame.

    The view stays inside the photograph as far as the face allows: what is outside would be a mirror image.
    """
    height, width = portrait.image.shape[:2]
    face_height = face_unit(portrait.landmarks) * FACE_UNITS
    window = min(face_height / (FACE_SHARE * rng.uniform(0.9, 1.1)), PHOTO_SHARE * min(height, width))
    sway = rng.uniform(0.01, 0.04, 2)[:, None] * np.stack([wave(frames, rng), wave(frames, rng)])
    zoom = 1 + rng.uniform(0.01, 0.04) * wave(frames, rng)
    turn = np.radians(rng.uniform(0.5, 3)) * wave(frames, rng)
    middle = _face_middle(portrait.landmarks) + rng.uniform(-0.04, 0.04, 2) * window
    views = []
    for i in range(frames):
        seen = window * zoom[i]
        centre = middle + sway[:, i] * window
        reach = seen / 2
        centre = np.array([_clamp(centre[0], reach, width - reach), _clamp(centre[1], reach, height - reach)])
        cosine, sine = np.cos(turn[i]) * size / seen, np.sin(turn[i]) * size / seen
        linear = np.array([[cosine, -sine], [sine, cosine]])
        views.append(np.hstack([linear, (size / 2 - linear @ centre)[:, None]]))
    return views


def wave(frames: int, rng: np.random.Generator) -> np.ndarray:
    """(frames,) smooth values in [-1, 1]: a quarter of a turn to one and a half turns of two sines."""
    time = np.linspace(0, 1, frames)
    turns, phases = rng.uniform(0.25, 1.5, 2), rng.uniform(0, 2 * np.pi, 2)
    return (np.sin(2 * np.pi * turns[0] * time + phases[0]) + np.sin(2 * np.pi * turns[1] * time + phases[1])) / 2


def read_clip(path: Path, starts_s: tuple[float, ...], *, frames: int, fps: int, size: int, detect) -> list[Footage]:
    """Parts of a real clip, each `frames` long at about `fps`, cut to a square around the face.

    Raises:
        UserError: the clip ends too early, or the face is not there all the time.
    """
    takes = []
    for start, pictures in zip(starts_s, _read_parts(path, starts_s, frames, fps), strict=True):
        if len(pictures) < frames:
            raise UserError(f"{path}: ends before {frames} frames from {start} s on; lower data.demo.frames")
        takes.append(_cut_clip(pictures, size, detect, f"{path} at {start} s"))
    return takes


def _read_parts(path: Path, starts_s, frames: int, fps: int) -> list[list[np.ndarray]]:
    """The pictures next to each wanted time, in one pass over the clip."""
    wanted = [[start + i / fps for i in range(frames)] for start in starts_s]
    parts: list[list[np.ndarray]] = [[] for _ in starts_s]
    with av.open(str(path), metadata_errors="ignore") as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            open_parts = [i for i, times in enumerate(wanted) if len(parts[i]) < len(times)]
            if not open_parts:
                break
            due = [i for i in open_parts if frame.time >= wanted[i][len(parts[i])] - 1e-6]
            if due:
                picture = frame.to_ndarray(format="rgb24")
                for i in due:
                    parts[i].append(picture)
    return parts


def _cut_clip(pictures: list[np.ndarray], size: int, detect: LandmarkDetector, name: str) -> Footage:
    first = face_at(pictures[0], None, detect)
    last = face_at(pictures[-1], None, detect)
    if first is None or last is None:
        raise UserError(f"{name}: no face found; the demo's table of clips is wrong")
    height, width = pictures[0].shape[:2]
    window = min(face_unit(first) * FACE_UNITS / FACE_SHARE, height, width)
    middle = (_face_middle(first) + _face_middle(last)) / 2
    x = _clamp(middle[0] - window / 2, 0, width - window)
    y = _clamp(middle[1] - window / 2, 0, height - window)
    scale = size / window
    view = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])
    flags = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    frames = np.stack([_view_square(picture, view, size, flags) for picture in pictures])
    found = [face_at(frame, None, detect) for frame in frames]
    if any(points is None for points in found):
        raise UserError(f"{name}: the face is not there in every frame; the demo's table of clips is wrong")
    return Footage(frames, _smooth(np.stack(found)))


def _view_square(picture: np.ndarray, view: np.ndarray, size: int, flags: int) -> np.ndarray:
    if flags == cv2.INTER_AREA:  # warpAffine has no area filter: blur first, by what is lost
        lost = 1 / view[0, 0]
        picture = cv2.GaussianBlur(picture, (0, 0), max(0.01, 0.4 * np.sqrt(max(lost**2 - 1, 1e-4))))
        flags = cv2.INTER_LINEAR
    return cv2.warpAffine(picture, view, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def _smooth(landmarks: np.ndarray) -> np.ndarray:
    """(N, 5, 2) landmarks, averaged over time with weights 1 2 1: the detector trembles."""
    padded = np.concatenate([landmarks[:1], landmarks, landmarks[-1:]])
    return (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4


def _cut(portrait: Portrait, size: int) -> Portrait:
    """Cuts a picture to three frames' width around the face, and shrinks it to 1.25 times the frame's scale."""
    unit = face_unit(portrait.landmarks)
    reach = 1.5 * unit * FACE_UNITS / FACE_SHARE
    height, width = portrait.image.shape[:2]
    x, y = _face_middle(portrait.landmarks)
    left, top = max(0, int(x - reach)), max(0, int(y - reach))
    image = portrait.image[top : min(height, int(y + reach)), left : min(width, int(x + reach))]
    landmarks = portrait.landmarks - (left, top)
    scale = min(1.0, 1.25 * FACE_SHARE * size / (unit * FACE_UNITS))
    return Portrait(np.ascontiguousarray(resize(image, scale)), landmarks * scale)


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """The picture at another scale; averages where it shrinks."""
    if scale == 1:
        return image
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _detection_scale(image: np.ndarray) -> float:
    """Small portraits are detected at twice their size, big pictures at 960 pixels."""
    longer = max(image.shape[:2])
    return 2.0 if longer < 200 else min(1.0, 960 / longer)


def _face_middle(landmarks: np.ndarray) -> np.ndarray:
    """(2,) the middle of the face, a little above the nose."""
    return transform(fit_affine(TEMPLATE, landmarks), np.array([[56.0, 64.0]]))[0]


def _distance(landmarks: np.ndarray, point: tuple[int, int]) -> float:
    return float(np.linalg.norm(landmarks.mean(0) - point))


def _clamp(value: float, low: float, high: float) -> float:
    return (low + high) / 2 if low > high else min(max(value, low), high)
