"""JPEG, as images meet it on their way."""

from __future__ import annotations

import cv2
import numpy as np


def jpeg(image: np.ndarray, *, quality: int) -> np.ndarray:
    """The image after JPEG at this quality (chroma at half resolution, as cameras and sites store it)."""
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ValueError(f"an image of shape {image.shape} could not be encoded as JPEG")
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
