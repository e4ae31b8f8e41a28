"""Searches training epsilon, PGD steps, Lipschitz weight and more with Ray Tune and ASHA.

Every trial is one worker on its share of the cluster and is measured at one fixed threat (`tune.threat`), never at its own
epsilon: else a trial that trains at a tiny epsilon would look the most robust.

    python -m jobs.tune [--config FILE] [--profile NAME] [section.key=value ...]
"""
from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

from ray import tune
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE
from ray.tune.schedulers import ASHAScheduler

from cluster.demands import demand_of, room
from jobs import telemetry
from jobs.budget import device_hours
from jobs.cli import run_job
from jobs.known_trials import newest_state, trials_of
from jobs.progress import Progress
from jobs.room import Nodes, require_room, waits_s
from jobs.run_folder import RunFolder
from jobs.search_space import CHOICES, param_space, require_recipes
from jobs.searchers import search_algorithm
from jobs.trial_resume import StepCost, checkpoint_folder
from jobs.tuned import with_settings
from jobs.watchdog import Watchdog
from robust.config import Config, RecipeConfig
from robust.config_file import parse
from robust.errors import ConfigError, UserError
from robust.evaluation.importance import importances
from robust.evaluation.pareto import pareto_front
from robust.evaluation.trials_page import FIGURES, trials_page
from robust.storage import Storage

OBJECTIVE = "robust_auc"
EXPERIMENT = "trials"


def require_trials(config: Config, storage: Storage) -> None:
    """Raises: ConfigError: no search is asked for."""
    if config.tune.samples == 0:
        raise ConfigError("tune.samples is 0, which means no search; give the number of trials, as in tune.samples=16")


def search(config: Config, storage: Storage) -> dict:
    """Runs the trials that are missing, names the winner; a search that was stopped goes on where it was."""
    folder = RunFolder(storage, config)
    if folder.is_done("tune"):
        result = folder.result("tune")
        return {**result, "summary": f"there already: {result['summary'].removeprefix('there already: ')}"}
    require_recipes(config)
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # else fit() returns after Ctrl-C as if the search were complete
    withhold_credentials()
    tuner = resumable_tuner(config, storage)
    with Progress("tune", unit=f"{config.tune.samples} trials"):
        table = trial_table(tuner.fit(), root=storage.arrow()[1])
    if not any(row["status"] == "done" for row in table):
        raise UserError(f"tune: none of {len(table)} trials finished; the first error: {next((row['error'] for row in table if row['error']), 'none')}")
    best = choose(table, clean_tolerance=config.tune.clean_tolerance)
    result = {"trials": table, "front": [row["trial"] for row in front(table)], "winner": best,
              "clean_tolerance": config.tune.clean_tolerance,
              "importance": importance(table, config.run.seed), "not_run": config.tune.samples - len(table),
              "device": "GPU" if config.tune.gpus_per_trial else "CPU", "device_hours": hours(table, config),
              "threat": config.tune.threat.model_dump(mode="json"), "summary": summary(table, best, config)}
    storage.write_bytes(folder.key("tune", "trials.html"), trials_page(result).encode())
    return result


def withhold_credentials() -> None:
    """Keeps this process's storage keys out of the trials' runtime environment.

    Tune would put them in it by itself, and Ray writes runtime environments into its log and into the command line of a starting
    worker, which every user of the machine can read. Trials have the credentials of their node, as the workers of all other jobs do.
    """
    for name in [name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]:
        ENV_VARS_TO_PROPAGATE.discard(name)


def summary(table: list[dict], best: dict, config: Config) -> str:
    settings, failed = best["settings"], sum(row["error"] is not None for row in table)
    missing, budget = config.tune.samples - len(table), config.tune.budget_hours
    also = "".join(f", {name.replace('_', ' ')} {settings[name]}" for name in CHOICES if name in settings)
    also += f", step size {settings['step_size']:.2f} epsilon / steps" if "step_size" in settings else ""
    unrun = f", {missing} not run: the budget of {budget:g} device-hours is spent" if missing and budget else ""
    return (f"{len(table)} trials{f' ({failed} failed)' if failed else ''}{unrun}; best is {best['trial']}: epsilon {settings['epsilon']:.2f}, {settings['steps']} steps, Lipschitz weight "
            f"{settings['lipschitz_weight']:.1e}{also}; AUC {best['auc']:.3f} clean, {best['robust_auc']:.3f} under PGD at epsilon {config.tune.threat.epsilon:g}")


