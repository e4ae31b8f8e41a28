"""Forgeries never seen: trained on real photographs and their self-blends alone, tested on a run's face swaps.

    python -m benchmarks.self_blend --faces FOLDER --profile demo [section.key=value ...]

FOLDER holds photographs of real faces (jpg, png or webp), none of which is in the run. `train.baseline` trains on
them and `train.defended` goes on from there, with `train.self_blend.share` 1; nothing is trained on or selected by
the run's own faces (jobs.extract is enough), whose test split is what is scored. Prints video AUC over the training
time, clean and under APGD on both classes, and at its end the table with 95 % intervals; writes both below the run's
`benchmarks/`.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch
from torch import nn

from jobs.cli import run_job
from robust.attacks.apgd import apgd
from robust.attacks.threat import Linf
from robust.config import Config, RecipeConfig
from robust.data.crop import crop_window
from robust.data.crops import CropSet
from robust.data.face_table import read_faces
from robust.data.faces import Face, build_detector
from robust.data.inputs import points_to_input, resize_one, to_tensor
from robust.data.self_blended_crops import SelfBlendedCrops
from robust.errors import UserError
from robust.evaluation import curves
from robust.evaluation.bootstrap import draw, ranking_interval
from robust.evaluation.metrics import auc, video_scores
from robust.models import detector as detectors
from robust.storage import Storage
from robust.training.loop import Place
from robust.training.session import COLUMNS, Crops, limit_threads, run_epochs

BARS = {0.0: 0.95, 0.5: 0.85, 1.0: 0.75}
"""Video AUC to reach at each epsilon, 0-255 units."""
STEPS = 20
"""APGD steps of the table; a point of the curve has 5, on one frame a video."""
RESAMPLES = 1000
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
BATCH = 64


def main(config: Config, storage: Storage, *, folder: Path) -> dict:
    """Trains, prints curve and table, writes self_blend.json."""
    limit_threads(config.train.cpus_per_worker)
    config = config.model_copy(
        update={
            "train": config.train.model_copy(
                update={"self_blend": config.train.self_blend.model_copy(update={"share": 1.0})}
            )
        }
    )
    faces = SelfBlendedCrops.of(photographs(folder, config), config.train.self_blend.strength)
    columns = [*COLUMNS, "identities"]
    test = read_faces(
        storage, config.run.name, split="test", columns=columns, max_frames_per_video=config.evaluate.frames_per_video
    )
    first = read_faces(storage, config.run.name, split="test", columns=columns, max_frames_per_video=1)
    print(
        f"{len(faces.made_of)} real faces to train on; tested on {len(test)} crops of "
        f"{len(set(test['video_id'].to_pylist()))} videos",
        flush=True,
    )
    curve = []

    def look(network: nn.Module, phase: str, epoch: int, seconds: float) -> None:
        point = {
            "phase": phase,
            "epoch": epoch,
            "seconds": round(seconds),
            **{
                f"{epsilon:g}": video_auc(network, first, epsilon, size=config.model.input_size, steps=5)[0]
                for epsilon in BARS
            },
        }
        curve.append(point)
        print(
            "  ".join(
                f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in point.items()
            ),
            flush=True,
        )

    network = train(config, faces, look)
    rows = []
    for epsilon, bar in BARS.items():
        value, interval = video_auc(
            network, test, epsilon, size=config.model.input_size, steps=STEPS, seed=config.run.seed, intervals=True
        )
        rows.append({"epsilon": epsilon, "auc": value, "interval": interval, "bar": bar, "met": value >= bar})
        print(
            f"epsilon {epsilon:<4g} video AUC {value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]  bar {bar}", flush=True
        )
    key = f"{config.run.name}/benchmarks/self_blend.json"
    storage.write_json(key, {"curve": curve, "rows": rows, "faces": len(faces.made_of), "crops": len(test)})
    missed = [f"{row['epsilon']:g}" for row in rows if not row["met"]]
    outcome = f"missed at epsilon {', '.join(missed)}" if missed else "met"
    return {"summary": f"bars {outcome}; written to {storage.uri(key)}"}


def photographs(folder: Path, config: Config) -> CropSet:
    """The largest face of each photograph, cropped as the run's faces are; photographs without one are counted.

    Raises:
        UserError: no face in the whole folder.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    detector, pixels, landmarks = build_detector(config.extract), [], []
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        found: Sequence[Face] = [] if image is None else detector.detect(image[None, ..., ::-1])[0]
        if found:
            crop, points = _crop(image[..., ::-1], max(found, key=lambda face: face.size), config)
            pixels.append(crop)
            landmarks.append(points)
    if not pixels:
        raise UserError(f"--faces {folder}: no face in its {len(paths)} images")
    print(f"{folder}: {len(paths)} photographs, {len(paths) - len(pixels)} of them without a face", flush=True)
    names = np.array([f"photograph {number}" for number in range(len(pixels))], object)
    return CropSet(
        np.zeros(len(pixels), np.int64),
        names,
        np.full(len(pixels), "real", object),
        config.model.input_size,
        pixels=np.stack(pixels),
        landmarks=np.array(landmarks, np.float32),
    )


