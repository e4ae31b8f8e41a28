"""Trains the run's models with Ray Train: N workers, one objective, checkpoints in the storage.

    python -m jobs.train [--config FILE] [--profile NAME] [train.models=[baseline]] [section.key=value ...]
"""
from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, CheckpointUploadMode, FailureConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer, get_device, prepare_model
from torch import nn

from jobs import telemetry
from jobs.cli import run_job, sigint_handler_kept
from jobs.progress import Progress
from jobs.reclaim import ReclaimWatch
from jobs.room import require_room
from jobs.run_folder import RunFolder
from jobs.tuned import Tuned, tuned_settings
from jobs.watchdog import Watchdog
from robust.config import Config, RecipeConfig, TrainConfig, ValidationConfig
from robust.config_file import parse
from robust.config_identity import fingerprint, science
from robust.data.shards import read_status
from robust.errors import NonFiniteLoss, UserError
from robust.eventlog import EventLog
from robust.models.checkpoint import CARD, WEIGHTS, load_blob, save_checkpoint
from robust.models.detector import Architecture, empty_detector
from robust.storage import Storage
from robust.training.loop import Place, Training
from robust.training.recipes import stage_of
from robust.training.session import has_stalled, initial_detector, limit_threads, load_crops, run_epochs
from robust.training.state import gather_statistics, save_state
from robust.training.validation import is_constant
from robust.version import code_version

PROGRESS = "progress.json"
NOT_FINITE = "not_finite.json"
"""Where a training stopped on a loss that is no finite number: the message, epoch, step and crops of the batch."""
CONSTANT = "constant"
"""Reported of an epoch: whether the network has collapsed."""
SCORES = {"auc": "auc", "robust_auc": "robust_auc", "last": "epoch"}
"""What a checkpoint is ranked by, for each `select_by`."""
SECTIONS = ("data", "extract", "model", "augment")
SETTINGS = {"batch_size", "accumulate", "optimizer", "learning_rate", "min_learning_rate", "warmup_steps", "weight_decay", "gradient_clip",
            "ema_decay", "batch_norm", "precision", "fold", "balance", "self_blend", "select_by", "validation"}
"""Of `train`, beside a model's recipe: what decides its weights."""


@dataclass(frozen=True)
class Plan:
    """One model to train, and what identifies the result."""

    name: str
    recipe: RecipeConfig
    fingerprint: str
    tuned: str | None  # where settings came from that the config does not say
    threat: ValidationConfig  # what its robust figures are measured at
    takes: str | None = None  # key of a trial's checkpoint that becomes the model, in place of training


def train(config: Config, storage: Storage) -> dict:
    """Trains each of `train.models` that the run does not have yet."""
    models = {}
    for name in config.train.models:
        plan = plan_for(config, storage, name)
        card = finished_card(config, storage, plan)
        make = train_model if plan.takes is None else take_over
        models[name] = {"trained_now": card is None, **(card or make(config, storage, plan))}
    told = ", ".join(f"{name}: validation AUC {card['metrics']['auc']:.3f}, under PGD at epsilon {card['validation_threat']['epsilon']:g} {card['metrics']['robust_auc']:.3f}"
                     f"{'' if card['trained_now'] else ' (there already)'}" for name, card in models.items())
    return {"models": models, "summary": told}


def plan_for(config: Config, storage: Storage, name: str) -> Plan:
    """The recipe of a model; the search's winner replaces settings of the defended one where `tune.winner` says so."""
    recipe: RecipeConfig = getattr(config.train, name)
    tuned: Tuned | None = tuned_settings(config, storage) if name == "defended" else None
    if tuned is not None:
        recipe = tuned.apply(recipe)
    stage_of(recipe, epoch=0)  # an unknown recipe is an error here, not in every worker
    takes = tuned.checkpoint if tuned is not None else None
    if takes is not None:
        recipe = recipe.model_copy(update={"epochs": config.tune.epochs})
    stops = {"patience"} if config.train.patience is not None else set()  # so that models of before there was one keep their fingerprint
    identity = fingerprint(config, SECTIONS) + json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
    settings = config.train.model_dump(mode="json", include=SETTINGS | stops)
    digest = hashlib.sha256((identity + json.dumps(settings, sort_keys=True) + (takes or "")).encode()).hexdigest()[:16]
    threat = config.train.validation if takes is None else config.tune.threat
    return Plan(name, recipe, digest, tuned.source if tuned else None, threat, takes)


