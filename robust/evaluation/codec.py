"""Does an attack survive being shared? Faces attacked in their frames, which are encoded, decoded, searched for faces and scored.

The attack is made for the frame as it is: its gradient goes through the scaling of the crop, and it knows nothing of the codec.
What is encoded are the sampled frames of a video, one after another, as a clip; what finds the faces again are the
extraction's own detector and cut. The same frames without a perturbation go the same way, so that what
the codec does to the detector is not counted as the attack's success.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import nn

from robust.attacks.checks import require_eval_mode
from robust.data.crop import crop_face, crop_window, shrink
from robust.data.faces import FaceDetector
from robust.data.h264 import decode_h264, encode_h264
from robust.data.images import jpeg
from robust.data.inputs import resize, to_tensor
from robust.data.rows import VideoRow
from robust.data.tracking import overlap
from robust.evaluation.attack_block import Cell, logits, perturb
from robust.evaluation.item import Item

CLIP_FPS = 25
SAME_FACE = 0.3
"""A face found after sharing is the one that was cut out before if their boxes overlap by so much (intersection over union)."""


@dataclasses.dataclass(frozen=True)
class Channel:
    """How a video is shared: "lossless", "h264" at a CRF, or "jpeg", frame by frame, at a quality."""

    codec: str
    quality: int

    def transmit(self, frames: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 frames as they arrive."""
        if self.codec == "h264":
            height, width = frames.shape[1:3]
            even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            return decode_h264(encode_h264(even, fps=CLIP_FPS, crf=self.quality))[:, :height, :width]
        return np.stack([jpeg(frame, quality=self.quality) for frame in frames]) if self.codec == "jpeg" else frames


LOSSLESS = Channel("lossless", 0)


@dataclasses.dataclass(frozen=True)
class Sharing(Item):
    """One attack, and the ways in which its videos are shared."""

    cell: Cell
    channels: tuple[Channel, ...]


@dataclasses.dataclass(frozen=True)
class Footage:
    """The sampled frames of a video, and where its faces were cut out.

    Args:
        frames: (N, H, W, 3) uint8 RGB.
        indices: N numbers of the frames in their video.
        boxes: (N, 4) of the face, pixels of the frame.
    """

    row: VideoRow
    frames: np.ndarray
    indices: tuple[int, ...]
    boxes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Shared:
    """A frame after one channel; a logit is None where its face was not found again."""

    channel: Channel
    frame_index: int
    clean: float | None
    adversarial: float | None


class CutOut(nn.Module):
    """The model on the part of a frame that is cut out: made square and scaled to the input size inside, so that a gradient reaches the frame.

    Both are linear: a matrix for the rows and one for the columns, made by the very functions that cut and scale crops.
    """

    def __init__(self, model: nn.Module, height: int, width: int, *, max_crop: int):
        super().__init__()
        shape = shrink(np.zeros((height, width, 1), np.float32), longer_side=max_crop).shape
        self.model = model
        for name, full, side in (("rows", height, shape[0]), ("columns", width, shape[1])):
            matrix = _scaling(max(shape[:2]), model.input_size) @ _squaring(side, max(shape[:2])) @ _scaling(full, side)
            self.register_buffer(name, torch.from_numpy(matrix.astype(np.float32)))
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, height, width) in [0, 1] -> (N,) logits."""
        return self.model(self.rows @ x @ self.columns.T)


def _scaling(before: int, after: int) -> np.ndarray:
    """(after, before), what OpenCV does to one side: area average when it shrinks, linear when it grows."""
    interpolation = cv2.INTER_AREA if after < before else cv2.INTER_LINEAR
    return cv2.resize(np.eye(before), (before, after), interpolation=interpolation)


def _squaring(before: int, after: int) -> np.ndarray:
    """(after, before), edge pixels repeated on both sides, as `inputs.resize_one` does."""
    return np.eye(before)[np.clip(np.arange(after) - (after - before) // 2, 0, before - 1)]


def share_video(
    model: nn.Module, footage: Footage, sharing: Sharing, detector: FaceDetector, config, *, seed: int, device: str
) -> list[Shared]:
    """One video through every channel, as it is and with its faces attacked.

    Args:
        model: in eval mode, on `device`.
        config: the ExtractConfig by which the faces were cut out, and by which they are cut out again.
        seed: of the attack's random starts.
    Returns:
        a Shared for each channel and frame.
    """
    require_eval_mode(model)
    attacked = np.stack([attack_frame(model, frame, box, footage.row.label, sharing.cell, config, seed=seed, device=device)
                         for frame, box in zip(footage.frames, footage.boxes, strict=True)])
    outcomes = []
    for channel in sharing.channels:
        clean, adversarial = (score_again(model, footage, channel.transmit(frames), detector, config, device=device)
                              for frames in (footage.frames, attacked))
        outcomes += [Shared(channel, index, clean.get(index), adversarial.get(index)) for index in footage.indices]
    return outcomes


def attack_frame(
    model: nn.Module, frame: np.ndarray, box, label: int, cell: Cell, config, *, seed: int, device: str
) -> np.ndarray:
    """The frame after an attack on what is cut out of it for the face box, at the frame's own resolution, rounded to 8 bits.

    Args:
        frame: (H, W, 3) uint8.
        box: of the face, from which the crop is cut with `config.margin`.
    """
    left, top, right, bottom = crop_window(box, height=frame.shape[0], width=frame.shape[1], margin=config.margin)
    x = to_tensor(frame[None, top:bottom, left:right]).to(device)
    whole = CutOut(model, bottom - top, right - left, max_crop=config.max_crop).to(device)
    x_adv = perturb(whole, x, torch.tensor([label], device=device), cell, seed=seed)
    changed = frame.copy()
    changed[top:bottom, left:right] = (255 * x_adv[0]).round().byte().permute(1, 2, 0).cpu().numpy()
    return changed


def score_again(
    model: nn.Module, footage: Footage, frames: np.ndarray, detector: FaceDetector, config, *, device: str
) -> Mapping[int, float]:
    """Logits of the faces found in these frames by frame index; none for a frame whose face is not found, or is another's.

    Each frame by itself: the few frames here are too far apart for tracks, and who is meant is known.
    """
    found = {}
    for index, frame, box, faces in zip(footage.indices, frames, footage.boxes, detector.detect(frames), strict=True):
        best = max(faces, key=lambda face: overlap(face.box, box), default=None)
        if best is not None and overlap(best.box, box) >= SAME_FACE:
            found[index] = shrink(crop_face(frame, best.box, margin=config.margin), longer_side=config.max_crop)
    if not found:
        return {}
    x = to_tensor(resize(list(found.values()), model.input_size)).to(device)
    return dict(zip(found, logits(model, x).tolist(), strict=True))
