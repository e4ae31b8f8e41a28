"""Checkpoints to the attack report: `python -m jobs.evaluate [--config F] [section.key=value ...]`.

    face crops (test) -> blocks -> attack (tasks, sharded) -> block results in storage -> tables, report, summary.json
                      -> a sample -> gates (a task a model) -> verdict: exit code 3 if the figures cannot be believed

Each finished block is kept in storage, so the same command goes on where a stopped one was. How a crop is attacked is
in robust/evaluation/attack_block.py, what the figures are in robust/evaluation/; here is only how the work is spread.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import nn

from jobs import gate_tasks, surrogates, telemetry
from jobs.block_tasks import collect, everybody, missing_tasks, run_tasks
from jobs.candidates import Candidate, find_candidates
from jobs.cli import run_job
from jobs.codec_tasks import measure_codecs, shared_attacks
from jobs.corruption_tasks import measure_corruptions
from jobs.export_tasks import export_examples
from jobs.gallery_task import headline_cell, make_gallery
from jobs.gate_tasks import run_gate_tasks
from jobs.run_folder import RunFolder
from jobs.smoothing_tasks import measure_smoothing
from jobs.universal_tasks import choose_validation, measure_universal
from jobs.whole_video_tasks import measure_whole_videos
from robust.config import Config
from robust.config_identity import fingerprint, science
from robust.data import image_folder, people
from robust.data.shards import read_status
from robust.errors import UserError
from robust.evaluation import attack_block, blocks, gallery, passes, sequence
from robust.evaluation.attack_block import Cell
from robust.evaluation.blocks import SPLIT, Block
from robust.evaluation.comparators import read_comparators
from robust.evaluation.credibility import judge
from robust.evaluation.predictions import check_predictions
from robust.evaluation.protocol import build_tables
from robust.evaluation.report import render
from robust.evaluation.summary import EvaluatedModel, build_summary
from robust.evaluation.tensorboard import write_tensorboard
from robust.evaluation.universal_table import Picture
from robust.storage import Storage

CHECKS = (
    {"name": "input_statistics", "passed": True,
     "detail": "every batch that a model was given is in [0, 1] and varies like pictures do"},
    {"name": "eval_mode", "passed": True, "detail": "attack and score used the models in evaluation mode"},
    {"name": "same_model", "passed": True, "detail": "clean logits agree from attack to attack"},
)
"""These hold for every crop, and one that fails ends the job, so a report has only passed ones. Gates may fail: see docs/gates.md."""

TABLES = {"corruptions": "corruptions.parquet", "codec": "codec.parquet", "whole_video": "whole_video.parquet",
          "universal": "universal.parquet", "smoothing": "certificates.parquet"}
"""The logits or votes of each part that can be left out, below the run's evaluate/ folder."""


