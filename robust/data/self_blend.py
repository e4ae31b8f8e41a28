"""Self-blended fakes: a forgery made of one real crop, so that real faces are all that training needs.

One of two copies of the crop is changed (colour, detail, resizing, JPEG), the source is moved a little, and it is
blended into the target inside a mask drawn from the five landmarks. What is left to learn is the mismatch that
every face swap has, and none of the traits of one generator.

Images are uint8 RGB (H, W, 3), landmarks (5, 2) pixels x, y in the order of `face_swap`. Everything random comes from
the given numpy generator. The outline is not that of the demo's swaps (robust/data/face_swap.py), which are the test.

Source: Shiraishi & Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022, section 3: source-target
generator, mask generator, blending ratios. Ours: outlines from five landmarks instead of 68 or 81, masks of single
parts, compression mismatch, and the stronger settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from robust.data.blend_mask import face_mask, fit_face, soften, unit_of
from robust.data.face_swap import mix, to_uint8
from robust.data.images import jpeg

METHOD = "self_blend"
"""The name under which these fakes stand among the methods of a training set."""
RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
"""The mask is multiplied by one of these, as in the paper: half of the blends are full ones."""


@dataclass(frozen=True)
class Strength:
    """How different the two copies are. A change is drawn from [least, 1] of its range, its sign at random.

    rgb: shift of each channel, of 255. hue: degrees of 360. saturation, value, contrast: share, more or less. move:
    shift of the source, share of the face's width. zoom, stretch: share by which it is scaled, evenly and along one
    axis. turn: degrees. shrink: smallest factor of the lower resolution. sharpen: largest share of detail added.
    quality: lowest of JPEG. elastic: displacement of the mask, units of TEMPLATE. feather: widest blur of the mask's
    edge, the same units. ratios: the blending ratios. least: see above. hard: share of masks that keep a sharp edge.
    """

    rgb: float
    hue: float
    saturation: float
    value: float
    contrast: float
    move: float
    zoom: float
    stretch: float
    turn: float
    shrink: float
    sharpen: float
    quality: int
    elastic: float
    feather: float
    ratios: tuple[float, ...]
    least: float
    hard: float


STRENGTHS = {
    # About the paper's sizes of shift, zoom and colour.
    "faint": Strength(
        rgb=20,
        hue=4,
        saturation=0.1,
        value=0.05,
        contrast=0.1,
        move=0.03,
        zoom=0.05,
        stretch=0.0,
        turn=0.0,
        shrink=0.5,
        sharpen=0.5,
        quality=60,
        elastic=3,
        feather=8,
        ratios=RATIOS,
        least=0.0,
        hard=0.0,
    ),
    # Meant to outlast a perturbation: seams, skin of another colour, features out of place.
    "strong": Strength(
        rgb=30,
        hue=10,
        saturation=0.4,
        value=0.3,
        contrast=0.4,
        move=0.10,
        zoom=0.12,
        stretch=0.12,
        turn=8,
        shrink=0.3,
        sharpen=1.5,
        quality=30,
        elastic=4,
        feather=6,
        ratios=(0.75, 1.0, 1.0),
        least=0.3,
        hard=0.3,
    ),
}


def self_blend(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator, *, strength: Strength) -> np.ndarray:
    """A fake of the crop's own face.

    Args:
        image: (H, W, 3) uint8.
        landmarks: (5, 2) in its pixels.
    Returns:
        (H, W, 3) uint8, a new array.
    """
    source = target = image
    if rng.random() < 0.5:
        source = change(image, rng, strength)
    else:
        target = change(image, rng, strength)
    to_picture = fit_face(landmarks)
    unit = unit_of(to_picture)
    source = move(source, landmarks.mean(axis=0), rng, strength, unit=unit)
    outline = face_mask(to_picture, image.shape[:2], rng, elastic=strength.elastic)
    mask = soften(outline, unit, rng, feather=strength.feather, hard=strength.hard)
    return mix(source, target, mask * rng.choice(strength.ratios))


def as_target(image: np.ndarray, rng: np.random.Generator, *, strength: Strength) -> np.ndarray:
    """The real crop, changed as whole as often as a fake's target is: else a changed background would tell a fake."""
    return change(image, rng, strength) if rng.random() < 0.5 else image


