"""Our PGD against torchattacks' and foolbox's at equal budget, on the models and test faces of a finished run.

    python -m benchmarks.run_attack_reference --profile demo [section.key=value ...]

One frame of each test video. The libraries are installed by `make reference`.
"""

import dataclasses
import sys

import torch

from benchmarks.attack_reference import compare, print_table
from jobs.candidates import OWN_MODELS
from jobs.cli import run_job
from robust.config import Config
from robust.data.crops import CropSet
from robust.data.face_table import read_faces
from robust.data.inputs import to_tensor
from robust.models.checkpoint import load_checkpoint
from robust.storage import Storage
from robust.training.session import COLUMNS

EPSILONS = (0.125, 0.25, 0.5, 1.0)  # 0-255 units; a plain detector is at 0 above them
STEPS = 20


def main(config: Config, storage: Storage) -> dict:
    """Prints a table for each model; writes all rows below the run's `benchmarks/`."""
    run, report = config.run.name, {}
    faces = read_faces(storage, run, split="test", columns=COLUMNS, max_frames_per_video=1)
    for name in OWN_MODELS:
        model, _ = load_checkpoint(storage, f"{run}/train/{name}")
        crops = CropSet.from_table(faces, model.input_size)
        x, y = to_tensor(crops.batch(range(len(crops)))), torch.from_numpy(crops.labels)
        rows = compare(model, x, y, steps=STEPS, epsilons=EPSILONS, threads=2)
        report[name] = [dataclasses.asdict(row) for row in rows]
        print_table(f"{name} of run {run}: {len(x)} faces, PGD-{STEPS}", rows)
    storage.write_json(f"{run}/benchmarks/attack_reference.json", {"steps": STEPS, "models": report})
    return {"summary": f"written to {storage.uri(f'{run}/benchmarks/attack_reference.json')}"}


if __name__ == "__main__":
    sys.exit(run_job("benchmark", main, needs_ray=False, in_run_folder=False))
