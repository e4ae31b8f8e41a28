"""A foreign model in the storage: its file and what the settings say of it, where every worker reads the same.

`<key>/model` is the file as it was given, `<key>/foreign.json` the card; the key is a hash of both.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath

import pyarrow

from robust.config import AuditedModelConfig
from robust.config_file import parse_section
from robust.config_identity import science
from robust.errors import UserError
from robust.models.foreign import load_foreign
from robust.models.foreign.detector import ForeignDetector
from robust.models.foreign.probe import probe, probe_images
from robust.storage import Storage, open_input

FILE, CARD = "model", "foreign.json"
MAX_BYTES = 4 * 2**30


def keep_foreign(storage: Storage, prefix: str, name: str, spec: AuditedModelConfig) -> tuple[str, dict]:
    """Checks and tries a model, and copies it into the storage if it is not there; returns its key and its card.

    Raises:
        UserError: the file can not be read, is not what the settings say, or can not be attacked.
    """
    where = f"evaluate.models.{name}: {spec.path}"
    content = _read(spec.path, storage, where)
    model = load_foreign(content, spec, where)
    probe(model, where)
    if spec.kind == "onnx":
        from robust.models.foreign.onnx_file import require_same_as_onnxruntime

        require_same_as_onnxruntime(model, content, probe_images(model.input_size), where)
    card = _card(content, spec, model)
    key = f"{prefix}/{card['sha256'][:24]}"
    if not storage.exists(f"{key}/{CARD}"):
        storage.write_bytes(f"{key}/{FILE}", content)
        storage.write_json(f"{key}/{CARD}", card)
    return key, card


def is_foreign(storage: Storage, key: str) -> bool:
    return storage.exists(f"{key}/{CARD}")


def load_kept(storage: Storage, key: str) -> tuple[ForeignDetector, dict]:
    """The detector in eval mode, checked again, and its card.

    Raises:
        UserError: the file is not the one of the card.
    """
    card = storage.read_json(f"{key}/{CARD}")
    content = storage.read_bytes(f"{key}/{FILE}")
    if hashlib.sha256(content).hexdigest() != card.get("file_sha256"):
        raise UserError(f"{storage.uri(key)}: {FILE} is not the file of its {CARD} (SHA-256 differs); delete the folder and evaluate again")
    spec = parse_section(AuditedModelConfig, {**card["settings"], "path": card["file"]})
    return load_foreign(content, spec, storage.uri(key)), card


def _read(path: str, storage: Storage, where: str) -> bytes:
    filesystem, inside = open_input(path, storage.config)
    info = filesystem.get_file_info(inside)
    if info.type != pyarrow.fs.FileType.File:
        raise UserError(f"{where}: is no file; name the model's file itself (a folder with model.safetensors + card.json is for evaluate.checkpoints)")
    if not 0 < info.size <= MAX_BYTES:
        raise UserError(f"{where}: has {info.size} bytes; a model has between 1 and {MAX_BYTES}")
    with filesystem.open_input_file(inside) as file:
        return file.read()


def _card(content: bytes, spec: AuditedModelConfig, model: ForeignDetector) -> dict:
    settings = json.loads(json.dumps(science(spec)))
    file_sha256 = hashlib.sha256(content).hexdigest()
    known = json.dumps({"file": file_sha256, "settings": settings}, sort_keys=True)  # other settings make another function
    return {
        "architecture": {"name": spec.name or f"{spec.kind} file", "activation": None, "input_size": spec.input_size},
        "sha256": hashlib.sha256(known.encode()).hexdigest(),
        "file": PurePosixPath(spec.path).name,
        "file_sha256": file_sha256,
        "settings": settings,
        "attacked_output": model.output,
        "note": _note(spec, model),
    }


def _note(spec: AuditedModelConfig, model: ForeignDetector) -> str:
    note = "no card came with this model, so it has no thresholds frozen on clean validation; "
    note += "logit 0 is a probability of fake of one half" if spec.threshold == 0.5 else f"logit 0 is the given threshold, a probability of fake of {spec.threshold:g}"
    if model.output != spec.output:
        return note + "; its last operator was taken off and its logits are attacked"
    if model.output == "probability":
        note += "; its probability is turned back into a logit, which float32 rounds to 16.6 at most: above, there is no gradient and the gates say so"
    return note