def resumable_tuner(config: Config, storage: Storage) -> tune.Tuner:
    """A new search, or the one whose state the storage holds."""
    settings = config.tune
    filesystem, path = storage.arrow(RunFolder(storage, config).key("tune"))
    trainable = tune.with_resources(tune.with_parameters(trial, config=config.model_dump(mode="json")),
                                    {"CPU": settings.cpus_per_trial, **({"GPU": settings.gpus_per_trial} if settings.gpus_per_trial else {})})
    nodes, experiment = require_room(config, "tune"), f"{path}/{EXPERIMENT}"
    if can_go_on(config, storage):
        return tune.Tuner.restore(experiment, trainable, storage_filesystem=filesystem, resume_unfinished=True, restart_errored=True)
    return tune.Tuner(
        trainable,
        param_space=param_space(settings),
        tune_config=tune.TuneConfig(
            metric=OBJECTIVE, mode="max", num_samples=settings.samples,
            search_alg=search_algorithm(config, concurrent=concurrent_trials(config, nodes)),
            scheduler=ASHAScheduler(time_attr="training_iteration", max_t=settings.epochs, grace_period=min(settings.grace_epochs, settings.epochs),
                                    reduction_factor=settings.reduction_factor),
        ),
        run_config=tune.RunConfig(name=EXPERIMENT, storage_path=path, storage_filesystem=filesystem, verbose=0,
                                  failure_config=tune.FailureConfig(max_failures=2),
                                  checkpoint_config=tune.CheckpointConfig(num_to_keep=1)),
    )


def can_go_on(config: Config, storage: Storage) -> bool:
    """Whether a search was stopped after its first trial was written down; what one that was stopped before left behind is removed."""
    top = RunFolder(storage, config).key("tune", EXPERIMENT)
    state = newest_state(key.removeprefix(f"{top}/") for key in storage.list(top))
    if state is not None and trials_of(storage.read_bytes(f"{top}/{state}")):
        return True
    storage.delete_prefix(top)
    return False


def concurrent_trials(config: Config, nodes: Nodes) -> int:
    """What the cluster holds at once, or fewer if the config says so; as many as that where trials that wait make it grow."""
    most = config.tune.max_concurrent or sys.maxsize
    return most if config.tune.max_concurrent and waits_s(config) else min(room(nodes, demand_of(config, "tune")), most)


def trial_recipe(config: Config, settings: dict) -> RecipeConfig:
    """The defended recipe with a trial's settings and length."""
    return with_settings(config.train.defended, **settings).model_copy(update={"epochs": config.tune.epochs})


def trial(settings: dict, config: dict) -> None:
    """One trial, in its own process; reports after each epoch and goes on from its own checkpoint."""
    import torch

    from robust.training.loop import Place
    from robust.training.session import initial_detector, limit_threads, load_crops, run_epochs
    from robust.training.state import save_state

    parsed = parse(config)
    parsed = parsed.model_copy(update={"train": parsed.train.model_copy(update={"patience": None})})  # it is ASHA that stops trials
    storage = Storage.from_config(parsed.storage)
    limit_threads(parsed.tune.cpus_per_trial)
    device = torch.device("cuda" if parsed.tune.gpus_per_trial > 0 and torch.cuda.is_available() else "cpu")
    torch.manual_seed(parsed.run.seed)
    recipe = trial_recipe(parsed, settings)
    crops = load_crops(parsed, storage)
    network, weights = initial_detector(parsed, recipe, storage)
    facts = {"weights": weights, "architecture": network.architecture.as_dict(), "crops": len(crops.train), "validation_crops": len(crops.validation),
             "threshold_from_training_videos": crops.validates_on_training, "inputs": crops.input_statistics()}
    threat = parsed.tune.threat.model_copy(update={"every": 1})
    place = Place(0, 1, device, parsed.train.loader_threads)
    steps = telemetry.steps_of(parsed.run.name, telemetry.TRIALS, parsed.train.batch_size)
    with (checkpoint_folder(tune.get_checkpoint()) as start, telemetry.trial_watched(parsed.run.name, begins=start is None) as epoch_ended,
          Watchdog(parsed.train.hang_timeout_s, "tune: a trial") as watchdog):
        watchdog.listen(network)
        cost = StepCost.of(start)
        epochs = run_epochs(parsed, recipe, threat, network, crops, place=place, resume=start, progress=steps)
        for training, figures, scores in watchdog.over(epochs):
            epoch_ended(figures)
            cost = cost.after(figures)
            folder = Path(tempfile.mkdtemp(prefix="trial-"))
            try:
                save_state(training, folder, {**facts, "cost": cost.as_dict()})
                tune.report(reported(training.epoch, figures, scores, cost.per_step),
                            checkpoint=tune.Checkpoint.from_directory(str(folder)))
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def reported(epoch: int, figures, scores: dict, cost: float) -> dict:
    """What a trial tells of an epoch (figures: EpochFigures; cost: seconds a step so far); TensorBoard has it under `ray/tune/`."""
    return {**scores, "epoch": epoch, "loss": figures.losses["total"], "seconds": figures.seconds, "cost": cost}


