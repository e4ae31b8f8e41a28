"""Random transformations between the attacker's image and the model: what a file goes through before it is looked at.

Each belongs to an image: its strength is drawn from the image's own random numbers (noise.py), so it is the same in any
batch. Strengths reach from nothing to the setting; half of all views skip a transformation altogether.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from robust.attacks.geometry import per_image
from robust.attacks.noise import ImageNoise
from robust.attacks.separable import apply_separable, blur_matrix, down_up_matrix

_FIRST_STREAM = 1 << 20
"""Keeps clear of the streams of random starts, which count from 0."""


@dataclass(frozen=True)
class Draw:
    """The random numbers of one view of each image.

    Args:
        noise: of the clean images, (N, ...).
        sample, samples: this is view number `sample` of `samples`.
        kind: which transformation of the chain asks.
    """

    noise: ImageNoise
    sample: int
    samples: int
    kind: int = 0

    def strength(self) -> Tensor:
        """(N,) in [0, 1): 0 for half of the views, else uniform; spread evenly over the views (stratified)."""
        turn = self.noise.fraction(self._stream(0))
        place = self.noise.fraction(self._stream(1 + self.sample))
        slot = (self.sample + (turn * self.samples).floor()) % self.samples
        return (2 * (slot + place) / self.samples - 1).clamp_min(0)

    def normal(self) -> Tensor:
        """(N, ...) standard normal numbers."""
        return self.noise.normal(self._stream(self.sample))

    def _stream(self, number: int) -> int:
        return _FIRST_STREAM + 64 * number + self.kind


Transformation = Callable[[Tensor, Draw], Tensor]
"""(N, 3, H, W) images in [0, 1] and a draw to such images, with a gradient."""


@dataclass(frozen=True)
class Resize:
    """Down and up again, with the smoothing of a good resizer.

    Args:
        smallest: share of the side in (0, 1] at full strength.
    """

    smallest: float = 0.5

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        share = 1 - (1 - self.smallest) * draw.strength()
        rows, columns = (down_up_matrix(side, (share * side).round().clamp_min(1)) for side in x.shape[2:])
        return apply_separable(x, rows, columns)


@dataclass(frozen=True)
class Blur:
    """Gaussian blur.

    Args:
        sigma: in pixels, at full strength.
    """

    sigma: float = 1.5

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        sigma = self.sigma * draw.strength()
        return apply_separable(x, blur_matrix(x.shape[2], sigma), blur_matrix(x.shape[3], sigma))


@dataclass(frozen=True)
class Noise:
    """Gaussian noise, clipped to [0, 1].

    Args:
        deviation: standard deviation in [0, 1] pixel units, at full strength.
    """

    deviation: float = 4 / 255

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        strength = per_image(draw.strength(), x)
        return (x + self.deviation * (strength * draw.normal()).to(x.dtype)).clamp(0, 1)


@dataclass(frozen=True)
class Jpeg:
    """A real JPEG codec (OpenCV's, 4:2:0) in the forward pass, the identity in the backward one.

    Args:
        best, worst: quality from which and to which strength leads.
    """

    best: int = 95
    worst: int = 40

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        strengths = draw.strength().tolist()
        quality = [round(self.best - (self.best - self.worst) * s) if s > 0 else None for s in strengths]
        return straight_through(lambda images: jpeg(images, quality), x)


@dataclass(frozen=True)
class StraightThrough:
    """A fixed step without a useful gradient, taken as it is on the way in and as the identity on the way back (BPDA).

    Args:
        function: (N, 3, H, W) images to images of that shape, e.g. a purification or the rounding to 8 bits.
    Source: Athalye et al. 2018 (arXiv 1802.00420), section 4.1.
    """

    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        return straight_through(self.function, x)


def straight_through(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), exactly, with the gradient of the identity."""
    with torch.no_grad():
        value = function(x.detach())
    return _Identity.apply(x, value)


def jpeg(x: Tensor, quality: Sequence[int | None]) -> Tensor:
    """(N, 3, H, W) images after JPEG, rounded to 8 bits first, each at its own quality; None leaves one as it is."""
    result = x.detach().clone()
    pixels = (result.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for index, (image, level) in enumerate(zip(pixels, quality, strict=True)):
        if level is not None:
            _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, level])
            decoded = np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1])
            result[index] = torch.from_numpy(decoded).permute(2, 0, 1).to(result) / 255
    return result


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(context, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(context, gradient: Tensor):
        return gradient, None


TRANSFORMATIONS: tuple[Transformation, ...] = (Resize(), Blur(), Noise(), Jpeg())
"""The way of a picture that is shared: made smaller, smoothed, filmed with noise, compressed."""