# ---------------------------------------------------------------------------------------------------- the two copies


def change(image: np.ndarray, rng: np.random.Generator, strength: Strength) -> np.ndarray:
    """Another colour, another sharpness and another compression; each of the changes with its own chance."""
    for step, chance in CHANGES:
        if rng.random() < chance:
            image = step(image, rng, strength)
    return image


def shift_rgb(image: np.ndarray, rng: np.random.Generator, strength: Strength) -> np.ndarray:
    """Each channel brighter or darker."""
    return to_uint8(image + _draw(rng, strength, strength.rgb, 3).astype(np.float32))


def shift_hsv(image: np.ndarray, rng: np.random.Generator, strength: Strength) -> np.ndarray:
    """Hue turned, saturation and value scaled."""
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hue, saturation, value = (
        _draw(rng, strength, part) for part in (strength.hue, strength.saturation, strength.value)
    )
    hsv[..., 0] = (hsv[..., 0] + hue) % 360
    hsv[..., 1:] = np.clip(hsv[..., 1:] * np.array([1 + saturation, 1 + value], np.float32), 0, 1)
    return to_uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255)


def change_contrast(image: np.ndarray, rng: np.random.Generator, strength: Strength) -> np.ndarray:
    """Contrast about the mean, and brightness by half as much of the range."""
    pixels, mean = image.astype(np.float32), float(image.mean())
    factor, lift = 1 + _draw(rng, strength, strength.contrast), 255 * _draw(rng, strength, strength.contrast / 2)
    return to_uint8(mean + factor * (pixels - mean) + lift)


def change_detail(image: np.ndarray, rng: np.random.Generator, strength: Strength) -> np.ndarray:
    """Either sharper, or taken down to a lower resolution and up again."""
    if rng.random() < 0.5:
        smooth = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
        return to_uint8(image + rng.uniform(0.2, 1) * strength.sharpen * (image - smooth))
    height, width = image.shape[:2]
    factor = rng.uniform(strength.shrink, 0.9)
    size = (max(4, round(width * factor)), max(4, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(
        small, (width, height), interpolation=(cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(3)]
    )


def compress(image: np.ndarray, rng: np.random.Generator, strength: Strength) -> np.ndarray:
    """JPEG; its grid then moves with the source."""
    return jpeg(image, quality=int(rng.integers(strength.quality, 96)))


CHANGES: tuple[tuple[Callable, float], ...] = (
    (shift_rgb, 0.5), (shift_hsv, 0.5), (change_contrast, 0.5), (change_detail, 0.6), (compress, 0.4),
)  # fmt: skip


def move(
    source: np.ndarray, middle: np.ndarray, rng: np.random.Generator, strength: Strength, *, unit: float
) -> np.ndarray:
    """The source shifted, scaled, stretched and turned about the middle of the face (x, y)."""
    width = 70 * unit  # of a face, in pixels
    middle = middle.astype(np.float64)
    angle = np.deg2rad(_draw(rng, strength, strength.turn))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    zoom, stretch = 1 + _draw(rng, strength, strength.zoom), 1 + _draw(rng, strength, strength.stretch)
    linear = turn @ np.diag([zoom * stretch, zoom / stretch])
    offset = middle - linear @ middle + _draw(rng, strength, strength.move, 2) * width
    matrix = np.hstack([linear, offset[:, None]])
    return cv2.warpAffine(
        source, matrix, source.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )


def _draw(rng: np.random.Generator, strength: Strength, widest: float, count: int | None = None):
    """Of both signs, `least` to 1 of the widest."""
    size = rng.uniform(strength.least, 1, count)
    return widest * size * rng.choice((-1.0, 1.0), count)
