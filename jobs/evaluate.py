"""Checkpoints to the attack report: `python -m jobs.evaluate [--config F] [section.key=value ...]`.

    face crops (test) -> blocks -> attack (tasks, sharded) -> block results in storage -> tables, report, summary.json
                      -> a sample -> gates (a task a model) -> verdict: exit code 3 if the figures cannot be believed

Each finished block is kept in storage, so the same command goes on where a stopped one was. How a crop is attacked is
in robust/evaluation/attack_block.py, what the figures are in robust/evaluation/; here is only how the work is spread.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import ray
import torch

from jobs import gate_tasks
from jobs.cli import run_job
from jobs.progress import Progress
from jobs.run_folder import RunFolder
from robust.config import Config, StorageConfig, fingerprint, science
from robust.data.shards import read_status
from robust.errors import UserError
from robust.evaluation import attack_block, blocks, gallery
from robust.evaluation.attack_block import Cell
from robust.evaluation.blocks import Block
from robust.evaluation.credibility import Sample
from robust.evaluation.predictions import check_predictions
from robust.evaluation.protocol import build_tables
from robust.evaluation.report import render
from robust.evaluation.summary import EvaluatedModel, build_summary
from robust.evaluation.tensorboard import write_tensorboard
from robust.models.checkpoint import load_checkpoint
from robust.storage import Storage

SPLIT = "test"
OWN_MODELS = ("baseline", "defended")
READ_THREADS = 8
CHECKS = (
    {"name": "input_statistics", "passed": True,
     "detail": "every batch that a model was given is in [0, 1] and varies like pictures do"},
    {"name": "eval_mode", "passed": True, "detail": "attack and score used the models in evaluation mode"},
    {"name": "same_model", "passed": True, "detail": "clean logits agree from attack to attack"},
)
"""These hold for every crop, and one that fails ends the job, so a report has only passed ones. Gates may fail: see docs/gates.md."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A checkpoint to evaluate: its name in the report and where it lies."""

    name: str
    storage: StorageConfig
    key: str
    card: dict = dataclasses.field(hash=False)

    @property
    def sha256(self) -> str:
        return self.card["sha256"]


@dataclasses.dataclass(frozen=True)
class Task:
    """One block on one model, under the cells that have no result yet; `results` are the keys to write."""

    candidate: Candidate
    block: Block
    cells: tuple[Cell, ...]
    results: tuple[str, ...]


def evaluate(config: Config, storage: Storage) -> dict:
    """Attacks every checkpoint on the test crops and writes the report; returns what result.json holds.

    Raises:
        UserError: no checkpoint, no test crops, a checkpoint that cannot be read, or a cluster that is too small.
    """
    began = time.monotonic()
    status = read_status(storage, config.run.name)
    candidates = find_candidates(config, storage)
    cells = attack_block.cells(config.evaluate)
    plan = blocks.plan_blocks(status, split=SPLIT, block_size=config.evaluate.block_size,
                              max_frames=config.evaluate.frames_per_video)
    if not plan:
        raise UserError(f"run {config.run.name} has no face crops of the {SPLIT} split; run jobs.extract first, or see data.splits")
    tasks = missing_tasks(config, storage, candidates, plan, cells)
    attack_seconds = run_tasks(config, storage, tasks)
    predictions = check_predictions(collect(config, storage, candidates, plan, cells))
    gates = run_gates(config, storage, candidates, status, cells)
    strips = make_gallery(config, storage, candidates, predictions, cells)
    timing = {"attack_seconds": attack_seconds, "seconds": round(time.monotonic() - began, 1),
              "finished": datetime.now(timezone.utc).isoformat(timespec="minutes")}
    summary = summarise(config, status, candidates, cells, plan, predictions, gates, timing)
    return publish(config, storage, summary, strips, predictions, computed=sum(len(task.cells) for task in tasks))


# ---------------------------------------------------------------------------------------------------- what to do


