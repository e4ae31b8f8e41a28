"""TensorBoard event files in the storage: written locally, uploaded when `flush` is called.

`tensorboard --logdir` reads a copy (cluster/ keeps one in the outputs folder) or the bucket itself where it can.
"""
from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch


class EventLog:
    """Scalars, images and hparams of one run folder, e.g. `<run>/tensorboard/train/defended`.

    A resumed job adds a second event file beside the first; TensorBoard shows both as one curve.
    """

    def __init__(self, storage, key: str):
        from torch.utils.tensorboard import SummaryWriter

        self.storage, self.key = storage, key
        self.folder = Path(tempfile.mkdtemp(prefix="events-"))
        self.writer = SummaryWriter(str(self.folder), filename_suffix=f".{os.getpid()}")

    def scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def adversarial_examples(self, clean: torch.Tensor, adversarial: torch.Tensor, step: int) -> None:
        """A strip: clean above, perturbed, and their difference times ten around grey; (N, 3, H, W) in [0, 1]."""
        difference = ((adversarial - clean) * 10 + 0.5).clamp(0, 1)
        rows = [torch.cat(list(images), dim=2) for images in (clean, adversarial, difference)]
        self.writer.add_image("adversarial examples (clean, perturbed, difference x 10)", torch.cat(rows, dim=1), step)

    def hparams(self, settings: dict, metrics: dict[str, float]) -> None:
        plain = {key: value if isinstance(value, (int, float, str, bool)) else str(value) for key, value in settings.items()}
        self.writer.add_hparams(plain, metrics, run_name=".")

    def flush(self) -> None:
        self.writer.flush()
        for path in sorted(self.folder.rglob("events.*")):
            self.storage.upload(path, f"{self.key}/{path.relative_to(self.folder).as_posix()}")

    def close(self) -> None:
        self.flush()
        self.writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)