def evaluate(config: Config, storage: Storage) -> dict:
    """Attacks every checkpoint on the test crops and writes the report; returns what result.json holds.

    Raises:
        UserError: no checkpoint, no test crops, a checkpoint that cannot be read, or a cluster that is too small.
    """
    began = time.monotonic()
    status, problems = (image_folder.import_images(storage, config) if config.evaluate.images
                        else (read_status(storage, config.run.name), []))
    for problem in problems:
        print(f"evaluate: note: {problem}", flush=True)
    candidates = find_candidates(config, storage)
    cells, not_run = surrogates.possible_cells(candidates, attack_block.cells(config.evaluate))
    shared, validation = shared_attacks(config, headline_cell(config, cells), cells), choose_validation(config, status)
    plan = blocks.plan_blocks(status, split=SPLIT, block_size=config.evaluate.block_size,
                              max_frames=config.evaluate.frames_per_video, everybody=everybody(config))
    if not plan:
        raise UserError(f"run {config.run.name} has no face crops of the {SPLIT} split; run jobs.extract first (or see evaluate.images, data.splits)")
    sequential = config.evaluate.sequential
    items_of = {candidate: sequence.plan_items(
        surrogates.cells_of(candidate, candidates, cells),
        EvaluatedModel(candidate.name, candidate.card).thresholds if sequential else None) for candidate in candidates}
    measure = functools.partial(attack_crops, candidates=candidates)
    tasks = [task for candidate in candidates
             for task in missing_tasks(config, storage, [candidate], plan, measure, items_of[candidate])]
    gates = run_gates(config, storage, candidates, status, cells)  # before hours of an attack that they may find broken
    print(f"evaluate: {judge(gates)['text']}", flush=True)
    attack_seconds = run_tasks(config, storage, tasks)
    predictions, cost = read_predictions(config, storage, plan, items_of)
    if sequential:
        predictions = sequence.accumulate(predictions, list(dict.fromkeys(cell.attack for cell in cells)))
    universal, patterns = measure_universal(config, storage, candidates, status, predictions, validation,
                                            shown=config.evaluate.headline[1], run=run_tasks)
    parts = {
        "not_run": not_run,
        "cost": cost,
        "corruptions": measure_corruptions(config, storage, candidates, status, run=run_tasks),
        "codec": measure_codecs(config, storage, candidates, status, shared, run=run_tasks),
        "whole_video": measure_whole_videos(config, storage, candidates, status, predictions, run=run_tasks),
        "universal": universal,
        "smoothing": measure_smoothing(config, storage, candidates, status, run=run_tasks),
        "export": export_examples(config, storage, candidates, status, headline_cell(config, cells), run=run_tasks),
        "comparators": read_comparators(storage, config.run.name, {one.name: one.sha256 for one in candidates}),
    }
    strips = make_gallery(config, storage, candidates, predictions, cells)
    timing = {"attack_seconds": attack_seconds, "seconds": round(time.monotonic() - began, 1),
              "finished": datetime.now(timezone.utc).isoformat(timespec="minutes")}
    summary = summarise(config, status, candidates, cells, plan, predictions, gates, parts, timing)
    return publish(config, storage, summary, strips, predictions, patterns=patterns,
                   computed=sum(len(task.items) for task in tasks))


def attack_crops(
    model: nn.Module, crops: pa.Table, pixels: np.ndarray, item: Cell, config: Config, device: str, *before: pa.Table,
    candidates: Sequence[Candidate] = (),
) -> pa.Table:
    """The measurement of this job: the logits of a block's crops before and after one attack."""
    return sequence.measure(
        model, crops, pixels, item, before, batch_size=config.evaluate.batch_size, seed=config.run.seed, device=device,
        surrogates=surrogates.load_surrogates(item, candidates, device))


def read_predictions(
    config: Config, storage: Storage, plan: list[Block], items_of: dict[Candidate, list[Cell]]
) -> tuple[pa.Table, list[dict]]:
    """Every crop's logits from the kept results, and what each attack cost."""
    tables, counts = [], {}
    for target, items in items_of.items():
        for candidate, item, result in collect(config, storage, [target], plan, items):
            tables += sequence.as_predictions(result, candidate.name, item)
            key = candidate.name, item.attack
            counts[key] = counts.get(key, passes.Passes()) + passes.passes_of(result)
    return check_predictions(pa.concat_tables(tables)), passes.cost_records(counts)


def run_gates(
    config: Config, storage: Storage, candidates: list[Candidate], status: pa.Table, cells: list[Cell]
) -> list[dict]:
    """The gates of every model, those without a kept outcome as one task each; empty if they are switched off."""
    if not config.evaluate.gates.enabled:
        return []
    return gate_tasks.read_or_run(config, storage, candidates, status, gate_tasks.gates_cell(config, cells), split=SPLIT,
                                  run=functools.partial(run_gate_tasks, config, storage))


def shown_attack(config: Config, cells: list[Cell]) -> tuple[str, float]:
    """Attack and epsilon of the headline; the worst case of a single attack is that attack."""
    attack, epsilon = config.evaluate.headline
    names = {cell.attack for cell in cells}
    return (attack, epsilon) if attack in names or len(names) > 1 else (min(names), epsilon)