def find_candidates(config: Config, storage: Storage) -> list[Candidate]:
    """The run's own models, the baseline first, then those of evaluate.checkpoints."""
    places = [(name, config.storage, f"{config.run.name}/train/{name}") for name in OWN_MODELS]
    places = [place for place in places if storage.exists(f"{place[2]}/card.json")]
    for name, uri in config.evaluate.checkpoints.items():
        if name in OWN_MODELS:
            raise UserError(f"evaluate.checkpoints.{name}: {name} is the name of the run's own model; choose another")
        root, slash, folder = uri.rstrip("/").rpartition("/")
        places.append((name, config.storage.model_copy(update={"uri": root or slash or "."}), folder))
    if not places:
        raise UserError(f"run {config.run.name} has no trained model and evaluate.checkpoints names none; run jobs.train first")
    return [_candidate(*place) for place in places]


def _candidate(name: str, storage: StorageConfig, key: str) -> Candidate:
    place = Storage.from_config(storage)
    _, card = load_checkpoint(place, key)  # a damaged one is told now, not from a task
    return Candidate(name, storage.model_copy(update={"uri": place.uri()}), key, card)  # tasks run in other folders


def missing_tasks(
    config: Config, storage: Storage, candidates: list[Candidate], plan: list[Block], cells: list[Cell]
) -> list[Task]:
    """What has no result in storage yet."""
    done = set(storage.list(_blocks_prefix(config)))
    tasks = []
    for candidate in candidates:
        for block in plan:
            keys = {cell: result_key(config, candidate, block, cell) for cell in cells}
            missing = {cell: key for cell, key in keys.items() if key not in done}
            if missing:
                tasks.append(Task(candidate, block, tuple(missing), tuple(missing.values())))
    return tasks


def _blocks_prefix(config: Config) -> str:
    return f"{config.run.name}/evaluate/blocks"


def result_key(config: Config, candidate: Candidate, block: Block, cell: Cell) -> str:
    """Where the result of one block of one cell is kept; models are told apart by their weights, not by their names."""
    name = blocks.result_name(block, cell, model=candidate.sha256, batch_size=config.evaluate.batch_size, seed=config.run.seed)
    return f"{_blocks_prefix(config)}/{name}.parquet"


# ---------------------------------------------------------------------------------------------------- on the cluster


def run_tasks(config: Config, storage: Storage, tasks: list[Task]) -> float:
    """Runs the tasks over the cluster; returns the seconds that they took, summed over tasks."""
    if not tasks:
        return 0.0
    require_resources(config)
    total = sum(task.block.crops * len(task.cells) for task in tasks)
    waiting = {_remote(config, attack_task).remote(config, storage, task): task for task in tasks}
    seconds = 0.0
    with Progress("evaluate", total=total, unit="attacked crops") as progress:
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            seconds += ray.get(ready)
            task = waiting.pop(ready)
            progress.advance(task.block.crops * len(task.cells), note=task.candidate.name)
    return round(seconds, 1)


def require_resources(config: Config) -> None:
    """Raises UserError if no node of the cluster can ever run a task, instead of waiting for one without end."""
    need = {"CPU": config.evaluate.cpus_per_task, "GPU": config.evaluate.gpus_per_task}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in need.items()) for node in nodes):
        raise UserError(
            f"no node of the cluster has evaluate.cpus_per_task={need['CPU']:g} CPUs and "
            f"evaluate.gpus_per_task={need['GPU']:g} GPUs; lower them or add such a node"
        )


def _remote(config: Config, function):
    return ray.remote(function).options(num_cpus=config.evaluate.cpus_per_task, num_gpus=config.evaluate.gpus_per_task)


def attack_task(config: Config, storage: Storage, task: Task) -> float:
    """Attacks one block under each missing cell and keeps each result as soon as it is there; returns the seconds."""
    began = time.monotonic()
    device = _device(config)
    model = load_model(task.candidate.storage, task.candidate.key, task.candidate.sha256, device)
    crops, pixels = blocks.read_block(storage, config.run.name, task.block, size=model.input_size,
                                      max_frames=config.evaluate.frames_per_video)
    labels = crops.column("label").to_numpy()
    for cell, key in zip(task.cells, task.results, strict=True):
        clean, adversarial = attack_block.attack_block(
            model, pixels, labels, cell, batch_size=config.evaluate.batch_size, seed=config.run.seed, device=device)
        storage.write_table(key, blocks.block_result(crops, clean, adversarial))
    return time.monotonic() - began