def finished_card(config: Config, storage: Storage, plan: Plan) -> dict | None:
    key = RunFolder(storage, config).key("train", plan.name, CARD)
    if not storage.exists(key):
        return None
    card = storage.read_json(key)
    return card if card.get("config_fingerprint") == plan.fingerprint else None


def train_model(config: Config, storage: Storage, plan: Plan) -> dict:
    """One Ray Train run; the same name in the same storage resumes it."""
    settings = config.train
    require_crops(config, storage)
    initial_detector(config, plan.recipe, storage)  # raises its UserError now, where every worker would, attempt after attempt
    require_room(config, "train")
    filesystem, path = storage.arrow(RunFolder(storage, config).key("train", plan.name))
    score = score_of(plan.recipe, settings)
    broken = RunFolder(storage, config).key("train", plan.name, NOT_FINITE)
    storage.delete(broken)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": config.model_dump(mode="json"), "model": plan.name, "recipe": plan.recipe.model_dump(mode="json")},
        scaling_config=ScalingConfig(
            num_workers=(settings.least_workers, settings.workers) if settings.least_workers else settings.workers, use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker={key: value for key, value in (("CPU", settings.cpus_per_worker), ("GPU", settings.gpus_per_worker)) if value},
        ),
        run_config=RunConfig(
            name=f"attempts-{plan.fingerprint}", storage_path=path, storage_filesystem=filesystem,
            # Without a limit a worker group that cannot start is tried for ever.
            failure_config=FailureConfig(max_failures=settings.max_failures, controller_failure_limit=3),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # of the controller; our progress tells the rest
            checkpoint_config=CheckpointConfig(num_to_keep=settings.checkpoints_to_keep, checkpoint_score_attribute=score, checkpoint_score_order="max"),
        ),
    )
    with sigint_handler_kept(), Progress(f"train {plan.name}", total=plan.recipe.epochs, unit="epochs", poll=_poll(storage, config, plan),
                                         observe=telemetry.progress_of(config, "train")):
        result = trainer.fit()
    if storage.exists(broken):
        raise NonFiniteLoss(f"{storage.read_json(broken)['message']}; all crops of the batch: {storage.uri(broken)}")
    if result.metrics.get(CONSTANT):
        raise UserError(_became_constant(plan, result.metrics))
    validated = [pair for pair in result.best_checkpoints if score in pair[1]]  # not those of a notice
    checkpoint, metrics = max(validated, key=lambda pair: pair[1][score])
    return publish(config, storage, plan, checkpoint, metrics)


def _became_constant(plan: Plan, metrics: dict) -> str:
    return (f"train {plan.name}: after epoch {metrics['epoch']} of {plan.recipe.epochs} the network gives every validation crop the same logit "
            f"({metrics['equal_error_logit']:.3f}, spread {metrics['logit_spread']:.1e}): training has collapsed to a constant and was stopped. Under another run.name, "
            f"lower train.{plan.name}.learning_rate or attack.epsilon, set train.gradient_clip=1, or raise train.warmup_steps or train.{plan.name}.epsilon_warmup")


def score_of(recipe: RecipeConfig, settings: TrainConfig) -> str:
    """The reported metric by which the best checkpoint is chosen; a recipe's own choice goes first."""
    return SCORES[recipe.select_by or settings.select_by]


def _poll(storage: Storage, config: Config, plan: Plan):
    """What rank 0 last wrote about its epochs, for the progress line."""
    key = RunFolder(storage, config).key("train", plan.name, PROGRESS)

    def poll() -> tuple[int, str]:
        if not storage.exists(key):
            return 0, ""
        told = storage.read_json(key)
        return told["epoch"], told["note"]

    return poll


def take_over(config: Config, storage: Storage, plan: Plan) -> dict:
    """Makes the winning trial of the search the run's model, without a step.

    Raises:
        UserError: the trial's checkpoint is gone.
    """
    if not storage.exists(f"{plan.takes}/{WEIGHTS}"):
        raise UserError(f"tune.winner=checkpoint: {storage.uri(plan.takes)} is gone; set tune.winner=retrain, or run jobs.tune again")
    winner = RunFolder(storage, config).result("tune")["winner"]
    filesystem, path = storage.arrow(plan.takes)
    return publish(config, storage, plan, Checkpoint(path, filesystem), {**winner, "epoch": winner["epochs"]})