def summarise(
    config: Config, status: pa.Table, candidates: list[Candidate], cells: list[Cell], plan: list[Block],
    predictions: pa.Table, gates: list[dict], parts: dict[str, dict | list | None], timing: dict,
) -> dict:
    """The document of summary.json."""
    models = [EvaluatedModel(candidate.name, candidate.card) for candidate in candidates]
    tables = build_tables(predictions, {model.name: model.thresholds for model in models},
                          resamples=config.evaluate.bootstrap, seed=config.run.seed)
    settings = {
        "seed": config.run.seed,
        "evaluate": science(config.evaluate),
        "configuration": fingerprint(config, ("data", "extract", "evaluate")),
        "crops": attack_block.block_hash(content=sorted(block.content for block in plan)),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "timm", "ray", "scikit-learn")},
    }
    return build_summary(tables, run=config.run.name, models=models, cells=cells, sequential=config.evaluate.sequential,
                         headline=shown_attack(config, cells),
                         data={**count_videos(status), "people": judged_people(config, predictions)},
                         settings=settings, checks=CHECKS, gates=gates, **parts, timing=timing)


def count_videos(status: pa.Table) -> dict:
    """Videos of the test split by status, and the list of those without any face crop."""
    videos = [row for row in status.to_pylist() if row["split"] == SPLIT]
    skipped = [{name: row[name] for name in ("video_id", "status", "reason")} for row in videos if row["frames_found"] == 0]
    counts = dict(sorted(Counter(row["status"] for row in videos).items()))
    return {"videos": counts, "skipped": skipped, "note": image_folder.note_of(videos) or people.note_of(videos)}


def judged_people(config: Config, predictions: pa.Table) -> dict:
    """Who of a video is judged, "subject" or "all", and how many of the evaluated videos show several people."""
    tracks = predictions.select(["video_id", "track"]).group_by("video_id").aggregate([("track", "count_distinct")])
    several = sum(count > 1 for count in tracks.column("track_count_distinct").to_pylist())
    return {"judged": config.extract.people, "videos_with_several": several}


def publish(
    config: Config, storage: Storage, summary: dict, strips: list[gallery.Strip], predictions: pa.Table, *,
    patterns: list[Picture], computed: int,
) -> dict:
    """Writes predictions, report, summary and event files; a copy of the report goes to the local outputs folder."""
    run = RunFolder(storage, config)
    telemetry.evaluated(summary)
    page = render(summary, strips, patterns).encode()
    for part, name in TABLES.items():
        if summary[part] is None:  # an earlier evaluation measured it, perhaps on other weights
            storage.delete(run.key("evaluate", name))
    storage.write_table(run.key("evaluate", "predictions.parquet"), predictions)
    storage.write_json(run.key("report", "summary.json"), summary)
    storage.write_bytes(run.key("report", "index.html"), page)
    copy = Path(config.cluster.outputs).absolute() / config.run.name / "report"
    copy.mkdir(parents=True, exist_ok=True)
    (copy / "index.html").write_bytes(page)
    (copy / "summary.json").write_bytes(storage.read_bytes(run.key("report", "summary.json")))
    upload_tensorboard(storage, f"{config.run.name}/tensorboard/evaluate", summary, strips, patterns)
    return {
        "summary": f"{last_line(summary)} Report: {copy / 'index.html'}",
        "verdict": summary["verdict"]["text"],
        "credible": summary["verdict"]["credible"],
        "headline": summary["headline"],
        "report": storage.uri(run.key("report", "index.html")),
        "models": {model["name"]: model["sha256"] for model in summary["models"]},
        "predictions": len(predictions),
        "blocks_computed": computed,
        "skipped_videos": len(summary["data"]["skipped"]),
    }


def last_line(summary: dict) -> str:
    """The headline, or what stands against one and what to do."""
    if summary["headline"] is not None:
        return f"{summary['headline']['text']} {summary['verdict']['text']}."
    first = next(gate for gate in summary["gates"] if not gate["passed"])
    return f"{summary['verdict']['text']}. {first['name']}: {first['measured']}; {first['remedy']}."


def upload_tensorboard(
    storage: Storage, prefix: str, summary: dict, strips: list[gallery.Strip], patterns: list[Picture]
) -> None:
    """Replaces the event files of an earlier evaluation of the run."""
    storage.delete_prefix(prefix)
    with tempfile.TemporaryDirectory() as folder:
        write_tensorboard(Path(folder), summary, strips, patterns)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                storage.upload(path, f"{prefix}/{path.relative_to(folder).as_posix()}")


if __name__ == "__main__":
    from jobs.evaluate import evaluate as main  # by its module's name: Ray's workers cannot import from __main__

    sys.exit(run_job("evaluate", main))
