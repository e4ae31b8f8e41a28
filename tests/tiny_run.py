"""A run whose faces are extracted already: noise of 64 px in which fakes are redder, in train and val."""

import numpy as np

from robust.data.face_swap import TEMPLATE
from robust.data.images import encode_image
from robust.data.shards import STATUS_SCHEMA, shard_key, write_shard

SPLITS = {"train": 8, "val": 4}
"""Real videos, and as many fakes, of each split."""


def write_faces(storage, run: str, *, splits=SPLITS, frames: int = 2, size: int = 64, fakes: bool = True, people: int = 1) -> None:
    """Writes the shards of `<run>/faces/tiny`, one a split."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        videos = [(f"tiny/real/{split}{i}", 0, "real") for i in range(count)]
        videos += [] if not fakes else [(f"tiny/{kind}/{split}{i}", 1, kind) for i, kind in zip(range(count), ("coarse", "fine") * count)]
        faces, statuses = [], []
        for video_id, label, method in videos:
            person = f"tiny:{video_id.rsplit('/', 1)[1]}"
            common = {"video_id": video_id, "dataset": "tiny", "label": label, "method": method, "identities": [person], "split": split}
            statuses.append({**dict.fromkeys(STATUS_SCHEMA.names), **common, "uri": video_id, "status": "ok", "reason": "", "frames_asked": frames,
                             "frames_decoded": frames, "frames_found": frames, "source_bytes": 1, "fingerprint": "f"})
            faces += [{**common, "frame_index": frame, "timestamp_s": 0.1 * frame, "box": [0.0] * 4,
                       "landmarks": (TEMPLATE * size / 112).reshape(-1).tolist(), "window": [0, 0, size, size], "score": 1.0, "track": track,
                       "image": encode_image(_face(rng, label, size)), "height": size, "width": size} for frame in range(frames) for track in range(people)]
        write_shard(storage, run, shard_key("tiny", [video[0] for video in videos], "f"), faces, statuses)


def _face(rng, label: int, size: int) -> np.ndarray:
    pixels = rng.integers(40, 200, (size, size, 3))
    pixels[..., 0] += 40 * label
    return pixels.astype(np.uint8)