def run_gates(
    config: Config, storage: Storage, candidates: list[Candidate], status: pa.Table, cells: list[Cell]
) -> list[dict]:
    """The gates of every model, those without a kept outcome as one task each; empty if they are switched off."""
    if not config.evaluate.gates.enabled:
        return []
    return gate_tasks.read_or_run(config, storage, candidates, status, headline_cell(config, cells), split=SPLIT,
                                  run=functools.partial(run_gate_tasks, config, storage))


def run_gate_tasks(config: Config, storage: Storage, jobs: list[tuple]) -> None:
    """Runs `gates_task` for each job over the cluster."""
    if jobs:
        require_resources(config)
        ray.get([_remote(config, gates_task).remote(config, storage, *job) for job in jobs])


def gates_task(config: Config, storage: Storage, candidate: Candidate, sample: Sample, cell: Cell, key: str) -> None:
    """The gates of one model; keeps their outcome."""
    device = _device(config)
    model = load_model(candidate.storage, candidate.key, candidate.sha256, device)
    gate_tasks.measure(config, storage, model, candidate.card, sample, cell, key, device=device)


def shown_attack(config: Config, cells: list[Cell]) -> tuple[str, float]:
    """Attack and epsilon of the headline; the worst case of a single attack is that attack."""
    attack, epsilon = config.evaluate.headline
    names = {cell.attack for cell in cells}
    return (attack, epsilon) if attack in names or len(names) > 1 else (min(names), epsilon)


def headline_cell(config: Config, cells: list[Cell]) -> Cell:
    """The attack of the headline; for the worst case, that of the gates and the gallery: the first there is of these."""
    attack, epsilon = config.evaluate.headline
    of_epsilon = {cell.attack: cell for cell in cells if cell.epsilon == epsilon}
    order = [attack, "pgd", "apgd", "apgd_ce", "fmn", "fgsm", *of_epsilon]
    return of_epsilon[next(name for name in order if name in of_epsilon)]


def gallery_task(config: Config, storage: Storage, candidate: Candidate, cell: Cell, shown: list[tuple]) -> list[tuple]:
    """(clean, perturbed, difference) pictures of some crops, given as (block, video_id, frame_index, label)."""
    device = _device(config)
    model = load_model(candidate.storage, candidate.key, candidate.sha256, device)
    pictures = []
    for block, video_id, frame_index, label in shown:
        one = dataclasses.replace(block, video_ids=(video_id,))
        crops, pixels = blocks.read_block(storage, config.run.name, one, size=model.input_size,
                                          max_frames=config.evaluate.frames_per_video)
        pixels = pixels[crops.column("frame_index").to_numpy() == frame_index][:1]
        labels = torch.tensor([label], device=device)
        ((perturbed, difference),) = gallery.attack_examples(model, pixels, labels, cell, seed=config.run.seed)
        pictures.append((gallery.webp(pixels[0]), perturbed, difference))
    return pictures


def _device(config: Config) -> str:
    torch.set_num_threads(max(1, int(config.evaluate.cpus_per_task)))
    if config.evaluate.gpus_per_task == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError("evaluate.gpus_per_task is above 0, but torch sees no CUDA device on this node; set it to 0")
    return "cuda"


@functools.lru_cache(maxsize=1)
def load_model(storage: StorageConfig, key: str, sha256: str, device: str) -> torch.nn.Module:
    """The checkpoint in eval mode; a worker process keeps the last one, as its next task is mostly of the same model."""
    model, card = load_checkpoint(Storage.from_config(storage), key)
    if card["sha256"] != sha256:
        raise UserError(f"checkpoint {key} changed while it was being evaluated; run jobs.evaluate again")
    return model.to(device, memory_format=torch.channels_last).eval()