def _crop(image: np.ndarray, face: Face, config: Config) -> tuple[np.ndarray, np.ndarray]:
    size, (height, width) = config.model.input_size, image.shape[:2]
    left, top, right, bottom = crop_window(face.box, height=height, width=width, margin=config.extract.margin)
    points = points_to_input(face.landmarks - (left, top), height=bottom - top, width=right - left, size=size)
    return resize_one(np.ascontiguousarray(image[top:bottom, left:right]), size), points


def train(config: Config, faces: SelfBlendedCrops, look) -> nn.Module:
    """The plain phase, then the defended one from its weights; `look(network, phase, epoch, seconds)` at intervals."""
    validation = SelfBlendedCrops.of(_some(faces, 64), config.train.self_blend.strength).fixed(config.run.seed)
    crops, started, network = Crops(faces, validation, True), time.perf_counter(), None
    torch.manual_seed(config.run.seed)
    for phase in ("baseline", "defended"):
        recipe: RecipeConfig = getattr(config.train, phase)
        network = _network(config, recipe, network)
        for training, _, scores in run_epochs(config, recipe, config.train.validation, network, crops, place=Place()):
            if scores is not None:
                look(training.scored, phase, training.epoch, time.perf_counter() - started)
        network = training.scored
    return network.eval()


def _some(crops: SelfBlendedCrops, count: int) -> CropSet:
    chosen = crops.made_of[:count]
    return CropSet(
        crops.labels[chosen],
        crops.video_ids[chosen],
        crops.methods[chosen],
        crops.size,
        pixels=crops.pixels[chosen],
        landmarks=crops.landmarks[chosen],
    )


def _network(config: Config, recipe: RecipeConfig, before: detectors.Detector | None) -> detectors.Detector:
    """A new detector with the recipe's activation and, if there is one, the weights of the phase before."""
    settings = (
        config.model if recipe.activation is None else config.model.model_copy(update={"activation": recipe.activation})
    )
    return detectors.build_detector(settings)[0] if before is None else detectors.continue_from(before, settings)


def video_auc(
    network: nn.Module,
    table: pa.Table,
    epsilon: float,
    *,
    size: int,
    steps: int,
    seed: int = 0,
    intervals: bool = False,
) -> tuple[float, tuple[float, float] | None]:
    """Video AUC under APGD on both classes at epsilon (0-255 units; 0: clean), with its interval if asked."""
    crops = CropSet.from_table(table, size)
    logits, was_training = [], network.training
    network.eval()
    for start in range(0, len(crops), BATCH):
        part = np.arange(start, min(start + BATCH, len(crops)))
        x, y = to_tensor(crops.batch(part)), torch.from_numpy(crops.labels[part])
        attacked = apgd(
            network, x, y, Linf.from_255(epsilon), steps=steps, generator=torch.Generator().manual_seed(seed)
        )
        with torch.no_grad():
            logits.append(network(attacked).numpy())
    network.train(was_training)
    ids, scores = video_scores(np.concatenate(logits), crops.video_ids)
    facts = dict(zip(crops.video_ids, zip(crops.labels, table.column("identities").to_pylist())))
    labels = np.array([facts[name][0] for name in ids])
    value = auc(scores, labels)
    if not intervals:
        return value, None
    draws = draw(list(ids), [facts[name][1] for name in ids], count=RESAMPLES, seed=seed)
    found = ranking_interval(draws, ids, scores, labels, {"auc": curves.auc})["auc"]
    return value, (found.low, found.high)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if "--faces" not in arguments[:-1]:
        sys.exit("benchmarks.self_blend: give --faces FOLDER, photographs of real faces")
    place = arguments.index("--faces")
    chosen = Path(arguments[place + 1])
    sys.exit(
        run_job(
            "benchmark",
            functools.partial(main, folder=chosen),
            argv=arguments[:place] + arguments[place + 2 :],
            needs_ray=False,
            in_run_folder=False,
        )
    )
