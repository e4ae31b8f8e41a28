"""A verdict for a video, an image or a folder of them.

    python -m jobs.detect detect.input=FILE_OR_FOLDER [detect.checkpoint=FOLDER] [section.key=value ...]

Writes verdicts.json and a picture for each input to detect.output. The exit code is 0 whatever the verdict.
Ray is not needed.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter

import pyarrow.fs
import torch

from jobs.cli import run_job
from jobs.progress import Progress
from robust.config import Config
from robust.config_identity import science
from robust.contact_strip import contact_strip
from robust.data.faces import build_detector
from robust.data.tree import FileTree
from robust.detection import VERDICTS, VIDEO, Examiner, crop_differences, kind_of, thresholds_of
from robust.errors import ConfigError, UserError
from robust.models.checkpoint import CARD, checkpoint_place, load_checkpoint
from robust.storage import MissingObject, Storage, find_input

OWN_MODELS = ("defended", "baseline")
"""The run's models, the one to prefer first."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What to look at: (name, uri, kind) of each file; in a folder also (name, reason) of those that are left out."""

    files: list[tuple[str, str, str]]
    skipped: list[tuple[str, str]]
    is_folder: bool


def main(config: Config, storage: Storage) -> dict:
    result = detect(config, storage)
    print(table(result), flush=True)
    return result


def detect(config: Config, storage: Storage) -> dict:
    """Examines the input and writes verdicts.json and the pictures; returns what verdicts.json holds, and a summary.

    Args:
        storage: where the run's own checkpoints are.
    Raises:
        ConfigError: detect.input is not set.
        UserError: no input, no checkpoint, or the one file that was given cannot be read.
    """
    inputs = find_inputs(config)
    place, key = find_checkpoint(config, storage)
    model, card = load_checkpoint(place, key)
    thresholds = thresholds_of(card, config.detect.threshold)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    examiner = Examiner(model.to(device), thresholds, config.extract, config.detect.frames,
                        build_detector(config.extract, device=device), config.storage)
    output = Storage.from_config(config.storage.model_copy(update={"uri": config.detect.output}))
    output.check()
    verdicts = examine_all(inputs, examiner, output)
    document = {
        "schema": 1,
        **summary_of(verdicts, inputs, output),
        "checkpoint": {"uri": place.uri(key), **checkpoint_facts(card)},
        "thresholds": {kind: dataclasses.asdict(threshold) for kind, threshold in thresholds.items()},
        "settings": {"frames": config.detect.frames, "extract": science(config.extract)},
        "warnings": crop_differences(card, config.extract),
        "verdicts": verdicts,
        "skipped": [{"name": name, "reason": reason} for name, reason in inputs.skipped],
    }
    output.write_json("verdicts.json", document)
    output.write_json("result.json", {"stage": "detect", "status": "done", **summary_of(verdicts, inputs, output)})
    if not inputs.is_folder and verdicts[0]["status"] == "unreadable":
        raise UserError(f"{verdicts[0]['uri']} cannot be read: {verdicts[0]['reason']}; give a file that opens")
    return document


# ---------------------------------------------------------------------------------------------------- what to look at


def find_inputs(config: Config) -> Inputs:
    """The file that detect.input names, or the videos and images below it if it is a folder."""
    uri = config.detect.input
    if uri is None:
        raise ConfigError("detect.input: give a video, an image or a folder of them, as in detect.input=clip.mp4")
    try:
        _, info = find_input(uri, config.storage)
    except MissingObject as error:
        raise UserError(f"detect.input: {error}") from None
    if info.type != pyarrow.fs.FileType.Directory:
        return Inputs([(info.base_name, uri, kind_of(info.path) or VIDEO)], [], is_folder=False)
    return _of_folder(FileTree.open(uri, config.storage), config)