def trial_table(grid: tune.ResultGrid, *, root: str) -> list[dict]:
    """One row a trial: settings, last figures, epochs reached, the key of its checkpoint (below `root`, the storage's own path)."""
    rows = []
    for result in grid:
        metrics = result.metrics or {}
        finite = {name: _finite(metrics.get(name)) for name in ("auc", "robust_auc", "attack_success", "threshold", "frame_threshold", "threshold_fpr_5", "frame_threshold_fpr_5", "equal_error_logit", "frame_auc")}
        done = finite["robust_auc"] is not None and not result.error  # one that broke down later must not win
        rows.append({"trial": metrics.get("trial_id") or Path(result.path).name, "settings": dict(result.config), "status": "done" if done else "error", **finite,
                     "cost": _finite(metrics.get("cost")), "seconds": _finite(metrics.get("time_total_s")), "epochs": metrics.get("epoch", 0), "checkpoint": result.checkpoint.path.removeprefix(f"{root}/") if result.checkpoint else None,
                     "error": str(result.error).strip().splitlines()[-1] if result.error else None})
    return sorted(rows, key=lambda row: row["trial"])


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def front(table: list[dict]) -> list[dict]:
    """The finished trials that no other one beats in clean AUC, robust AUC and seconds a step together."""
    done = [row for row in table if row["status"] == "done"]
    points = [(row["auc"], row["robust_auc"], -math.inf if row["cost"] is None else -row["cost"]) for row in done]
    return [done[index] for index in pareto_front(points)]


def choose(table: list[dict], *, clean_tolerance: float) -> dict:
    """Of the front the most robust trial (robust AUC at the fixed threat) whose clean AUC is within the tolerance of the best.

    No trial off the front is better by that rule; between equals the cheaper one is taken.
    """
    candidates = front(table)
    bar = max(row["auc"] for row in candidates) - clean_tolerance
    return max((row for row in candidates if row["auc"] >= bar), key=lambda row: (row["robust_auc"], row["auc"]))


def importance(table: list[dict], seed: int) -> dict[str, dict[str, float]] | None:
    """Of each figure the share that each setting explains; a figure that is the same in all trials is left out."""
    done = [row for row in table if row["status"] == "done" and row["cost"] is not None]
    shares = {figure: importances([row["settings"] for row in done], [row[figure] for row in done], seed=seed) for figure in FIGURES}
    return {figure: share for figure, share in shares.items() if share} or None


def hours(table: list[dict], config: Config) -> float:
    """Device-hours of all trials: of GPUs where they have one, else of CPUs."""
    devices = config.tune.gpus_per_trial or config.tune.cpus_per_trial
    return round(device_hours(sum(row["seconds"] or 0.0 for row in table), devices), 4)


if __name__ == "__main__":
    from jobs.tune import search as main  # by its module's name: Ray's workers cannot import from __main__

    sys.exit(run_job("tune", main, first=require_trials))
