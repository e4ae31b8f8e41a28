"""Face swaps of three kinds: a source face, aligned by five landmarks, put into the frames of a target.

    coarse   hard edge, no colour match
    blended  colour matched inside the mask (mean and deviation in Lab) and a feathered edge
    fine     Poisson blend of the colour-matched face, its sharpness matched to the target's own

Compression and noise belong to the whole video and are matched where it is written (robust/data/demo.py).
Images are uint8 RGB (H, W, 3); landmarks are (5, 2) pixels x, y: left eye, right eye, nose, left and right corner of
the mouth, left and right as seen in the picture (the order of MTCNN).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from robust.data.poisson import poisson_blend

# A frontal face in a square of 112 units: the usual alignment template of face recognition.
# Source: Deng et al., "ArcFace", CVPR 2019 (its five reference points).
TEMPLATE = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]], np.float32)
# The face from the eyebrows to the chin in the units of TEMPLATE, clockwise from the left eyebrow.
OUTLINE = np.array(
    [
        [24, 42], [33, 36], [45, 35], [56, 36.5], [67, 35], [79, 36], [88, 42],
        [91, 58], [90, 76], [85, 92], [76, 104], [66, 110.5], [56, 112.5],
        [46, 110.5], [36, 104], [27, 92], [22, 76], [21, 58],
    ],
    np.float32,
)  # fmt: skip
NOSE = 2
EYES_AND_MOUTH = [0, 1, 3, 4]
SUBPIXEL_BITS = 4
MAX_POISSON_STEP = 40  # of 255


@dataclass(frozen=True)
class FaceShape:
    """The mask of one fake in template units: the outline, stretched and moved a little."""

    outline: np.ndarray
    feather: float  # width of the soft edge, template units

    @classmethod
    def jittered(cls, rng: np.random.Generator) -> FaceShape:
        """Up to 7 % wider or narrower, 6 % longer or shorter, 2 units aside, and uneven by a unit."""
        centre = OUTLINE.mean(axis=0)
        stretch = 1 + rng.uniform(-1, 1, 2) * (0.07, 0.06)
        moved = (OUTLINE - centre) * stretch + centre + rng.uniform(-2, 2, 2)
        uneven = rng.normal(0, 1, OUTLINE.shape)
        uneven = (np.roll(uneven, 1, 0) + uneven + np.roll(uneven, -1, 0)) / 3
        return cls((moved + uneven).astype(np.float32), float(rng.uniform(5, 8)))


@dataclass(frozen=True)
class AlignedFace:
    """A source face warped into a target frame.

    frame: (H, W, 3) uint8, the target. face: the same shape, the warped source. mask: (H, W) uint8, 0 or 255.
    feather: width of the soft edge in pixels. sharpness: factor for `match_sharpness`, see there.
    """

    frame: np.ndarray
    face: np.ndarray
    mask: np.ndarray
    feather: float
    sharpness: float


def swap_faces(
    frames: np.ndarray,
    landmarks: np.ndarray,
    source_frames: np.ndarray,
    source_landmarks: np.ndarray,
    *,
    method: str,
    shape: FaceShape,
) -> np.ndarray:
    """Puts the source's face into every frame of the target.

    Args:
        frames: (N, H, W, 3) uint8 RGB, the target.
        landmarks: (N, 5, 2) its landmarks.
        source_frames: (M, h, w, 3) uint8 RGB; frame i takes source i modulo M, so one photograph is M = 1.
        source_landmarks: (M, 5, 2).
        method: coarse, blended or fine.
        shape: the mask.
    Returns:
        (N, H, W, 3) uint8.
    """
    aligned = []
    for i, (frame, points) in enumerate(zip(frames, landmarks, strict=True)):
        turn = i % len(source_frames)
        aligned.append(align_face(frame, points, source_frames[turn], source_landmarks[turn], shape))
    # One factor for the whole video: a factor a frame would flicker.
    sharpness = float(np.median([sharpness_ratio(face) for face in aligned])) if method == "fine" else 1.0
    blend = METHODS[method]
    return np.stack([blend(AlignedFace(f.frame, f.face, f.mask, f.feather, sharpness)) for f in aligned])


def align_face(frame, landmarks, source, source_landmarks, shape: FaceShape) -> AlignedFace:
    """Warps the source by the affine map that takes its landmarks nearest to the target's, and places the mask.

    The mask is what lies inside the outline of both faces, so that neither hair nor background of a turned source comes
    along.
    """
    height, width = frame.shape[:2]
    to_target = fit_affine(source_landmarks, landmarks)
    face = cv2.warpAffine(source, to_target, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    of_target = draw_outline(place_outline(shape.outline, landmarks), (height, width))
    of_source = draw_outline(transform(to_target, place_outline(shape.outline, source_landmarks)), (height, width))
    shown = cv2.warpAffine(np.full(source.shape[:2], 255, np.uint8), to_target, (width, height))
    pictured = cv2.erode(np.where(shown == 255, 255, 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    mask = cv2.bitwise_and(cv2.bitwise_and(of_target, of_source), pictured)
    return AlignedFace(frame, face, mask, shape.feather * face_unit(landmarks), 1.0)


def place_outline(outline: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(K, 2) the outline in the picture, with the side that a turned head hides drawn in.

    Eyes and mouth give the map; how far the nose is off its place in it tells the turn. A cheek lies about twice as far
    behind the eyes as the nose is before them, so its edge moves twice as far, the other way.
    """
    to_picture = fit_affine(TEMPLATE[EYES_AND_MOUTH], landmarks[EYES_AND_MOUTH])
    nose = transform(cv2.invertAffineTransform(to_picture), landmarks[NOSE : NOSE + 1])[0]
    turn = float(np.clip(nose[0] - TEMPLATE[NOSE, 0], -13, 13))
    aside = outline[:, 0] - TEMPLATE[NOSE, 0]
    beyond_eyes = np.clip((np.abs(aside) - 17.6) / 17.4, 0, 1)
    hidden = np.where(np.sign(aside) == np.sign(turn), 2.0, 0.5)  # the near cheek shows more, but then comes the ear
    return transform(to_picture, outline - np.stack([hidden * turn * beyond_eyes, np.zeros_like(aside)], axis=1))


