"""Where a trial that was broken off goes on."""
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pyarrow.fs import FileSelector, FileType
from ray.tune import Checkpoint


@contextmanager
def checkpoint_folder(start: Checkpoint | None) -> Iterator[Path | None]:
    """The checkpoint that a trial starts from as a local folder, of a bucket a copy that goes afterwards; None at its beginning.

    A trial keeps one checkpoint. If the search was killed between a newer one and its note of that, the one it knows is
    gone: then of the later ones the first is taken, which was complete before its predecessor was removed.
    """
    found = None if start is None else _first_left(start)
    if found is None:
        yield None
        return
    with found.as_directory() as folder:
        yield Path(folder)


def _first_left(start: Checkpoint) -> Checkpoint | None:
    if start.filesystem.get_file_info(start.path).type == FileType.NotFound:
        parent, name = start.path.rsplit("/", 1)
        listed = start.filesystem.get_file_info(FileSelector(parent, allow_not_found=True))
        later = sorted(info.path for info in listed if info.base_name.startswith("checkpoint_") and info.base_name > name)
        if not later:
            return None
        start = Checkpoint(later[0], start.filesystem)
    return start


@dataclass(frozen=True)
class StepCost:
    """Wall time of a trial's training steps so far; validation is not in it."""

    seconds: float = 0.0
    steps: int = 0

    @classmethod
    def of(cls, folder: Path | None) -> "StepCost":
        """What a checkpoint says, or nothing yet."""
        from robust.training.state import FACTS  # brings torch

        return cls() if folder is None else cls(**json.loads((folder / FACTS).read_text())["facts"].get("cost", {}))

    def after(self, figures) -> "StepCost":
        """Args: figures: robust.training.loop.EpochFigures."""
        return StepCost(self.seconds + figures.seconds, self.steps + figures.steps)

    @property
    def per_step(self) -> float:
        return self.seconds / self.steps

    def as_dict(self) -> dict:
        return asdict(self)
