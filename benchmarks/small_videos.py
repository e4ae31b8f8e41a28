"""Made-up videos for the small detector: their crops as an evaluation reads them, and thresholds as a card holds them."""

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from benchmarks.small_detector import make_images
from robust.evaluation.metrics import frozen_threshold, video_scores

FRAMES = 3  # of a video


def make_videos(count: int, *, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Crops as `blocks.read_block` gives them: `count` crops in videos of FRAMES, half of these fake."""
    x, y = make_images(4 * count, generator=torch.Generator().manual_seed(seed))
    each = count // 2 // FRAMES * FRAMES
    order = np.concatenate([np.flatnonzero(y.numpy() == label)[:each] for label in (1, 0)])
    labels = y.numpy()[order]
    names = [f"d/{'swap' if label else 'tape'}/{index // FRAMES:03d}" for index, label in enumerate(labels)]
    table = pa.table(
        {
            "video_id": names,
            "frame_index": pa.array(np.arange(len(order)) % FRAMES, pa.int32()),
            "label": pa.array(labels, pa.int8()),
            "method": [name.split("/")[1] for name in names],
            "identities": [[name] for name in names],
        }
    )
    return table, (x[order].permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


@torch.no_grad()
def frozen(model: nn.Module, crops: pa.Table, pixels: np.ndarray) -> dict[str, float]:
    """Thresholds of a card at FPR 1 % and 5 %, on videos of their own."""
    values = model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).numpy()
    labels, videos = crops.column("label").to_numpy(), np.array(crops.column("video_id").to_pylist())
    _, means = video_scores(values, videos)
    of_videos = labels[np.unique(videos, return_index=True)[1]]
    return {
        f"{level}{name}": frozen_threshold(*scores, fpr=fpr)
        for name, fpr in (("", 0.01), ("_fpr_5", 0.05))
        for level, scores in (("frame", (values, labels)), ("video", (means, of_videos)))
    }
