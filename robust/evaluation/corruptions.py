"""What happens to a video that is shared without any ill will: 12 corruptions at 5 severities, applied to face crops.

A corruption is applied to the stored crop, before it is resized to the model's input: it happens to the video, not to
what a network is given. Lengths are for a crop REFERENCE_SIDE pixels wide and scale with the crop, so that a severity
means the same for small and large faces; JPEG and H.264 work on the pixels as they are.

Sources: H&D is Hendrycks & Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (the values of ImageNet-C); DF is Jiang et al. 2020, "DeeperForensics-1.0" (its distortions at 5 levels).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from robust.data.h264 import decode_h264, encode_h264
from robust.data.images import jpeg
from robust.evaluation.item import Item

REFERENCE_SIDE = 224
"""H&D's images have so many pixels a side."""
SEVERITIES = (1, 2, 3, 4, 5)
CLIP_FPS = 25
MOTION_RADIUS = {3: 10, 5: 15, 8: 15, 12: 15, 15: 20}
"""Length of H&D's motion kernel at each of its standard deviations, pixels."""


@dataclasses.dataclass(frozen=True)
class Corruption(Item):
    """A corruption at one severity; `amount` is the parameter that KINDS lists for it, so a new table is a new name."""

    name: str
    severity: int
    amount: float


