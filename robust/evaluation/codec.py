"""Does an attack survive being shared? Adversarial faces put back into their frames, encoded, decoded, found again, scored.

What is encoded are the sampled frames of a video, one after another, as a clip; what finds the faces again are the
extraction's own detector and cut. The same frames without a perturbation go the same way, so that what
the codec does to the detector is not counted as the attack's success.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import nn

from robust.attacks.checks import require_eval_mode
from robust.data.crop import crop_face, crop_window, shrink
from robust.data.faces import FaceDetector
from robust.data.h264 import decode_h264, encode_h264
from robust.data.inputs import resize, to_tensor
from robust.data.rows import VideoRow
from robust.data.tracking import overlap
from robust.evaluation.attack_block import Cell, logits, perturb
from robust.evaluation.corruptions import jpeg

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
class Sharing:
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


def share_video(
    model: nn.Module, footage: Footage, images: Sequence[np.ndarray], sharing: Sharing, detector: FaceDetector, config, *, seed: int, device: str
) -> list[Shared]:
    """One video through every channel, as it is and with its faces attacked.

    Args:
        model: in eval mode, on `device`.
        images: N stored crops of the footage's faces, (H, W, 3) uint8.
        config: the ExtractConfig by which they were cut out, and by which they are cut out again.
        seed: of the attack's random starts.
    Returns:
        a Shared for each channel and frame.
    """
    require_eval_mode(model)
    deltas = perturbations(model, images, footage.row.label, sharing.cell, seed=seed, device=device)
    attacked = np.stack([paste(frame, box, delta, margin=config.margin)
                         for frame, box, delta in zip(footage.frames, footage.boxes, deltas, strict=True)])
    outcomes = []
    for channel in sharing.channels:
        clean, adversarial = (score_again(model, footage, channel.transmit(frames), detector, config, device=device)
                              for frames in (footage.frames, attacked))
        outcomes += [Shared(channel, index, clean.get(index), adversarial.get(index)) for index in footage.indices]
    return outcomes


def perturbations(
    model: nn.Module, images: Sequence[np.ndarray], label: int, cell: Cell, *, seed: int, device: str
) -> np.ndarray:
    """(n, size, size, 3) float32, what the attack adds to crops at the model's input size; in [0, 1] pixel units."""
    x = to_tensor(resize(images, model.input_size)).to(device, memory_format=torch.channels_last)
    labels = torch.full((len(x),), label, device=device)
    delta = perturb(model, x, labels, cell, seed=seed) - x
    return delta.permute(0, 2, 3, 1).float().cpu().numpy()


def paste(frame: np.ndarray, box, delta: np.ndarray, *, margin: float) -> np.ndarray:
    """The frame with a perturbation of its face crop added where the crop was cut out, rounded to 8 bits.

    The inverse of `crop_face` and `inputs.resize_one`: scaled to the cut-out part, without the rows or columns that made
    it square.

    Args:
        frame: (H, W, 3) uint8.
        box: of the face, from which the crop was cut with `margin`.
        delta: (size, size, 3) float, [0, 1] pixel units, at the model's input size.
    """
    left, top, right, bottom = crop_window(box, height=frame.shape[0], width=frame.shape[1], margin=margin)
    height, width = bottom - top, right - left
    side = max(height, width)
    scaled = cv2.resize(delta, (side, side), interpolation=cv2.INTER_AREA if side < len(delta) else cv2.INTER_LINEAR)
    above, before = (side - height) // 2, (side - width) // 2
    changed = frame.copy()
    part = frame[top:bottom, left:right] + 255 * scaled[above:above + height, before:before + width]
    changed[top:bottom, left:right] = np.rint(np.clip(part, 0, 255))
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
