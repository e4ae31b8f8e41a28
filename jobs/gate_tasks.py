"""The gates of an evaluation on the cluster: one task a model, whose outcome is kept in storage."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import pyarrow as pa
import ray

from jobs.candidates import Candidate, load_model
from jobs.gallery_task import WITH_GRADIENTS, headline_cell
from jobs.room import require_room
from jobs.surrogates import load_surrogates, other_models
from jobs.task_pool import device_of, remote
from robust.config import Config
from robust.evaluation import credibility
from robust.evaluation.attack_block import Cell, block_hash
from robust.evaluation.credibility import Sample
from robust.storage import Storage


def gates_cell(config: Config, cells: list[Cell]) -> Cell:
    """The attack whose epsilon, steps and restarts the gates' own PGD gets.

    Where the headline's takes no gradient steps, or others than PGD's (the queries of Square, views of EOT), another one
    of the suite; a suite without one gets the 20 steps of `quick`.
    """
    cell = headline_cell(config, cells)
    of_epsilon = {other.attack: other for other in cells if other.epsilon == cell.epsilon}
    if cell.attack in WITH_GRADIENTS:
        return cell
    like_pgd = dataclasses.replace(cell, attack="pgd", steps=20, restarts=1, samples=1, surrogates=())
    return next((of_epsilon[name] for name in WITH_GRADIENTS if name in of_epsilon), like_pgd)


def gates_key(config: Config, candidate: Candidate, sample: Sample, cell: Cell) -> str:
    """Where the outcome of one model is kept; models are told apart by what they compute and were trained on."""
    model = block_hash(function=candidate.function, inputs=candidate.card.get("inputs"))
    name = credibility.gates_name(sample, cell, model=model, seed=config.run.seed)
    return f"{config.run.name}/evaluate/gates/{name}.json"


def read_or_run(config: Config, storage: Storage, candidates: Sequence[Candidate], status: pa.Table, cell: Cell, *, split: str,
                run: Callable) -> list[dict]:
    """All gates on all models, in order: {"model", "name", "passed", "measured", "remedy"}.

    Args:
        candidates: the models.
        run: run(jobs) runs `gates_task(config, storage, *job)` for each job and returns when all are done.
    """
    sample = credibility.choose_sample(status, split=split, images=config.evaluate.gates.images,
                                       max_frames=config.evaluate.frames_per_video)
    cells = {candidate: dataclasses.replace(cell, surrogates=other_models(candidate, candidates)) for candidate in candidates}
    keys = {candidate: gates_key(config, candidate, sample, cells[candidate]) for candidate in candidates}
    missing = {key: candidate for candidate, key in keys.items() if not storage.exists(key)}  # equal models: once
    run([(candidate, sample, cells[candidate], key, tuple(candidates)) for key, candidate in missing.items()])
    return [{"model": candidate.name, **gate} for candidate in candidates for gate in storage.read_json(keys[candidate])["gates"]]


def run_gate_tasks(config: Config, storage: Storage, jobs: Sequence[tuple]) -> None:
    """Runs `gates_task` for each job over the cluster."""
    if jobs:
        require_room(config, "evaluate")
        ray.get([remote(config, gates_task).remote(config, storage, *job) for job in jobs])


def gates_task(config: Config, storage: Storage, candidate: Candidate, sample: Sample, cell: Cell, key: str,
               candidates: Sequence[Candidate]) -> None:
    """Runs the gates on one model and keeps their outcome; the cell names the weights of those that transfer is made on."""
    began = time.monotonic()
    device = device_of(config)
    model = load_model(candidate.storage, candidate.key, candidate.sha256, device)
    crops, pixels = credibility.read_sample(storage, config.run.name, sample, size=model.input_size)
    labels = crops.column("label").to_numpy()
    gates = credibility.gates_on_crops(model, pixels, labels, cell, seed=config.run.seed, card=candidate.card,
                                       device=device, surrogates=load_surrogates(cell, candidates, device))
    storage.write_json(key, {"gates": gates, "images": len(crops), "seconds": round(time.monotonic() - began, 1)})
