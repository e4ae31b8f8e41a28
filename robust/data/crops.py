"""Face crops of one split, ready for a training loop: decoded and resized once if they fit in memory."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from robust.data.augment import Augmentation
from robust.data.inputs import points_to_input, resize_one

MEMORY_LIMIT = 4 * 2**30
"""Bytes up to which a worker keeps decoded crops; above, it keeps the encoded ones and decodes each time it draws one."""
ENCODED_LIMIT = 8 * 2**30
"""Bytes of stored faces up to which a worker keeps them in memory; above, they are in a local file (faces_on_disk.py)."""


@dataclass
class CropSet:
    """
    Attributes:
        labels: (N,) int64, 1 = fake.
        video_ids, methods: (N,) str arrays.
        size: model input size, pixels.
        pixels: (N, size, size, 3) uint8, or None when only the encoded images are kept.
        encoded: N encoded images as they were read, in memory without a copy or in a file; or None.
        frames: (N,) int64 numbers of the crops' frames in their videos, or None.
        landmarks: (N, 5, 2) float32 pixels of the model's input, nan where they are not known; or None.
    """

    labels: np.ndarray
    video_ids: np.ndarray
    methods: np.ndarray
    size: int
    pixels: np.ndarray | None = None
    encoded: Sequence[pa.BinaryScalar] | None = None
    landmarks: np.ndarray | None = None
    frames: np.ndarray | None = None

    @classmethod
    def from_table(cls, table, size: int, images: Sequence[bytes] | None = None) -> CropSet:
        """From the rows of face shards (robust/data/shards.py), in their order.

        Args:
            images: the encoded images, where they are no column of the table.
        """
        from robust.data.images import decode_image

        images = table.column("image") if images is None else images
        facts = dict(
            labels=table.column("label").to_numpy().astype(np.int64),
            video_ids=np.array(table.column("video_id").to_pylist(), dtype=object),
            methods=np.array(table.column("method").to_pylist(), dtype=object),
            size=size,
            landmarks=_landmarks(table, size) if "landmarks" in table.column_names else None,
            frames=table.column("frame_index").to_numpy().astype(np.int64) if "frame_index" in table.column_names else None,
        )
        if len(images) * size * size * 3 > MEMORY_LIMIT:
            return cls(**facts, encoded=images)
        pixels = np.empty((len(images), size, size, 3), np.uint8)
        for i, image in enumerate(images):
            pixels[i] = resize_one(decode_image(image.as_buffer()), size)
        return cls(**facts, pixels=pixels)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        """(size, size, 3) uint8."""
        if self.pixels is not None:
            return self.pixels[index]
        from robust.data.images import decode_image

        return resize_one(decode_image(self.encoded[index].as_buffer()), self.size)

    def batch(self, indices: np.ndarray, seeds: np.ndarray | None = None, augment: Augmentation | None = None) -> np.ndarray:
        """(len(indices), size, size, 3) uint8; each place's seed is that of its draw and of its augmentation."""
        seeds = [None] * len(indices) if seeds is None else [int(seed) for seed in seeds]
        drawn = [self.draw(int(index), seed) for index, seed in zip(indices, seeds, strict=True)]
        return np.stack(drawn if augment is None else [augment(image, seed) for image, seed in zip(drawn, seeds)])

    def draw(self, index: int, seed: int | None) -> np.ndarray:
        """(size, size, 3) uint8: the crop; sets that are drawn anew each time override this."""
        return self.image(index)

    def ids(self, indices: np.ndarray) -> list[dict]:
        """[{"video_id", "frame_index"}] of some crops, the frame None where it is not known."""
        return [{"video_id": str(self.video_ids[i]), "frame_index": None if self.frames is None else int(self.frames[i])} for i in indices]

    def evenly_over_videos(self, count: int) -> np.ndarray:
        """Indices of at most `count` crops, half real and half fake where there are enough of both.

        Of each label one crop of each video, then a second of each, until enough; the last round is spread over all videos.
        """
        turns: dict[str, int] = defaultdict(int)
        turn = np.empty(len(self), int)
        for i, video in enumerate(self.video_ids):
            turn[i] = turns[video]
            turns[video] += 1
        real, fake = (np.flatnonzero(self.labels == label) for label in (0, 1))
        reals = min(len(real), max(count // 2, count - len(fake)))
        return np.sort(np.concatenate([_spread(real, turn, reals), _spread(fake, turn, count - reals)]))


def _landmarks(table, size: int) -> np.ndarray:
    """(N, 5, 2): from pixels of the frame to those of the crop, shrunk as it was, and on to the model's input."""
    rows = []
    columns = [name for name in ("landmarks", "window", "matrix", "height", "width") if name in table.column_names]
    for row in table.select(columns).to_pylist():
        inside = landmarks_in_crop(row)
        if inside is None:
            rows.append(np.full((5, 2), np.nan))
            continue
        rows.append(points_to_input(inside, height=row["height"], width=row["width"], size=size))
    return np.array(rows, np.float32).reshape(-1, 5, 2)


def landmarks_in_crop(row: dict) -> np.ndarray | None:
    """(5, 2) landmarks in pixels of the crop; None where they are not known."""
    if row["landmarks"] is None:
        return None
    points = np.reshape(row["landmarks"], (5, 2))
    if row.get("matrix") is not None:
        matrix = np.reshape(row["matrix"], (2, 3))
        return points @ matrix[:, :2].T + matrix[:, 2]
    if row["window"] is None:
        return None
    left, top, right, bottom = row["window"]
    scale = np.array([row["width"] / (right - left), row["height"] / (bottom - top)])
    return (points - (left, top) + 0.5) * scale - 0.5


def _spread(indices: np.ndarray, turn: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `indices`: whole rounds in the order of their turn, the last one at even distances."""
    chosen = [np.empty(0, int)]
    for number in np.unique(turn[indices]):
        there = indices[turn[indices] == number]
        take = min(len(there), count - sum(map(len, chosen)))
        chosen.append(there[np.arange(take) * len(there) // max(1, take)])
    return np.concatenate(chosen)