def require_crops(config: Config, storage: Storage) -> None:
    """Raises: UserError now, where every worker would find out, die and be started again."""
    status = read_status(storage, config.run.name).to_pylist()
    for split in ("train",) if config.data.splits.use_everything else ("train", "val"):
        for label, name in ((0, "real"), (1, "fake"))[: 1 if config.train.self_blend.share == 1 else 2]:
            if not any(row["split"] == split and row["label"] == label and row["frames_found"] for row in status):
                raise UserError(f"run {config.run.name} has no {name} face crops in split {split!r}; run jobs.extract first, and see its result.json for what was skipped")


def train_worker(arguments: dict) -> None:
    """Runs in every Ray Train worker."""
    logging.getLogger().setLevel(logging.WARNING)  # Ray Train writes every report there, which a submitted job's log would show
    config, recipe = parse(arguments["config"]), RecipeConfig.model_validate(arguments["recipe"])
    storage = Storage.from_config(config.storage)
    limit_threads(config.train.cpus_per_worker)
    context = ray.train.get_context()
    place = Place(context.get_world_rank(), context.get_world_size(), get_device(), config.train.loader_threads)
    torch.manual_seed(config.run.seed)
    crops = load_crops(config, storage)
    network, weights = initial_detector(config, recipe, storage)
    log = EventLog(storage, RunFolder(storage, config).key("pipeline", "tensorboard", "train", arguments["model"])) if place.rank == 0 else None
    facts = {"weights": weights, "architecture": network.architecture.as_dict(), "crops": len(crops.train), "validation_crops": len(crops.validation),
             "threshold_from_training_videos": crops.validates_on_training, "inputs": crops.input_statistics()}
    start = ray.train.get_checkpoint()
    steps = telemetry.steps_of(config.run.name, arguments["model"], config.train.batch_size if place.rank == 0 else 0)
    reclaimed = ReclaimWatch(lambda training: _hand_in(training, {}, facts, place, name=f"epoch_{training.epoch:04d}_step_{training.step:06d}"))
    with _local_copy(start) as resume, Watchdog(config.train.hang_timeout_s, f"train {arguments['model']}, worker {place.rank}") as watchdog:
        watchdog.listen(network)
        wrap = _distributed if place.world > 1 else lambda module: module
        epochs = run_epochs(config, recipe, config.train.validation, network, crops, place=place, wrap=wrap, resume=resume,
                            progress=steps, between=reclaimed)
        scores = _train(watchdog.over(epochs), config, recipe, storage, arguments["model"], facts, place, log)
    if log is not None:
        log.hparams({"recipe": recipe.recipe, "epsilon": recipe.attack.epsilon, "steps": recipe.attack.steps, "targets": recipe.attack.targets,
                     "lipschitz weight": recipe.lipschitz.weight, "epochs": recipe.epochs}, {f"hparam/{k}": v for k, v in (scores or {}).items() if v == v})
        log.close()


def _distributed(module: nn.Module) -> nn.Module:
    """Workers exchange gradients alone. Batch-norm statistics are each worker's own: sending rank 0's around before every forward
    would make the others' attack see a function that is neither theirs nor rank 0's, and took 7 % of a step (small network, 2 CPU cores)."""
    return prepare_model(module, parallel_strategy_kwargs={"broadcast_buffers": False})


def _train(epochs: Iterator, config: Config, recipe: RecipeConfig, storage: Storage, name: str, facts: dict, place: Place, log: EventLog | None) -> dict | None:
    """Goes through the epochs, each told and handed in; returns the last validation's figures (rank 0).

    A training that cannot go on ends here without an error: Ray Train would only do the same again.
    """
    folder, scores = RunFolder(storage, config), None
    try:
        for training, figures, scores in epochs:
            if log is not None:
                _log(log, training.epoch, figures, scores)
                telemetry.epoch_ended(config.run.name, name, figures, scores)
                note = f"loss {figures.losses['total']:.3f}, {figures.images_per_second:.0f} images/s"
                storage.write_json(folder.key("train", name, PROGRESS), {"epoch": training.epoch, "note": note})
            constant, stalled = broadcast_from_rank_zero((scores is not None and is_constant(scores, training.first_spread), has_stalled(training, config.train)))
            due = training.epoch % config.train.validation.every == 0 or training.epoch == recipe.epochs
            metrics = {"epoch": training.epoch, "loss": figures.losses["total"], "images_per_second": figures.images_per_second, CONSTANT: constant, **(scores or {})}
            _hand_in(training, metrics, facts, place, name=f"epoch_{training.epoch:04d}" if due else None)
            if constant or stalled:
                break
    except NonFiniteLoss as error:  # of all workers
        if place.rank == 0:
            telemetry.add("train_nonfinite", run=config.run.name, model=name)
            storage.write_json(folder.key("train", name, NOT_FINITE), {"message": str(error), **error.batch})
    return scores


