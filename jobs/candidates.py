"""The checkpoints that an evaluation looks at: where they lie, and how a task loads one."""

from __future__ import annotations

import dataclasses
import functools

import torch

from robust.config import AuditedModelConfig, Config, StorageConfig
from robust.errors import UserError
from robust.evaluation.attack_block import block_hash
from robust.models.checkpoint import CARD, WEIGHTS, checkpoint_place, load_checkpoint
from robust.models.foreign.kept import is_foreign, keep_foreign, load_kept
from robust.storage import Storage

OWN_MODELS = ("baseline", "defended")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A checkpoint to evaluate: its name in the report and where it lies."""

    name: str
    storage: StorageConfig
    key: str
    card: dict = dataclasses.field(hash=False)

    @property
    def sha256(self) -> str:
        """Of the weights; of a model of other origin, of its file and settings."""
        return self.card["sha256"]

    @property
    def function(self) -> str:
        """Names its results: of equal weights, another mean, activation or input size in the card makes another function."""
        return block_hash(weights=self.sha256, architecture=self.card["architecture"])


def find_candidates(config: Config, storage: Storage) -> list[Candidate]:
    """The run's own models, the baseline first, then those of evaluate.checkpoints and evaluate.models."""
    places = [(name, config.storage, f"{config.run.name}/train/{name}") for name in OWN_MODELS]
    places = [place for place in places if storage.exists(f"{place[2]}/card.json")]
    for name, uri in config.evaluate.checkpoints.items():
        if name in OWN_MODELS:
            raise UserError(f"evaluate.checkpoints.{name}: {name} is the name of the run's own model; choose another")
        root, folder = checkpoint_place(f"evaluate.checkpoints.{name}", uri)
        places.append((name, config.storage.model_copy(update={"uri": root}), folder))
    if taken := config.evaluate.models.keys() & {place[0] for place in places}:
        raise UserError(f"evaluate.models.{min(taken)}: {min(taken)} is the name of another model of this evaluation; choose another")
    if not places and not config.evaluate.models:
        raise UserError(f"run {config.run.name} has no trained model, and evaluate.checkpoints and evaluate.models name none; run jobs.train first")
    return [_candidate(*place) for place in places] + [_foreign(config, storage, *named) for named in config.evaluate.models.items()]


def _foreign(config: Config, storage: Storage, name: str, spec: AuditedModelConfig) -> Candidate:
    key, card = keep_foreign(storage, f"{config.run.name}/evaluate/models", name, spec)
    return Candidate(name, config.storage.model_copy(update={"uri": storage.uri()}), key, card)


def _candidate(name: str, storage: StorageConfig, key: str) -> Candidate:
    place = Storage.from_config(storage)
    _, card = load_checkpoint(place, key)  # a damaged one is told now, not from a task
    if not card.get("sha256"):
        raise UserError(f"evaluate: checkpoint {place.uri(key)}: {CARD} has no sha256 of {WEIGHTS}, under which results are kept; add it, or copy the card again")
    return Candidate(name, storage.model_copy(update={"uri": place.uri()}), key, card)  # tasks run in other folders


@functools.lru_cache(maxsize=4)
def load_model(storage: StorageConfig, key: str, sha256: str, device: str) -> torch.nn.Module:
    """The checkpoint in eval mode; a worker process keeps the last few: its next task is mostly of the same model, and
    transfer needs the others beside it."""
    place = Storage.from_config(storage)
    model, card = load_kept(place, key) if is_foreign(place, key) else load_checkpoint(place, key)
    if card["sha256"] != sha256:
        raise UserError(f"checkpoint {key} changed while it was being evaluated; run jobs.evaluate again")
    return model.to(device, memory_format=torch.channels_last).eval()
