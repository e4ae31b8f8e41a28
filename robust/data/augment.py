"""Augmentation of face crops, by albumentations, at the model's input size so that an artefact's scale is fixed.

weak:   JPEG compression, Gaussian noise, Gaussian blur, horizontal flip (the reference's, in the units of albumentations 2)
geometric: weak, and shift, scale and rotation
strong: geometric, and colour and grey (the reference's second set); it hides the colour seams of a face swap as well
heavy:  strong, on crops whose shape, light and sharpness were changed and of which a part may be covered: for few people
Each crop has its own seed, so that the result does not depend on the worker or the order.
"""
from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np

from robust.config import AugmentConfig

Augmentation = Callable[[np.ndarray, int], np.ndarray]


def build_augmentation(config: AugmentConfig) -> Augmentation | None:
    """A function of (uint8 RGB (H, W, 3), seed) to the same shape and dtype, for any number of threads; None for level none."""
    if config.level == "none":
        return None
    own = threading.local()  # a pipeline keeps its random state in itself

    def augment(image: np.ndarray, seed: int) -> np.ndarray:
        if not hasattr(own, "pipeline"):
            own.pipeline = _pipeline(config)
        own.pipeline.set_random_seed(seed % 2**32)
        return own.pipeline(image=image)["image"]

    return augment


def _pipeline(config: AugmentConfig):
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for its newest version at import
    import albumentations as A

    low, high = (value / 255 for value in config.noise_std)
    weak = [
        A.ImageCompression(quality_range=config.jpeg_quality, compression_type="jpeg", p=config.jpeg_probability),
        A.GaussNoise(std_range=(low, high), p=config.noise_probability),
        A.GaussianBlur(blur_limit=(3, config.blur_kernel), sigma_limit=(0.5, 1.1), p=config.blur_probability),
        A.HorizontalFlip(p=config.flip_probability),
    ]
    colour = A.OneOf([A.RandomBrightnessContrast(), A.FancyPCA(), A.HueSaturationValue()], p=0.7)
    geometry = A.Affine(scale=(0.8, 1.2), translate_percent=(-0.1, 0.1), rotate=(-10, 10), border_mode=0, p=0.5)
    shape = A.OneOf([A.GridDistortion(num_steps=4, distort_limit=0.25), A.Perspective(scale=(0.03, 0.1)),
                     A.ElasticTransform(alpha=40, sigma=8)], p=0.7)
    light = [A.RandomGamma(gamma_limit=(60, 160), p=0.5), A.RandomBrightnessContrast(0.3, 0.3, p=0.5),
             A.RGBShift(25, 25, 25, p=0.4)]
    soft = A.OneOf([A.Downscale(scale_range=(0.5, 0.9)), A.GaussianBlur(blur_limit=(3, 5))], p=0.3)
    covered = A.CoarseDropout(num_holes_range=(1, 3), hole_height_range=(0.1, 0.35), hole_width_range=(0.1, 0.35), p=0.5)
    strong = [*weak, colour, A.ToGray(p=0.2), geometry]
    levels = {"weak": weak, "geometric": [*weak, geometry], "strong": strong, "heavy": [shape, *light, soft, covered, *strong]}
    return A.Compose(levels[config.level])
