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

from robust.data.face_swap import TEMPLATE, draw_outline, to_uint8, transform

METHOD = "self_blend"
"""The name under which these fakes stand among the methods of a training set."""
RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
"""The mask is multiplied by one of these, as in the paper: half of the blends are full ones."""
CORNERS = 32  # of an outline's polygon
PART_ELLIPSES = {  # centre x, y and half axes in the units of TEMPLATE, in which the eyes are 35 apart
    "left eye": (38.3, 50.0, 14.0, 10.0),
    "right eye": (73.5, 50.0, 14.0, 10.0),
    "both eyes": (56.0, 49.0, 33.0, 13.0),
    "nose": (56.0, 65.0, 12.0, 19.0),
    "mouth": (56.0, 92.0, 24.0, 14.0),
}


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
    source = move(source, landmarks, rng, strength)
    mask = soften(face_mask(landmarks, image.shape[:2], rng, strength), _unit(landmarks), rng, strength)
    return blend(source, target, mask * rng.choice(strength.ratios))


def as_target(image: np.ndarray, rng: np.random.Generator, *, strength: Strength) -> np.ndarray:
    """The real crop, changed as whole as often as a fake's target is: else a changed background would tell a fake."""
    return change(image, rng, strength) if rng.random() < 0.5 else image


def blend(source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """mask * source + (1 - mask) * target; mask is (H, W) in [0, 1]."""
    return to_uint8(target + mask[..., None] * (source.astype(np.float32) - target))


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
    quality = int(rng.integers(strength.quality, 96))
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1])


CHANGES: tuple[tuple[Callable, float], ...] = (
    (shift_rgb, 0.5), (shift_hsv, 0.5), (change_contrast, 0.5), (change_detail, 0.6), (compress, 0.4),
)  # fmt: skip


def move(source: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator, strength: Strength) -> np.ndarray:
    """The source shifted, scaled, stretched and turned about the middle of the face."""
    width = 70 * _unit(landmarks)  # of a face, in pixels
    middle = landmarks.mean(axis=0).astype(np.float64)
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


# ---------------------------------------------------------------------------------------------------- the mask


def face_mask(landmarks: np.ndarray, size: tuple[int, int], rng: np.random.Generator, strength: Strength) -> np.ndarray:
    """(H, W) float32, 0 or 1: the face, a half of it, or some of its parts, bent out of shape."""
    to_picture = fit_face(landmarks)
    kind = rng.random()
    mask = np.zeros(size, np.uint8)
    outlines = _parts(rng) if kind < 0.35 else [_face(rng)]
    for outline in outlines:
        mask |= draw_outline(transform(to_picture, outline), size)
    if kind > 0.85:
        mask = np.where(_half_plane(transform(to_picture, _near_middle(rng))[0], size, rng), mask, 0)
    return bend(mask.astype(np.float32) / 255, strength.elastic * _unit(landmarks), rng)


def fit_face(landmarks: np.ndarray) -> np.ndarray:
    """(2, 3) map from the units of TEMPLATE to the picture: the nearest similarity, narrowed where the head is turned.

    An affine fit would collapse in a profile, where both eyes and the nose come to lie on one line.
    """
    template, points = TEMPLATE.astype(np.float64), landmarks.astype(np.float64)
    centre, middle = template.mean(axis=0), points.mean(axis=0)
    x, y = template - centre, points - middle
    along = (x * y).sum() / (x**2).sum()
    across = (x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]).sum() / (x**2).sum()
    linear = np.array([[along, -across], [across, along]])
    size = max(np.hypot(along, across), 1e-6)
    eyes = np.linalg.norm(points[1] - points[0]) / (np.linalg.norm(template[1] - template[0]) * size)
    linear = linear @ np.diag([np.clip(eyes, 0.5, 1.0), 1.0])
    return np.hstack([linear, (middle - linear @ centre)[:, None]])


def _unit(landmarks: np.ndarray) -> float:
    """Pixels of one unit of TEMPLATE, whatever the turn of the head."""
    return float(max(np.linalg.norm(fit_face(landmarks)[:, 1]), 1e-6))


def _face(rng: np.random.Generator) -> np.ndarray:
    """A convex outline: from the forehead or the eyebrows to below the mouth or the chin, rounder or more square."""
    top, bottom = rng.uniform(14, 42), rng.uniform(100, 118)
    return _superellipse(
        56 + rng.uniform(-4, 4), (top + bottom) / 2, rng.uniform(27, 42), (bottom - top) / 2, rng.uniform(1.8, 3.2)
    )


def _parts(rng: np.random.Generator) -> list[np.ndarray]:
    names = rng.choice(list(PART_ELLIPSES), rng.integers(1, 4), replace=False)
    return [
        _superellipse(x, y, *(rng.uniform(0.8, 1.4, 2) * (a, b)), 2.0)
        for x, y, a, b in (PART_ELLIPSES[name] for name in names)
    ]


def _superellipse(x: float, y: float, a: float, b: float, power: float) -> np.ndarray:
    """(CORNERS, 2): |u / a|^power + |v / b|^power = 1 about (x, y)."""
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack(
        [x + a * np.sign(cos) * np.abs(cos) ** (2 / power), y + b * np.sign(sin) * np.abs(sin) ** (2 / power)], axis=1
    )


def _near_middle(rng: np.random.Generator) -> np.ndarray:
    return np.array([[56.0, 70.0]]) + rng.uniform(-10, 10, (1, 2))


def _half_plane(point: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool: one side of a line through the point."""
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[: size[0], : size[1]]
    return (xs - point[0]) * np.cos(angle) + (ys - point[1]) * np.sin(angle) > 0


def bend(mask: np.ndarray, pixels: float, rng: np.random.Generator) -> np.ndarray:
    """Elastic deformation: smooth noise displaces the mask by about `pixels`.

    Source: Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks", ICDAR 2003.
    """
    height, width = mask.shape
    field = rng.normal(0, 1, (2, 6, 6)).astype(np.float32)
    dx, dy = (pixels * cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in field)
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    return cv2.remap(mask, xs + dx, ys + dy, interpolation=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def soften(mask: np.ndarray, unit: float, rng: np.random.Generator, strength: Strength) -> np.ndarray:
    """Two blurs with a cut between them: where the first is wider the mask shrinks, else it grows. (H, W) in [0, 1]."""
    if rng.random() < strength.hard or not mask.any():
        return mask
    first, second = rng.uniform(0.5, max(0.5, strength.feather / 2), 2) * unit
    core = cv2.GaussianBlur(mask, (0, 0), first)
    core = np.where(core >= 0.99 * core.max(), 1, 0).astype(np.float32)
    soft = cv2.GaussianBlur(core, (0, 0), second)
    return np.clip(soft / soft.max(), 0, 1)