CLEAN = Corruption("clean", 0, 0)
"""No corruption: what the others are compared with."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """One corruption: what it does to a crop, and its amount at severities 1 to 5.

    Args:
        apply: apply(image, amount, draws) -> image, both (H, W, 3) uint8; None: H.264, which takes a clip.
    """

    title: str
    unit: str
    amounts: tuple[float, ...]
    source: str
    apply: Callable | None


@dataclasses.dataclass(frozen=True)
class Draws:
    """The chance in a corruption, from generators of its own.

    Args:
        crop: a new one for every crop: sensor noise, the way a hand shakes.
        video: one for all crops of a video: the direction in which its colours are off.
    """

    crop: np.random.Generator
    video: np.random.Generator

    def sign(self) -> int:
        """-1 or 1, the same for all crops of a video."""
        return 1 if self.video.random() < 0.5 else -1


# ---------------------------------------------------------------------------------------------------- the transforms


def _jpeg(image: np.ndarray, quality: float, draws: Draws) -> np.ndarray:
    return jpeg(image, quality=int(quality))


def _blur(image: np.ndarray, sigma: float, draws: Draws) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma * _scale(image))


def _motion_blur(image: np.ndarray, sigma: float, draws: Draws) -> np.ndarray:
    """Half a Gaussian along a line, as the shutter of a moving camera leaves it; at most 45 degrees off the horizontal."""
    radius = max(1, round(MOTION_RADIUS[sigma] * _scale(image)))
    along = np.arange(-radius, radius + 1)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    kernel[radius] = np.where(along >= 0, np.exp(-(along**2) / (2 * (sigma * _scale(image)) ** 2)), 0)
    turn = cv2.getRotationMatrix2D((radius, radius), draws.crop.uniform(-45, 45), 1)
    kernel = cv2.warpAffine(kernel, turn, kernel.shape[::-1])
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def _noise(image: np.ndarray, variance: float, draws: Draws) -> np.ndarray:
    return _to_uint8(_floats(image) + draws.crop.normal(0, variance**0.5, image.shape))


def _resize(image: np.ndarray, share: float, draws: Draws) -> np.ndarray:
    return cv2.resize(_smaller(image, share), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)


def _pixelate(image: np.ndarray, share: float, draws: Draws) -> np.ndarray:
    return cv2.resize(_smaller(image, share), image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)  # the other is off by half a pixel


def _smaller(image: np.ndarray, share: float) -> np.ndarray:
    size = [max(1, round(side * share)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _brightness(image: np.ndarray, amount: float, draws: Draws) -> np.ndarray:
    hsv = cv2.cvtColor(np.float32(_floats(image)), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + amount, 0, 1)
    return _to_uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _contrast(image: np.ndarray, factor: float, draws: Draws) -> np.ndarray:
    pixels = _floats(image)
    mean = pixels.mean(axis=(0, 1))
    return _to_uint8(mean + factor * (pixels - mean))


def _saturation(image: np.ndarray, factor: float, draws: Draws) -> np.ndarray:
    grey = cv2.cvtColor(np.float32(_floats(image)), cv2.COLOR_RGB2GRAY)[..., None]
    return _to_uint8(grey + factor * (_floats(image) - grey))


def _colour_cast(image: np.ndarray, amount: float, draws: Draws) -> np.ndarray:
    """Red up and blue down, or the other way round: a white balance that is off towards warm or cold."""
    shift = amount * draws.sign()
    return _to_uint8(_floats(image) * [1 + shift, 1, 1 - shift])


def _gamma(image: np.ndarray, exponent: float, draws: Draws) -> np.ndarray:
    return _to_uint8(_floats(image) ** (exponent ** draws.sign()))


def _scale(image: np.ndarray) -> float:
    return max(image.shape[:2]) / REFERENCE_SIDE


def _floats(image: np.ndarray) -> np.ndarray:
    return image / 255.0


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.uint8(np.rint(np.clip(pixels, 0, 1) * 255))


KINDS: dict[str, Kind] = {
    "jpeg": Kind("JPEG", "quality, 1-100", (25, 18, 15, 10, 7), "H&D", _jpeg),
    "blur": Kind("Gaussian blur", f"sigma, pixels of {REFERENCE_SIDE}", (1, 2, 3, 4, 6), "H&D", _blur),
    "noise": Kind("Gaussian noise", "variance, pixels in 0-1", (0.001, 0.002, 0.005, 0.01, 0.05), "DF", _noise),
    "resize": Kind("Smaller and back", "share of the side", (2 / 3, 1 / 2, 1 / 3, 1 / 4, 2 / 9),
                   "1080p as 720 to 240p", _resize),
    "h264": Kind("H.264", "CRF of x264", (30, 32, 35, 38, 40), "DF", None),
    "brightness": Kind("Brightness", "added to V of HSV, 0-1", (0.1, 0.2, 0.3, 0.4, 0.5), "H&D", _brightness),
    "contrast": Kind("Contrast", "factor around the mean", (0.4, 0.3, 0.2, 0.1, 0.05), "H&D", _contrast),
    "saturation": Kind("Saturation", "factor around grey", (0.4, 0.3, 0.2, 0.1, 0.0), "DF", _saturation),
    "pixelation": Kind("Pixelation", "share of the side", (0.6, 0.5, 0.4, 0.3, 0.25), "H&D", _pixelate),
    "motion_blur": Kind("Motion blur", f"sigma, pixels of {REFERENCE_SIDE}", (3, 5, 8, 12, 15), "H&D", _motion_blur),
    "colour_cast": Kind("Colour cast", "gain of red, loss of blue, or reverse", (0.05, 0.1, 0.15, 0.2, 0.3), "ours", _colour_cast),
    "gamma": Kind("Gamma", "exponent, or one over it", (1.2, 1.5, 2.0, 2.5, 3.0), "ours", _gamma),
}


# ---------------------------------------------------------------------------------------------------- the grid


def grid(severities: Sequence[int]) -> list[Corruption]:
    """The crops as they are, then every corruption at each of these severities, in order."""
    ordered = sorted(set(severities))
    return [CLEAN] + [Corruption(name, severity, kind.amounts[severity - 1]) for name, kind in KINDS.items() for severity in ordered]


def corrupt(
    images: Sequence[np.ndarray], video_ids: Sequence[str], frame_indices: Sequence[int], corruption: Corruption, *, seed: int
) -> list[np.ndarray]:
    """The crops after one corruption; each depends on its video and frame alone, but for H.264, which takes a video's crops as a clip.

    Args:
        images: n crops (H, W, 3) uint8 RGB of any sizes, ordered by video and frame.
        video_ids, frame_indices: of each crop.
        seed: of the run.
    Returns:
        n crops of the same sizes.
    """
    if corruption == CLEAN:
        return list(images)
    apply = KINDS[corruption.name].apply
    if apply is None:
        return _as_clips(images, video_ids, crf=int(corruption.amount))
    return [apply(image, corruption.amount, _draws(seed, video_id, frame, corruption))
            for image, video_id, frame in zip(images, video_ids, frame_indices, strict=True)]


def _draws(seed: int, video_id: str, frame: int, corruption: Corruption) -> Draws:
    return Draws(crop=_generator(seed, video_id, int(frame), corruption.name, corruption.severity),
                 video=_generator(seed, video_id, corruption.name))


def _generator(*facts) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(repr(facts).encode()).digest()))


def _as_clips(images: Sequence[np.ndarray], video_ids: Sequence[str], *, crf: int) -> list[np.ndarray]:
    """Each video's crops encoded as one clip, one after another, and decoded.

    Crops of one video differ by some pixels in size: all get the largest one's by repeating their edge pixels at the right
    and at the bottom, and are cut back afterwards.
    """
    coded: list[np.ndarray] = [None] * len(images)
    for video_id in dict.fromkeys(video_ids):
        places = [place for place, other in enumerate(video_ids) if other == video_id]
        height, width = (_even(max(images[place].shape[axis] for place in places)) for axis in (0, 1))
        frames = [cv2.copyMakeBorder(images[place], 0, height - images[place].shape[0], 0, width - images[place].shape[1],
                                     cv2.BORDER_REPLICATE) for place in places]
        for place, frame in zip(places, decode_h264(encode_h264(np.stack(frames), fps=CLIP_FPS, crf=crf)), strict=True):
            coded[place] = frame[:images[place].shape[0], :images[place].shape[1]]
    return coded


def _even(pixels: int) -> int:
    return pixels + pixels % 2
