"""One training run of one model, epoch by epoch: the part that Ray Train workers, tune trials and tests share."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from robust.attacks.gates.preconditions import pixel_statistics
from robust.config import Config, RecipeConfig, TrainConfig, ValidationConfig
from robust.data.augment import build_augmentation
from robust.data.crops import ENCODED_LIMIT, CropSet
from robust.data.face_table import read_faces
from robust.data.faces_on_disk import faces_on_disk, stored_bytes
from robust.data.inputs import to_tensor
from robust.data.self_blended_crops import SelfBlendedCrops
from robust.data.shards import SUBJECT
from robust.errors import UserError
from robust.models.checkpoint import load_checkpoint
from robust.models.detector import Detector, build_detector, continue_from
from robust.training.loop import EpochFigures, Place, Training, refit_batch_norms, start_training, train_epoch
from robust.training.state import load_state, restore_statistics
from robust.training.validation import clean_spread, validate

COLUMNS = ["video_id", "frame_index", "label", "method", "image"]
KNOWN = (pc.field("label") == 0) | (pc.field("track") == SUBJECT)
"""The crops whose label is known."""
LANDMARK_COLUMNS = ["landmarks", "window", "matrix", "height", "width"]


@dataclass
class Crops:
    train: CropSet
    validation: CropSet
    validates_on_training: bool
    """True in use-everything mode: no identity is left for validation, so its figures and threshold are optimistic."""

    def input_statistics(self, count: int = 256) -> dict[str, float]:
        """{"mean", "std"} of some unaugmented inputs, for the card: an evaluation compares its own with them."""
        chosen = self.validation.evenly_over_videos(count)
        mean, std = pixel_statistics(to_tensor(self.validation.batch(chosen)))
        return {"mean": round(mean, 4), "std": round(std, 4)}


def load_crops(config: Config, storage) -> Crops:
    """The run's training and validation crops.

    With `train.self_blend` the training set can blend its real crops. Where blends are the only fakes, a split without
    stored fakes is fine, and validation then has one fixed blend of each of its real crops.

    Raises:
        UserError: a split is empty or lacks a class; landmarks that blends need are not known.
    """
    blend, everything = config.train.self_blend, config.data.splits.use_everything
    train = _load_split(config, storage, "train", everybody=True)
    same = everything and config.extract.people == "subject"
    validation = train if same else _load_split(config, storage, "train" if everything else "val")
    if not (validation.labels == 1).any():
        validation = SelfBlendedCrops.of(validation, blend.strength).fixed(config.run.seed)
    if blend.share > 0:
        train = SelfBlendedCrops.of(train, blend.strength)
    return Crops(train, validation, everything)


def _load_split(config: Config, storage, split: str, *, everybody: bool = False) -> CropSet:
    share = config.train.self_blend.share
    columns = COLUMNS + LANDMARK_COLUMNS if share > 0 else COLUMNS
    if stored_bytes(storage, config.run.name, split=split) > ENCODED_LIMIT:
        keep = KNOWN if everybody else None
        table, images = faces_on_disk(storage, config.run.name, split=split, columns=[*columns, "track"] if everybody else columns, subject_only=not everybody, keep=keep)
    else:
        table, images = _faces(config, storage, split, columns, everybody), None
    crops = CropSet.from_table(table, config.model.input_size, images)
    if share < 1:
        _require_both_labels(crops, split)
    return crops


def _faces(config: Config, storage, split: str, columns: list[str], everybody: bool) -> pa.Table:
    """The subjects' crops, or everybody's whose label is known: a video's label is its subject's. In a real video all
    are real; of the others in a fake one nothing is known."""
    if not everybody:
        return read_faces(storage, config.run.name, split=split, columns=columns, subject_only=True)
    table = read_faces(storage, config.run.name, split=split, columns=[*columns, "track"])
    if len(table.select(["label", "track"]).filter(KNOWN)) < len(table):
        table = table.filter(KNOWN)  # which copies every image
    return table.drop_columns("track")


def _require_both_labels(crops: CropSet, split: str) -> None:
    for label, name in ((0, "real"), (1, "fake")):
        if not (crops.labels == label).any():
            raise UserError(f"no {name} face crops in split {split!r}; run jobs.extract first, and see its result.json for what was skipped")


def initial_detector(config: Config, recipe: RecipeConfig, storage) -> tuple[Detector, str]:
    """The network a recipe starts from and the card's line about its weights."""
    settings = config.model if recipe.activation is None else config.model.model_copy(update={"activation": recipe.activation})
    if recipe.init_from is None:
        return build_detector(settings)
    key = f"{config.run.name}/train/{recipe.init_from}"
    model, card = load_checkpoint(storage, key)
    if card["architecture"]["name"] != config.model.name:
        raise UserError(f"train.*.init_from: {key} is a {card['architecture']['name']}, model.name asks for {config.model.name}")
    return continue_from(model, settings), f"{recipe.init_from} of this run, sha256 {card['sha256'][:16]}"


def run_epochs(
    config: Config, recipe: RecipeConfig, threat: ValidationConfig, network: Detector, crops: Crops, *, place: Place,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module, resume: Path | None = None,
    progress: Callable[[int, int], None] = lambda step, steps: None, between: Callable[[Training], None] = lambda training: None,
) -> Iterator[tuple[Training, EpochFigures, dict[str, float] | None]]:
    """Trains to `recipe.epochs`, yielding after each epoch.

    Args:
        threat: what robust validation is measured at.
        resume: folder of a saved state to go on from.
        progress, between: as of `train_epoch`.
    Yields:
        the training, the epoch's figures, and rank 0's validation figures (None elsewhere and between validations).
    """
    training = start_training(network, config.train, recipe, device=place.device, wrap=wrap)
    augment = build_augmentation(config.augment)
    if resume is not None:
        load_state(training, resume)
        restore_statistics(training, place)
        if has_stalled(training, config.train):
            return
    elif network.swapped and recipe.refit > 0:
        refit_batch_norms(training, crops.train, config.train, recipe.refit, augment, seed=config.run.seed, place=place)
    if resume is None and place.rank == 0:
        training.first_spread = clean_spread(training.scored, crops.validation, device=place.device)
    while training.epoch < recipe.epochs:
        figures = train_epoch(training, crops.train, config.train, recipe, augment, seed=config.run.seed, place=place, progress=progress,
                              between=between)
        due = training.epoch % threat.every == 0 or training.epoch == recipe.epochs
        scores = None
        if place.rank == 0 and due:
            scores = validate(training.scored, crops.validation, threat, device=place.device, seed=config.run.seed)
            training.validated(scores["robust_auc"])
        yield training, figures, scores


def has_stalled(training: Training, settings: TrainConfig) -> bool:
    """Whether robust validation has not got better for `train.patience` validations; rank 0 alone knows while it trains."""
    return settings.patience is not None and training.since_best >= settings.patience


def limit_threads(cpus: float) -> None:
    """As many computing threads as the scheduler gave CPUs."""
    torch.set_num_threads(max(1, int(cpus)))