def _hand_in(training: Training, metrics: dict, facts: dict, place: Place, *, name: str | None) -> None:
    """A barrier for all workers; where there is a name, rank 0 hands in a checkpoint under it, uploaded while training goes on."""
    if name is not None:
        gather_statistics(training, place)
    if place.rank != 0 or name is None:
        ray.train.report(metrics, checkpoint=None)
        return
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))  # Ray removes it after the upload
    save_state(training, folder, facts)
    ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder), checkpoint_dir_name=name, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)


def _log(log: EventLog, epoch: int, figures, scores) -> None:
    log.scalars({f"loss/{name}": value for name, value in figures.losses.items()}, epoch)
    log.scalars({"learning rate": figures.learning_rate, "epsilon": figures.epsilon, "images per second": figures.images_per_second,
                 "data wait share": figures.data_wait_share, "gradient norm": figures.gradient_norm}, epoch)
    log.scalars({f"probe/{name}": value for name, value in figures.probe.items()}, epoch)
    log.scalars({f"validation/{name}": value for name, value in (scores or {}).items()}, epoch)
    if figures.examples is not None:
        log.adversarial_examples(*figures.examples, epoch)
    log.flush()


class _local_copy:
    """A checkpoint's files in a local folder while they are needed; None stays None."""

    def __init__(self, checkpoint: Checkpoint | None):
        self.checkpoint = checkpoint

    def __enter__(self) -> Path | None:
        self.folder = Path(tempfile.mkdtemp(prefix="resume-")) if self.checkpoint else None
        if self.folder is not None:
            self.checkpoint.to_directory(str(self.folder))
        return self.folder

    def __exit__(self, *_) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def publish(config: Config, storage: Storage, plan: Plan, checkpoint: Checkpoint, metrics: dict) -> dict:
    """Makes the best checkpoint the run's model: `train/<name>/model.safetensors` and its card.

    It is calibrated: logit 0 is where clean validation frames have equal errors. A detector trained on attacked fakes alone
    is biased towards fake, and its attack success at an uncalibrated 0 would flatter it.
    """
    with _local_copy(checkpoint) as folder:
        facts = json.loads((folder / "training.json").read_text())["facts"]
        architecture = {**facts["architecture"], "mean": tuple(facts["architecture"]["mean"]), "std": tuple(facts["architecture"]["std"])}
        model = empty_detector(Architecture(**architecture))
        load_blob(model, (folder / WEIGHTS).read_bytes(), None, str(folder))
    model.offset += metrics["equal_error_logit"]
    return save_checkpoint(storage, RunFolder(storage, config).key("train", plan.name), model, card_facts(config, plan, facts, metrics))


def card_facts(config: Config, plan: Plan, facts: dict, metrics: dict) -> dict:
    middle = metrics["equal_error_logit"]
    clean = "clean " + ("training videos (optimistic)" if facts["threshold_from_training_videos"] else "validation videos")
    figures = {name: metrics[name] for name in ("auc", "frame_auc", "robust_auc", "attack_success") if name in metrics}
    return {
        "model": plan.name, "run": config.run.name, "epoch": int(metrics["epoch"]), "weights": facts["weights"],
        "recipe": plan.recipe.model_dump(mode="json"), "settings_from": plan.tuned or "config",
        "threshold": metrics["threshold"] - middle, "frame_threshold": metrics["frame_threshold"] - middle,
        # A trial of an older search has none.
        **{name: metrics[name] - middle for name in ("threshold_fpr_5", "frame_threshold_fpr_5") if metrics.get(name) is not None},
        "threshold_rule": f"FPR 1 % on {clean}", "zero_rule": f"logit 0: equal errors on frames of {clean}",
        "metrics": {name: None if value != value else value for name, value in figures.items()},
        "validation_threat": plan.threat.model_dump(mode="json"),
        "crops": {"train": facts["crops"], "validation": facts["validation_crops"]},
        "inputs": facts.get("inputs"), "config_fingerprint": plan.fingerprint, "extract": science(config.extract),
        "data_fingerprint": fingerprint(config, ("data", "extract")), "code": code_version(),
    }


if __name__ == "__main__":
    from jobs.train import train as main  # by its module's name: Ray's workers cannot import from __main__

    sys.exit(run_job("train", main))
