"""The sampled frames of a verdict for a page: small JPEGs as data URIs, and the boxes in their pixels."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from robust.contact_strip import PHOTOGRAPH_SIDE, scaled_box
from robust.data.crop import shrink
from robust.detection import Examination

FRAME_SIDE = 360
"""Longer side of a video's frame, pixels; that of a photograph is PHOTOGRAPH_SIDE."""
QUALITY = 80


def frame_pictures(examination: Examination) -> list[dict]:
    """One a decoded frame: image (data URI), width, height, box (x0, y0, x1, y1 or None), other_boxes."""
    verdict, frames = examination.verdict, examination.pictures
    if len(frames) == 0:
        return []
    small = shrink(frames, longer_side=FRAME_SIDE if len(frames) > 1 else PHOTOGRAPH_SIDE)
    scale, (height, width) = max(small.shape[1:3]) / max(frames.shape[1:3]), small.shape[1:3]
    place = dict(scale=scale, width=width, height=height)
    return [
        {"frame_index": frame.frame_index, "image": _data_uri(picture), "width": width, "height": height,
         "box": None if frame.box is None else _rounded(scaled_box(frame.box, **place)),
         "other_boxes": [_rounded(scaled_box(box, **place)) for box in others]}
        for picture, frame, others in zip(small, verdict.frames, examination.other_boxes, strict=True)]


def _rounded(box: tuple[float, ...]) -> list[float]:
    return [round(float(value), 1) for value in box]


def _data_uri(picture: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
