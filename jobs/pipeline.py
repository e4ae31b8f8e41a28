"""Everything in order, from videos to the attack report; each stage is skipped if the run has it.

    demo data (if asked) -> extract -> train baseline -> tune -> train defended -> evaluate

    python -m jobs.pipeline [--config FILE] [--profile demo] [section.key=value ...]
"""
from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.monitoring import event_files
from jobs.cli import run_job, run_stage
from jobs.demo_data import make_demo_data
from jobs.run_folder import RunFolder
from robust.config import Config
from robust.storage import Storage


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_job("pipeline", pipeline, first=look_first, argv=argv)


def look_first(config: Config, storage: Storage) -> None:
    """Before the run's name is taken: preflight's remedies may change settings that the name would be tied to.

    Raises: UserError: preflight says that the run would fail.
    """
    from jobs.preflight import require_preflight, stages_of

    require_preflight(config, storage, stages_of(config, "pipeline"))


def pipeline(config: Config, storage: Storage) -> dict:
    """Runs the stages; returns seconds and summaries of each."""
    told: dict[str, dict] = {}

    def stage(label: str, name: str, main: Callable[[Config, Storage], dict], settings: Config = config) -> dict:
        print(f"pipeline: {label} ...", flush=True)
        began = time.monotonic()
        result = run_stage(name, main, settings, storage)
        told[label] = {"seconds": round(time.monotonic() - began, 1), "summary": result.get("summary", "done")}
        print(f"pipeline: {label}: {told[label]['summary']} ({told[label]['seconds']:.0f} s)", flush=True)
        return result

    if config.data.demo.enabled:
        print("pipeline: demo data ...", flush=True)
        began = time.monotonic()
        counts = make_demo_data(config)
        told["demo data"] = {"seconds": round(time.monotonic() - began, 1), "summary": str(counts)}
        print(f"pipeline: demo data: {counts} ({told['demo data']['seconds']:.0f} s)", flush=True)
    # Imported here: each brings Ray, torch or both, and what comes before should be seen at once.
    from jobs.evaluate import evaluate
    from jobs.extract import extract
    from jobs.train import train
    from jobs.tune import search

    stage("extract", "extract", extract)
    if "baseline" in config.train.models:
        stage("train baseline", "train", train, only_model(config, "baseline"))
    if "defended" in config.train.models:
        if config.tune.samples:
            stage("tune", "tune", search)
        else:
            told["tune"] = {"seconds": 0.0, "summary": "no search (tune.samples=0)"}
            print(f"pipeline: tune: {told['tune']['summary']}", flush=True)
        stage("train defended", "train", train)
    result = stage("evaluate", "evaluate", evaluate)
    folder = local_copies(config, storage)
    print(f"pipeline: TensorBoard: {Path(sys.executable).parent / 'tensorboard'} --logdir {folder / 'tensorboard'} --host 127.0.0.1", flush=True)
    return {"stages": told, "report": result.get("report"), "credible": result.get("credible"),
            "summary": f"{result.get('verdict', 'done')}. Report: {folder / 'report' / 'index.html'}"}


def only_model(config: Config, name: str) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"models": [name]})})


def local_copies(config: Config, storage: Storage) -> Path:
    """The run's folder of local outputs, with the contact sheet and TensorBoard's event files of all stages (evaluate has put the report there)."""
    from jobs.extract_sheet import SHEET

    folder = Path(config.cluster.outputs) / config.run.name
    sheet = RunFolder(storage, config).key("extract", SHEET)
    if storage.exists(sheet):  # without one, extract has said why
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SHEET).write_bytes(storage.read_bytes(sheet))
    event_files.sync(storage, config.run.name, folder / "tensorboard", longest_s=math.inf)
    return folder


if __name__ == "__main__":
    sys.exit(main())
