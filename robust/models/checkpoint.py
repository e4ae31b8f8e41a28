"""Checkpoints: `model.safetensors` and `card.json` in one folder of the storage. Never a pickle."""
from __future__ import annotations

import hashlib
import os
from dataclasses import fields

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from robust.errors import ConfigError, UserError
from robust.models.detector import Architecture, Detector, empty_detector

WEIGHTS, CARD = "model.safetensors", "card.json"


def checkpoint_place(setting: str, uri: str) -> tuple[str, str]:
    """Where a checkpoint's folder lies, and its name there: the address of a storage, and a key in it.

    Args:
        setting: that says so, for the message.
        uri: a local folder, or a folder in a bucket.
    Raises:
        ConfigError: it is a bucket or the root, not a folder in one.
    """
    parent, slash, folder = (uri if "://" in uri else os.path.abspath(uri)).rstrip("/").rpartition("/")
    if not folder or parent.endswith(":/"):
        raise ConfigError(f"{setting}: {uri!r} names no folder; give one with {WEIGHTS} and {CARD}")
    return parent or slash, folder


def save_checkpoint(storage, key: str, model: Detector, card: dict) -> dict:
    """Writes weights, then the card (the commit point); returns the card with architecture and hash added.

    Args:
        key: folder of the checkpoint below the storage's root.
        card: training facts; must hold `threshold` (logit, video level, FPR 1 % on clean validation).
    """
    blob = weights_blob(model)
    card = {"schema": 1, "architecture": model.architecture.as_dict(), "sha256": hashlib.sha256(blob).hexdigest(), **card}
    storage.write_bytes(f"{key}/{WEIGHTS}", blob)
    storage.write_json(f"{key}/{CARD}", card)
    return card


def weights_blob(model: Detector) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})


def load_checkpoint(storage, key: str, *, sha256: str | None = None) -> tuple[Detector, dict]:
    """The detector in eval mode, and its card.

    Args:
        sha256: of the weights that are meant; by default those that are there.
    Raises:
        UserError: a file is missing, damaged, does not fit the other, or the weights are others than meant.
    """
    for name in (WEIGHTS, CARD):
        if not storage.exists(f"{key}/{name}"):
            raise UserError(f"checkpoint {storage.uri(key)}: no {name}; a checkpoint is a folder with {WEIGHTS} and {CARD}")
    card = storage.read_json(f"{key}/{CARD}")
    model = _network(card, storage.uri(key))
    blob = storage.read_bytes(f"{key}/{WEIGHTS}")
    if sha256 is not None and hashlib.sha256(blob).hexdigest() != sha256:
        raise UserError(f"checkpoint {storage.uri(key)}: {WEIGHTS} was changed while the job ran; run the job again")
    load_blob(model, blob, card.get("sha256"), storage.uri(key))
    return model.eval(), card


def load_blob(model: torch.nn.Module, blob: bytes, sha256: str | None, where: str) -> None:
    if sha256 is not None and hashlib.sha256(blob).hexdigest() != sha256:
        raise UserError(f"checkpoint {where}: {WEIGHTS} is not the file that its card describes (SHA-256 differs); copy both again")
    try:
        model.load_state_dict(load(blob))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"checkpoint {where}: weights do not fit the card's architecture: {str(error).splitlines()[0]}") from None


def _network(card: dict, where: str) -> Detector:
    """The network that a card describes; the card may come from anywhere."""
    known = sorted(field.name for field in fields(Architecture))
    try:
        facts = card["architecture"]
        facts = {**{name: facts[name] for name in known}, "mean": tuple(facts["mean"]), "std": tuple(facts["std"])}
        return empty_detector(Architecture(**facts))
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        raise UserError(f"checkpoint {where}: {CARD} has no usable architecture ({error}); it must name {', '.join(known)}") from None