def face_unit(landmarks: np.ndarray) -> float:
    """Pixels of one unit of TEMPLATE: the scale of a face, whatever its turn."""
    centred = landmarks - landmarks.mean(0)
    template = TEMPLATE - TEMPLATE.mean(0)
    return float(np.sqrt((centred**2).sum() / (template**2).sum()))


def fit_affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) affine map from source to target points, both (K, 2), nearest in the least-squares sense."""
    points = np.hstack([source, np.ones((len(source), 1))]).astype(np.float64)
    solution, *_ = np.linalg.lstsq(points, np.asarray(target, np.float64), rcond=None)
    return solution.T


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(K, 2) points under a (2, 3) map."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def draw_outline(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 mask, 255 inside the polygon."""
    mask = np.zeros(size, np.uint8)
    fixed_point = np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(mask, [fixed_point], 255, lineType=cv2.LINE_8, shift=SUBPIXEL_BITS)
    return mask


def coarse(aligned: AlignedFace) -> np.ndarray:
    """The warped face as it is, cut at the edge of the mask."""
    return np.where(aligned.mask[..., None] > 0, aligned.face, aligned.frame)


def blended(aligned: AlignedFace) -> np.ndarray:
    """Colour matched, and faded out inside the edge of the mask."""
    face = match_colour(aligned.face, aligned.frame, aligned.mask)
    return mix(face, aligned.frame, feathered(aligned.mask, aligned.feather))


def fine(aligned: AlignedFace) -> np.ndarray:
    """Poisson blend of the face with matched colour and sharpness.

    Source: Perez, Gangnet & Blake, "Poisson Image Editing", SIGGRAPH 2003.
    """
    face = match_colour(aligned.face, aligned.frame, aligned.mask)
    face = match_sharpness(face, aligned.sharpness)
    mask = keep_off_border(aligned.mask)
    cloned = to_uint8(poisson_blend(face, aligned.frame, mask, max_step=MAX_POISSON_STEP))
    return mix(cloned, aligned.frame, feathered(mask, aligned.feather / 2))


METHODS: dict[str, Callable[[AlignedFace], np.ndarray]] = {"coarse": coarse, "blended": blended, "fine": fine}


def match_colour(face: np.ndarray, frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The face with the mean and deviation that the frame has inside the mask, per channel of Lab.

    Source: Reinhard et al., "Color Transfer between Images", IEEE CG&A 2001.
    """
    inside = mask > 0
    if not inside.any():
        return face
    source, target = (cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for image in (face, frame))
    mean, std = source[inside].mean(0), source[inside].std(0) + 1e-3
    target_mean, target_std = target[inside].mean(0), target[inside].std(0)
    scale = np.clip(target_std / std, 0.7, 1.4)
    matched = cv2.cvtColor(((source - mean) * scale + target_mean).astype(np.float32), cv2.COLOR_LAB2RGB)
    return to_uint8(matched * 255)


def sharpness_ratio(aligned: AlignedFace) -> float:
    """How much more fine detail the target has than the source, inside the mask: ratio of high-pass deviations."""
    core = cv2.erode(aligned.mask, np.ones((5, 5), np.uint8)) > 0
    if core.sum() < 64:
        return 1.0
    return (detail(aligned.frame)[core].std() + 0.2) / (detail(aligned.face)[core].std() + 0.2)


def match_sharpness(face: np.ndarray, ratio: float) -> np.ndarray:
    """Weakens (ratio < 1) or strengthens the detail of the face, at most three and two times."""
    ratio = float(np.clip(ratio, 1 / 3, 2))
    smooth = cv2.GaussianBlur(face.astype(np.float32), (0, 0), 1.2)
    return to_uint8(smooth + ratio * (face - smooth))


def detail(image: np.ndarray) -> np.ndarray:
    """(H, W) luma without what a blur of 1.2 pixels leaves."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return luma - cv2.GaussianBlur(luma, (0, 0), 1.2)


def feathered(mask: np.ndarray, width: float) -> np.ndarray:
    """(H, W) float32 weights: 0 at and outside the edge of the mask, 1 about `width` pixels inside."""
    radius = max(1, round(width / 2))
    core = cv2.erode(keep_off_border(mask), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2))
    return np.where(mask > 0, cv2.GaussianBlur(core, (0, 0), radius / 2).astype(np.float32) / 255, 0)


def keep_off_border(mask: np.ndarray) -> np.ndarray:
    """The mask without the outermost pixels of the frame, where a blend has nothing to lean on."""
    inner = np.zeros_like(mask)
    inner[2:-2, 2:-2] = mask[2:-2, 2:-2]
    return inner


def mix(face: np.ndarray, frame: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """weights * face + (1 - weights) * frame."""
    return to_uint8(frame + weights[..., None] * (face.astype(np.float32) - frame))


def to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