# ---------------------------------------------------------------------------------------------------- results


def collect(
    config: Config, storage: Storage, candidates: list[Candidate], plan: list[Block], cells: list[Cell]
) -> pa.Table:
    """All kept results as one table of predictions."""
    wanted = [(candidate, block, cell) for candidate in candidates for block in plan for cell in cells]

    def read(item):
        candidate, block, cell = item
        return blocks.as_predictions(storage.read_table(result_key(config, candidate, block, cell)), candidate.name, cell)

    with ThreadPoolExecutor(READ_THREADS) as pool:
        return pa.concat_tables(pool.map(read, wanted))


def make_gallery(
    config: Config, storage: Storage, candidates: list[Candidate], predictions: pa.Table, cells: list[Cell]
) -> list[gallery.Strip]:
    """The strip of images under the attack of the headline."""
    cell = headline_cell(config, cells)
    examples = gallery.choose_examples(predictions, candidates[0].name, cell, config.evaluate.gallery)
    if not examples:
        return []
    plan = blocks.plan_blocks(read_status(storage, config.run.name), split=SPLIT, block_size=1)
    block_of = {video_id: block for block in plan for video_id in block.video_ids}
    shown = [(block_of[one.video_id], one.video_id, one.frame_index, one.label) for one in examples]
    remote = _remote(config, gallery_task)
    pictures = ray.get([remote.remote(config, storage, candidate, cell, shown) for candidate in candidates])
    names = [candidate.name for candidate in candidates]
    return gallery.make_strips(examples, dict(zip(names, pictures, strict=True)), predictions, cell)


def summarise(
    config: Config, status: pa.Table, candidates: list[Candidate], cells: list[Cell], plan: list[Block],
    predictions: pa.Table, gates: list[dict], timing: dict,
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
    return build_summary(tables, run=config.run.name, models=models, cells=cells, headline=shown_attack(config, cells),
                         data=count_videos(status), settings=settings, checks=CHECKS, gates=gates, timing=timing)


def count_videos(status: pa.Table) -> dict:
    """Videos of the test split by status, and the list of those without any face crop."""
    videos = [row for row in status.to_pylist() if row["split"] == SPLIT]
    skipped = [{name: row[name] for name in ("video_id", "status", "reason")} for row in videos if row["frames_found"] == 0]
    return {"videos": dict(sorted(Counter(row["status"] for row in videos).items())), "skipped": skipped}


def publish(
    config: Config, storage: Storage, summary: dict, strips: list[gallery.Strip], predictions: pa.Table, *, computed: int
) -> dict:
    """Writes predictions, report, summary and event files; a copy of the report goes to the local outputs folder."""
    run = RunFolder(storage, config)
    page = render(summary, strips).encode()
    storage.write_table(run.key("evaluate", "predictions.parquet"), predictions)
    storage.write_json(run.key("report", "summary.json"), summary)
    storage.write_bytes(run.key("report", "index.html"), page)
    copy = Path(config.cluster.outputs).absolute() / config.run.name / "report"
    copy.mkdir(parents=True, exist_ok=True)
    (copy / "index.html").write_bytes(page)
    (copy / "summary.json").write_bytes(storage.read_bytes(run.key("report", "summary.json")))
    upload_tensorboard(storage, f"{config.run.name}/tensorboard/evaluate", summary, strips)
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


def upload_tensorboard(storage: Storage, prefix: str, summary: dict, strips: list[gallery.Strip]) -> None:
    """Replaces the event files of an earlier evaluation of the run."""
    storage.delete_prefix(prefix)
    with tempfile.TemporaryDirectory() as folder:
        write_tensorboard(Path(folder), summary, strips)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                storage.upload(path, f"{prefix}/{path.relative_to(folder).as_posix()}")


if __name__ == "__main__":
    from jobs.evaluate import evaluate as main  # by its module's name: Ray's workers cannot import from __main__

    sys.exit(run_job("evaluate", main))