def _of_folder(tree: FileTree, config: Config) -> Inputs:
    own = Storage.from_config(config.storage.model_copy(update={"uri": config.detect.output})).uri()
    files, skipped = [], []
    for name in tree.files:
        uri, kind = tree.uri(name), kind_of(name)
        if uri.startswith(f"{own}/"):
            skipped.append((name, "written by this job (detect.output)"))
        elif kind is None:
            skipped.append((name, "not a video or an image by its name"))
        else:
            files.append((name, uri, kind))
    if not files:
        raise UserError(f"detect.input: no video or image in {tree.root_uri} ({len(skipped)} other files)")
    return Inputs(files, skipped, is_folder=True)


def find_checkpoint(config: Config, storage: Storage) -> tuple[Storage, str]:
    """The storage and key of detect.checkpoint, or of the run's own model: the defended one, else the baseline."""
    uri = config.detect.checkpoint
    if uri is not None:
        root, folder = checkpoint_place("detect.checkpoint", uri)
        return Storage.from_config(config.storage.model_copy(update={"uri": root})), folder
    for name in OWN_MODELS:
        key = f"{config.run.name}/train/{name}"
        if storage.exists(f"{key}/{CARD}"):
            return storage, key
    raise UserError(f"run {config.run.name} has no trained model in {storage.uri()}; run jobs.train first, or set "
                    f"run.name or detect.checkpoint (a folder with model.safetensors and {CARD})")


# ---------------------------------------------------------------------------------------------------- the work


def examine_all(inputs: Inputs, examiner: Examiner, output: Storage) -> list[dict]:
    """The verdicts in order, each with the key of its picture."""
    verdicts = []
    with Progress("detect", total=len(inputs.files), unit="files") as progress:
        for name, uri, kind in inputs.files:
            examination = examiner.examine(name, uri, kind)
            picture = contact_strip(examination)
            key = f"pictures/{name}.png" if picture else None
            if picture:
                output.write_bytes(key, picture)
            verdicts.append({**examination.verdict.as_dict(), "picture": key})
            progress.advance(note=examination.verdict.verdict)
    return verdicts


# ---------------------------------------------------------------------------------------------------- the result


def checkpoint_facts(card: dict) -> dict:
    """What tells one checkpoint from another."""
    return {name: card.get(name) for name in ("sha256", "model", "run", "epoch", "architecture", "code")}


def summary_of(verdicts: list[dict], inputs: Inputs, output: Storage) -> dict:
    counts = Counter(verdict["verdict"] for verdict in verdicts)
    told = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    skipped = f", {len(inputs.skipped)} files skipped" if inputs.skipped else ""
    files = f"{len(verdicts)} file{'s' if len(verdicts) != 1 else ''}"
    return {
        "summary": f"{files}: {told}{skipped}. {output.uri('verdicts.json')}",
        "counts": {name: counts[name] for name in VERDICTS},
    }


def table(result: dict) -> str:
    """The verdicts for people, a line each; what they were given with stands above."""
    checkpoint, thresholds = result["checkpoint"], result["thresholds"]
    kinds = [kind for kind in thresholds if any(verdict["kind"] == kind for verdict in result["verdicts"])]
    lines = [f"checkpoint {checkpoint['uri']} (sha256 {(checkpoint['sha256'] or 'unknown')[:16]})"]
    lines += [f"threshold of {kind}s {thresholds[kind]['logit']:+.3f}: {thresholds[kind]['rule']}" for kind in kinds]
    lines += [f"warning: {warning}" for warning in result["warnings"]]
    rows = [("input", "verdict", "score", "threshold", "frames", "remark")]
    rows += [_row(verdict) for verdict in result["verdicts"]]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines += ["", *("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)]
    lines += [f"skipped {one['name']}: {one['reason']}" for one in result["skipped"]]
    return "\n".join(lines)


def _row(verdict: dict) -> tuple[str, ...]:
    score = "-" if verdict["score"] is None else f"{verdict['score']:+.3f}"
    frames = f"{verdict['frames_with_face']}/{verdict['frames_decoded']}"
    return verdict["name"], verdict["verdict"], score, f"{verdict['threshold']:+.3f}", frames, verdict["reason"]


if __name__ == "__main__":
    sys.exit(run_job("detect", main, needs_ray=False, in_run_folder=False))
