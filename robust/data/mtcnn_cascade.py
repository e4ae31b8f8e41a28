"""MTCNN's cascade: three networks that look at ever fewer places, ever more closely.

Source: Zhang et al. 2016, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks". The networks and
their weights are facenet-pytorch's. Its own cascade spends two thirds of a CPU's time on averaging floats for the pyramid
and on pooling with the channels apart; here the pyramid is made of bytes, and channels lie together. All coordinates are pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.ops import batched_nms

WINDOW, STRIDE = 12, 2
"""Pixels a side that the first network looks at, and how far apart its places are."""
FACTOR = 0.709
"""From one level of the pyramid to the next: half the area."""
THRESHOLDS = 0.6, 0.7, 0.7
"""Least probability of a face after each network, facenet-pytorch's."""
CROPS = 24, 48
"""Pixels a side that the second and the third network look at."""
BATCH = 512
"""Candidates at a time, which bounds memory."""


class Cascade:
    """Faces of frames of one size.

    Args:
        proposer, refiner, outputter: P-Net, R-Net and O-Net, on `device`.
    """

    def __init__(self, proposer: nn.Module, refiner: nn.Module, outputter: nn.Module, device: torch.device):
        self.networks = [network.eval().to(device, memory_format=torch.channels_last) for network in (proposer, refiner, outputter)]
        self.device = device

    @torch.no_grad()
    def detect(self, frames: np.ndarray, *, smallest: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each of (N, H, W, 3) uint8 RGB frames: (K, 4) boxes, x0, y0, x1, y1, (K,) probabilities and (K, 5, 2) landmarks, surest first.

        Args:
            smallest: side of the smallest face, at least WINDOW.
        """
        boxes, owners = self._proposed(frames, smallest)
        boxes, _, owners, _ = self._looked_at(frames, boxes, owners, stage=1)
        boxes, scores, owners, points = self._looked_at(frames, _square(boxes), owners, stage=2)
        kept = _not_inside(boxes, scores, owners)
        boxes, scores, owners, points = (found[kept].cpu().numpy() for found in (boxes, scores, owners, points))
        return [(boxes[owners == number], scores[owners == number], points[owners == number]) for number in range(len(frames))]

    def _proposed(self, frames: np.ndarray, smallest: float) -> tuple[Tensor, Tensor]:
        """(M, 4) square boxes and whose they are, after the first network on every level of the pyramid."""
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device).permute(0, 3, 1, 2)  # channels lie together
        height, width = frames.shape[1:3]
        scale, found = WINDOW / smallest, []
        while min(height, width) * scale >= WINDOW:
            shift, probability = self.networks[0](_normal(_level(frames, pixels, int(height * scale + 1), int(width * scale + 1))))
            owner, row, column = (probability[:, 1] >= THRESHOLDS[0]).nonzero(as_tuple=True)
            score, shift = probability[owner, 1, row, column], shift[owner, :, row, column]
            corner = torch.stack([column, row], dim=1).float() * STRIDE
            box = torch.cat([((corner + 1) / scale).floor(), ((corner + WINDOW) / scale).floor()], dim=1)
            kept = batched_nms(box, score, owner, 0.5)
            found.append((box[kept], score[kept], owner[kept], shift[kept]))
            scale *= FACTOR
        if not found:
            return pixels.new_zeros(0, 4, dtype=torch.float32), pixels.new_zeros(0, dtype=torch.long)
        box, score, owner, shift = (torch.cat(one) for one in zip(*found))
        kept = batched_nms(box, score, owner, 0.7)
        box, shift = box[kept], shift[kept]
        return _square(box + shift * (box[:, 2:] - box[:, :2]).repeat(1, 2)), owner[kept]

    def _looked_at(self, frames: np.ndarray, boxes: Tensor, owners: Tensor, *, stage: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Those of the boxes that the stage's network takes for faces, moved as it says, and (K, 5, 2) landmarks where it tells them."""
        corners, height, width = boxes.cpu().numpy().astype(np.int64), *frames.shape[1:3]
        left, top = np.maximum(corners[:, :2], 1).T - 1
        right, bottom = np.minimum(corners[:, 2:], (width, height)).T
        seen = np.flatnonzero((right > left) & (bottom > top))
        side = CROPS[stage - 1]
        crops = [_crop(frames[owner, top[number]:bottom[number], left[number]:right[number]], side)
                 for number, owner in zip(seen, owners.cpu().numpy()[seen])]
        chosen = torch.from_numpy(seen).to(boxes.device)
        boxes, owners = boxes[chosen], owners[chosen]
        if not crops:
            return boxes, boxes.new_zeros(0), owners, boxes.new_zeros(0, 5, 2)
        pixels = torch.stack(crops).to(self.device).contiguous(memory_format=torch.channels_last)
        answers = [torch.cat(one) for one in zip(*(self.networks[stage](_normal(part)) for part in pixels.split(BATCH)))]
        score = answers[-1][:, 1]
        passed = (score > THRESHOLDS[stage]).nonzero()[:, 0]
        if stage == 1:
            passed = passed[batched_nms(boxes[passed], score[passed], owners[passed], 0.7)]
        boxes, score, owners = boxes[passed], score[passed], owners[passed]
        size = boxes[:, 2:] - boxes[:, :2] + 1
        points = boxes.new_zeros(len(boxes), 5, 2)
        if len(answers) == 3:
            points = torch.stack(answers[1][passed].split(5, dim=1), dim=2) * size[:, None] + boxes[:, None, :2] - 1
        return boxes + answers[0][passed] * size.repeat(1, 2), score, owners, points


def _level(frames: np.ndarray, pixels: Tensor, height: int, width: int) -> Tensor:
    """The frames made smaller by averaging areas: on a CPU as bytes, which is much faster than torch's averages of floats.

    Averages find large faces better than an antialiased linear filter: of 144 cut by an edge 36 in their place instead of 29, as many as facenet-pytorch's own way.
    """
    if pixels.device.type != "cpu":
        return interpolate(pixels.float(), size=(height, width), mode="area")
    small = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames])
    return torch.from_numpy(small).permute(0, 3, 1, 2)


def _crop(frame: np.ndarray, side: int) -> Tensor:
    """(3, side, side) uint8 of a part of a frame."""
    part = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
    return interpolate(part, size=(side, side), mode="bilinear", antialias=True)[0]


def _normal(pixels: Tensor) -> Tensor:
    return (pixels.float() - 127.5) / 128


def _square(boxes: Tensor) -> Tensor:
    """About the same middle, with the longer side."""
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True)
    return torch.cat([middle - side / 2, middle + side / 2], dim=1)


def _not_inside(boxes: Tensor, scores: Tensor, owners: Tensor, most: float = 0.7) -> Tensor:
    """Which boxes stay, surest first, where a less sure one that shares `most` of the smaller area with a surer one of its frame goes."""
    order, kept = scores.argsort(descending=True, stable=True).tolist(), []
    for number in order:
        mine = [other for other in kept if owners[other] == owners[number]]
        if not mine:
            kept.append(number)
            continue
        shared = (torch.minimum(boxes[mine, 2:], boxes[number, 2:]) - torch.maximum(boxes[mine, :2], boxes[number, :2]) + 1).clamp(min=0).prod(1)
        area = (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
        if not (shared > most * torch.minimum(area[mine], area[number])).any():
            kept.append(number)
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)
