"""jobs/train.py: workers that train together, go on after one of them was killed, and a model published once."""

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_cluster import small_cluster
from tiny_run import write_faces

import jobs.train as job
import robust.training.session as session
from cluster.local import SESSION_MARK
from cluster.monitoring import targets
from cluster.monitoring.prometheus import Prometheus, find_prometheus
from jobs import reclaim
from jobs.cli import run_stage
from jobs.run_folder import RunFolder
from robust.config_file import parse
from robust.errors import NonFiniteLoss, UserError
from robust.models.checkpoint import load_checkpoint
from robust.storage import Storage
from robust.training.loop import Place
from robust.training.session import initial_detector, load_crops, run_epochs
from robust.training.state import save_state

STEPS = 32 // 8  # of an epoch


def config_of(folder, **sections):
    train = {"batch_size": 8, "workers": 2, "loader_threads": 0, "models": ["defended"], "batch_norm": "frozen", "select_by": "last", "ema_decay": 0.5,
             "validation": {"epsilon": 1, "steps": 1, "max_images": 8}, "defended": {"epochs": 3, "attack": {"epsilon": 1, "steps": 1}}}
    return parse({
        "run": {"name": "tiny"}, "storage": {"uri": str(folder / "storage")},
        "cluster": {"address": "local", "num_cpus": 2, "object_store_memory_mb": 100, "outputs": str(folder / "outputs")},
        "model": {"name": "test_resnet", "input_size": 32, "weights": "none"}, **sections, "train": {**train, **sections.get("train", {})},
    })


def with_faces(folder, **sections):
    config = config_of(folder, **sections)
    storage = Storage.from_config(config.storage)
    write_faces(storage, "tiny")
    return config, storage


def watched_worker(folder: Path, *, killed: tuple[int, int, int] | None = None, hangs: bool = False, notice: tuple[int, int] | None = None):
    """The real worker, which writes down each step it does; one is killed once, in the middle of an epoch.

    Args:
        killed: rank, epoch (from 0) and step (from 1) at which that worker gets kill -9.
        hangs: it stands still there instead.
        notice: epoch and step after which Ray says that a node is about to be taken away.
    """
    wanted = "_step_" if notice else '"epoch_'

    def wait_for_a_checkpoint() -> None:
        """Until Ray's controller has written down one; it hears of a worker's report a moment later."""
        deadline = time.monotonic() + 60
        while not any(wanted in snapshot.read_text() for snapshot in folder.rglob("checkpoint_manager_snapshot.json")):
            assert time.monotonic() < deadline, "no checkpoint was registered"
            time.sleep(0.1)

    def stands_still() -> None:
        threading.Event().wait()

    def worker(arguments):
        import jobs.reclaim
        import jobs.train
        import robust.training.session as session

        train_epoch, attempt, done = session.train_epoch, len(list(folder.glob("killed"))) + 1, []
        jobs.reclaim.ASK_EVERY_S = 0  # after each step
        jobs.reclaim.ray.train.get_preemption_info = lambda: "soon" if attempt == 1 and notice and done[-1] >= notice else None

        def watched(training, *positional, place, progress, **keywords):
            def told(step, steps):
                done.append((training.epoch, step))
                with open(folder / f"rank{place.rank}", "a") as steps_done:
                    steps_done.write(f"{attempt} {training.epoch} {step}\n")
                if (place.rank, training.epoch, step) == killed and not (folder / "killed").exists():
                    wait_for_a_checkpoint()
                    (folder / "killed").touch()
                    stands_still() if hangs else os.kill(os.getpid(), signal.SIGKILL)
                progress(step, steps)

            return train_epoch(training, *positional, place=place, progress=told, **keywords)

        session.train_epoch = watched
        jobs.train.train_worker(arguments)

    return worker


def steps_of(folder: Path, rank: int, attempt: int) -> list[tuple[int, int]]:
    """(epoch, step) of each step that a worker did in an attempt."""
    rows = [tuple(map(int, line.split())) for line in (folder / f"rank{rank}").read_text().splitlines()]
    return [(epoch, step) for number, epoch, step in rows if number == attempt]


def forbid_training(monkeypatch):
    monkeypatch.setattr(job, "TorchTrainer", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def ray_of_two(folder):
    with small_cluster(config_of(folder)):
        yield


@pytest.fixture(scope="module")
def trained(folder, ray_of_two):
    """Config, storage and result of an undisturbed training by two workers."""
    config, storage = with_faces(folder)
    (folder / "steps").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "train_worker", watched_worker(folder / "steps"))
        handler = signal.getsignal(signal.SIGINT)
        result = run_stage("train", job.train, config, storage)
        assert signal.getsignal(signal.SIGINT) is handler  # Ray Train's own would eat every later Ctrl-C
        return config, storage, result


@pytest.mark.cluster
def test_two_workers_train_a_model_that_can_be_loaded(trained, folder):
    config, storage, result = trained
    for rank in (0, 1):
        assert steps_of(folder / "steps", rank, 1) == [(epoch, step) for epoch in range(3) for step in range(1, STEPS + 1)]
    model, card = load_checkpoint(storage, "tiny/train/defended")
    assert model(torch.rand(2, 3, 32, 32)).shape == (2,)
    assert (card["epoch"], card["model"], card["run"], card["settings_from"]) == (3, "defended", "tiny", "config")
    assert (card["weights"], card["crops"]) == ("none: trained from scratch", {"train": 32, "validation": 16})
    assert card["recipe"]["attack"]["epsilon"] == 1 and card["validation_threat"]["epsilon"] == 1
    assert 0.4 < card["inputs"]["mean"] < 0.6 and 0.05 < card["inputs"]["std"] < 0.2  # noise of 40 to 240, halved in size
    assert card["threshold_rule"] == "FPR 1 % on clean validation videos" and {"threshold", "frame_threshold", "threshold_fpr_5", "frame_threshold_fpr_5", "code", "data_fingerprint"} <= card.keys()
    assert 0 <= card["metrics"]["robust_auc"] <= 1
    assert result["models"]["defended"] == {"trained_now": True, **card} and "defended: validation AUC" in result["summary"]


@pytest.mark.cluster
def test_the_run_folder_holds_event_files_and_no_pickle(trained):
    _, storage, _ = trained
    keys = storage.list("tiny")
    assert sum("events.out.tfevents" in key and key.startswith("tiny/tensorboard/train/defended/") for key in keys) >= 1
    assert [key for key in keys if key.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))] == []


@pytest.mark.cluster
def test_what_the_workers_counted_reaches_prometheus(trained, tmp_path):
    try:
        find_prometheus()
    except UserError as error:
        pytest.skip(str(error))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Prometheus(tmp_path, port=port, interval_s=1) as prometheus:
        addresses = targets.update(tmp_path / "targets", places=[Path(os.environ[SESSION_MARK])])
        assert addresses and all(address.startswith("127.0.0.1:") for address in addresses)
        deadline = time.monotonic() + 60
        while not (found := prometheus.query("sum by (run, model) (ray_deepfake_train_images_total)")):
            assert time.monotonic() < deadline, prometheus.ask("targets")
            time.sleep(0.5)
        assert found == [{"run": "tiny", "model": "defended", "value": 3 * STEPS * 8}]  # of both workers, counted once
        assert prometheus.query("ray_deepfake_failures_total") == []


@pytest.mark.cluster
def test_a_second_call_does_no_step(trained, monkeypatch):
    config, storage, result = trained
    forbid_training(monkeypatch)
    again = run_stage("train", job.train, config, storage)
    assert again["models"]["defended"] == {**result["models"]["defended"], "trained_now": False} and "(there already)" in again["summary"]


@pytest.mark.cluster
@pytest.mark.fault
def test_a_killed_worker_costs_the_epoch_it_was_in_and_nothing_else(trained, tmp_path, monkeypatch):
    config, storage = with_faces(tmp_path)
    monkeypatch.setattr(job, "train_worker", watched_worker(tmp_path, killed=(1, 1, 2)))
    run_stage("train", job.train, config, storage)
    assert (tmp_path / "killed").exists()
    assert steps_of(tmp_path, 1, 1) == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]
    for rank in (0, 1):
        assert steps_of(tmp_path, rank, 2) == [(epoch, step) for epoch in (1, 2) for step in range(1, STEPS + 1)]
    card = storage.read_json("tiny/train/defended/card.json")
    assert card["epoch"] == 3 and card["sha256"] == trained[2]["models"]["defended"]["sha256"]  # equal to the bit

    # A job that was stopped after its last checkpoint, before the model was published, has only that left to do.
    storage.delete("tiny/train/defended/card.json")
    before = (tmp_path / "rank0").read_text()
    run_stage("train", job.train, config, storage)
    assert {**storage.read_json("tiny/train/defended/card.json"), "code": card["code"]} == card
    assert (tmp_path / "rank0").read_text() == before


@pytest.mark.cluster
@pytest.mark.fault
def test_a_worker_that_hangs_is_ended_and_costs_what_a_killed_one_does(trained, tmp_path, monkeypatch):
    config, storage = with_faces(tmp_path, train={"hang_timeout_s": 30})
    monkeypatch.setattr(job, "train_worker", watched_worker(tmp_path, killed=(1, 1, 2), hangs=True))
    run_stage("train", job.train, config, storage)
    assert steps_of(tmp_path, 1, 1)[-1] == (1, 2)
    for rank in (0, 1):
        assert steps_of(tmp_path, rank, 2) == [(epoch, step) for epoch in (1, 2) for step in range(1, STEPS + 1)]
    assert storage.read_json("tiny/train/defended/card.json")["sha256"] == trained[2]["models"]["defended"]["sha256"]  # equal to the bit
    told = [text for log in Path(os.environ[SESSION_MARK]).glob("session_2*/logs/worker-*.err") if "(train.hang_timeout_s)" in (text := log.read_text())]
    (hung,) = [text for text in told if "train defended, worker 1: no forward pass of the network for 30 s" in text]
    assert " in stands_still" in hung and any("worker 0: no forward pass" in text for text in told)  # it waited for the other


@pytest.mark.cluster
@pytest.mark.fault
def test_after_a_notice_training_goes_on_at_the_very_batch(trained, tmp_path, monkeypatch):
    config, storage = with_faces(tmp_path)
    monkeypatch.setattr(job, "train_worker", watched_worker(tmp_path, killed=(1, 1, 3), notice=(1, 2)))
    run_stage("train", job.train, config, storage)
    assert steps_of(tmp_path, 1, 1)[-1] == (1, 3)
    for rank in (0, 1):
        assert steps_of(tmp_path, rank, 2) == [(1, 3), (1, 4), *((2, step) for step in range(1, STEPS + 1))]
    assert storage.read_json("tiny/train/defended/card.json")["sha256"] == trained[2]["models"]["defended"]["sha256"]  # equal to the bit


@pytest.mark.cluster
def test_training_begins_with_the_workers_that_there_is_room_for(trained, tmp_path, monkeypatch):
    config, storage = with_faces(tmp_path, train={"workers": 4, "least_workers": 1})
    monkeypatch.setattr(job, "train_worker", watched_worker(tmp_path))
    result = run_stage("train", job.train, config, storage)
    assert [len(steps_of(tmp_path, rank, 1)) for rank in (0, 1)] == [3 * STEPS] * 2 and not (tmp_path / "rank2").exists()
    assert result["models"]["defended"]["sha256"] == trained[2]["models"]["defended"]["sha256"]  # that of two workers


@pytest.mark.cluster
def test_a_loss_that_is_no_number_ends_the_job_once_and_its_batch_is_kept(ray_of_two, tmp_path, monkeypatch):
    config, storage = with_faces(tmp_path, train={"optimizer": "sgd", "learning_rate": 1e30, "ema_decay": 0})
    monkeypatch.setattr(job, "train_worker", watched_worker(tmp_path))
    with pytest.raises(NonFiniteLoss, match=r"epoch 0, step \d .*not_finite.json"):
        job.train(config, storage)
    kept = storage.read_json("tiny/train/defended/not_finite.json")
    assert kept["epoch"] == 0 and len(kept["crops"]) == 8 and all(crop["frame_index"] in (0, 1) for crop in kept["crops"])
    assert len(steps_of(tmp_path, 0, 1)) == STEPS  # one attempt: another would only do the same


@pytest.mark.cluster
def test_a_network_that_becomes_a_constant_is_not_trained_to_the_end(ray_of_two, tmp_path):
    fading = {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 100, "ema_decay": 0}  # each step takes the weights away
    config, storage = with_faces(tmp_path, train=fading)
    with pytest.raises(UserError, match=r"train defended: after epoch 1 of 3 .* same logit .* train.defended.learning_rate"):
        job.train(config, storage)
    assert not storage.exists("tiny/train/defended/card.json")


@pytest.mark.cluster
def test_more_workers_than_the_cluster_has_is_an_error_not_a_wait(ray_of_two, tmp_path):
    config, storage = with_faces(tmp_path, train={"workers": 8, "cpus_per_worker": 2})
    with pytest.raises(UserError, match=r"train needs 8 x \(2 CPU, 0 GPU\) .*2 CPU and 0 GPU.* have room for 1; lower train.workers, train.cpus_per_worker"):
        job.train(config, storage)
    config = config_of(tmp_path, train={"gpus_per_worker": 1})
    with pytest.raises(UserError, match="lower .*train.gpus_per_worker"):
        job.train(config, storage)


def worker_alone(config, monkeypatch, *, notice: tuple[int, int] | None = None) -> list[tuple[str | None, dict, dict]]:
    """The one worker of a training in this process, without Ray; returns (name, metrics, state) of what it handed in, without a name no state."""
    handed, done = [], []
    train_epoch = session.train_epoch

    def watched(training, *positional, **keywords):
        return train_epoch(training, *positional, **{**keywords, "progress": lambda step, steps: done.append((training.epoch, step))})

    def report(metrics, checkpoint=None, checkpoint_dir_name=None, **_):
        state = json.loads((Path(checkpoint.path) / "training.json").read_text()) if checkpoint else {}
        handed.append((checkpoint_dir_name, metrics, state))

    monkeypatch.setattr(session, "train_epoch", watched)
    monkeypatch.setattr(job.ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1))
    monkeypatch.setattr(job.ray.train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(job.ray.train, "get_preemption_info", lambda: "soon" if notice and done[-1] >= notice else None)
    monkeypatch.setattr(job.ray.train, "report", report)
    monkeypatch.setattr(job, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(reclaim, "ASK_EVERY_S", 0)
    for module in (job, reclaim):
        monkeypatch.setattr(module, "broadcast_from_rank_zero", lambda value: value)
    job.train_worker({"config": config.model_dump(mode="json"), "model": "defended", "recipe": config.train.defended.model_dump(mode="json")})
    return handed


def test_a_notice_is_answered_with_the_state_between_two_steps(tmp_path, monkeypatch):
    config, _ = with_faces(tmp_path, train={"workers": 1})
    handed = worker_alone(config, monkeypatch, notice=(1, 2))
    assert [name for name, _, _ in handed] == ["epoch_0001", "epoch_0001_step_000002", "epoch_0002", "epoch_0003"]
    assert [(state["epoch"], state["step"]) for _, _, state in handed] == [(1, 0), (1, 2), (2, 0), (3, 0)]
    assert handed[1][1] == {} and all(job.score_of(config.train.defended, config.train) in metrics for _, metrics, _ in handed[2:])  # it must not be chosen


def test_training_ends_when_its_patience_does(tmp_path, monkeypatch):
    config, storage = with_faces(tmp_path, train={"workers": 1, "patience": 1, "defended": {"epochs": 9, "attack": {"epsilon": 1, "steps": 1}}})
    figures = iter([0.6, 0.7, 0.65, 0.9])
    monkeypatch.setattr(session, "validate", lambda *_, **__: {"robust_auc": next(figures), "logit_spread": 1.0, "frame_auc": 0.9})
    assert [name for name, _, _ in worker_alone(config, monkeypatch)] == ["epoch_0001", "epoch_0002", "epoch_0003"]
    patient = with_faces(tmp_path / "other", train={"workers": 1})[0]
    plans = [job.plan_for(one, storage, "baseline").fingerprint for one in (config, patient)]
    assert plans[0] != plans[1]


def test_a_worker_keeps_the_batch_whose_loss_was_no_number_and_ends_without_an_error(tmp_path, monkeypatch):
    config, storage = with_faces(tmp_path, train={"workers": 1, "optimizer": "sgd", "learning_rate": 1e30, "ema_decay": 0})
    assert worker_alone(config, monkeypatch) == []
    kept = storage.read_json("tiny/train/defended/not_finite.json")
    assert kept["epoch"] == 0 and kept["step"] >= 1 and len(kept["crops"]) == 8 and f"step {kept['step']}" in kept["message"]
    assert all(crop["frame_index"] in (0, 1) and crop["video_id"].startswith("tiny/") for crop in kept["crops"])


def test_a_network_that_cannot_be_built_is_told_before_any_worker_starts(tmp_path, monkeypatch):
    forbid_training(monkeypatch)
    config, storage = with_faces(tmp_path, model={"name": "test_resnet", "input_size": 32, "weights": str(tmp_path / "gone.safetensors")})
    with pytest.raises(UserError, match="gone.safetensors"):
        job.train(config, storage)


def test_use_everything_is_said_in_the_card(tmp_path):
    config = config_of(tmp_path, data={"splits": {"use_everything": True}})
    plan = job.plan_for(config, Storage.from_config(config.storage), "defended")
    facts = {"weights": "none", "crops": 32, "validation_crops": 32, "threshold_from_training_videos": True}
    metrics = {"epoch": 2, "threshold": 0.1, "frame_threshold": 0.2, "equal_error_logit": 0.5, "threshold_fpr_5": 0.0, "auc": 1.0, "robust_auc": 0.5, "attack_success": float("nan")}
    card = job.card_facts(config, plan, facts, metrics)
    assert card["threshold_rule"] == "FPR 1 % on clean training videos (optimistic)"
    assert card["threshold"] == pytest.approx(-0.4) and card["frame_threshold"] == pytest.approx(-0.3)  # moved with logit 0
    assert card["threshold_fpr_5"] == pytest.approx(-0.5) and "frame_threshold_fpr_5" not in card  # as in an older search
    assert card["metrics"] == {"auc": 1.0, "robust_auc": 0.5, "attack_success": None}


@pytest.mark.parametrize("changes", [{"train": {"learning_rate": 1e-3}}, {"model": {"name": "test_resnet", "input_size": 64, "weights": "none"}},
                                     {"run": {"name": "tiny", "seed": 1}}, {"train": {"validation": {"epsilon": 2}}}, {"augment": {"level": "none"}}])
def test_a_model_of_other_settings_is_not_taken_for_this_one(tmp_path, changes):
    storage = Storage.from_config(config_of(tmp_path).storage)
    plan = job.plan_for(config_of(tmp_path), storage, "defended")
    storage.write_json("tiny/train/defended/card.json", {"config_fingerprint": plan.fingerprint})
    assert job.finished_card(config_of(tmp_path), storage, plan) is not None
    moved = config_of(tmp_path, train={"workers": 4, "max_failures": 9})
    assert job.finished_card(moved, storage, job.plan_for(moved, storage, "defended")) is not None
    other = config_of(tmp_path, **changes)
    assert job.finished_card(other, storage, job.plan_for(other, storage, "defended")) is None


SETTINGS = {"epsilon": 2.0, "steps": 1, "lipschitz_weight": 0.01}


def searched(folder, **winner):
    """A run whose search left a checkpoint; returns the trial's network, too."""
    config, storage = with_faces(folder, tune={"winner": "checkpoint", "epochs": 1, "threat": {"epsilon": 3, "steps": 1, "max_images": 8}})
    torch.manual_seed(1)
    recipe = config.train.defended.model_copy(update={"epochs": 1})
    network, weights = initial_detector(config, recipe, storage)
    for training, _, scores in run_epochs(config, recipe, config.tune.threat, network, load_crops(config, storage), place=Place()):
        (folder / "state").mkdir()
        save_state(training, folder / "state", {"weights": weights, "architecture": network.architecture.as_dict(), "crops": 32, "validation_crops": 16,
                                                "threshold_from_training_videos": False})
    key = "tiny/tune/trials/trial_b/checkpoint_000000"
    for file in (folder / "state").iterdir():
        storage.upload(file, f"{key}/{file.name}")
    found = {"trial": "b", "settings": SETTINGS, "status": "done", **{name: None if value != value else value for name, value in scores.items()}, "epochs": 1, "checkpoint": key, "error": None, **winner}
    RunFolder(storage, config).write_result("tune", {"winner": found, "trials": [found]})
    return config, storage, training.scored


def test_a_models_own_choice_of_the_best_checkpoint_goes_first(tmp_path):
    settings = config_of(tmp_path, train={"select_by": "last", "defended": {"select_by": "robust_auc"}}).train
    assert job.score_of(settings.baseline, settings) == "epoch"
    assert job.score_of(settings.defended, settings) == "robust_auc"


def test_the_winner_of_the_search_is_taken_over_without_a_step(tmp_path, monkeypatch):
    config, storage, network = searched(tmp_path)
    forbid_training(monkeypatch)
    card = job.train(config, storage)["models"]["defended"]
    model, stored = load_checkpoint(storage, "tiny/train/defended")
    assert {"trained_now": True, **stored} == card
    assert all(torch.equal(one, other) for one, other in zip(model.backbone.parameters(), network.backbone.parameters(), strict=True))
    winner = RunFolder(storage, config).result("tune")["winner"]
    assert model.offset == pytest.approx(winner["equal_error_logit"])  # calibrated: logit 0 is where it was
    assert (card["settings_from"], card["epoch"], card["recipe"]["epochs"]) == ("tune trial b", 1, 1)
    assert (card["recipe"]["attack"]["epsilon"], card["recipe"]["lipschitz"]["weight"]) == (2.0, 0.01)
    assert card["validation_threat"]["epsilon"] == 3  # what the trial's figures were measured at
    assert job.train(config, storage)["models"]["defended"]["trained_now"] is False


def test_a_winner_without_its_checkpoint_is_told(tmp_path, monkeypatch):
    config, storage, _ = searched(tmp_path)
    forbid_training(monkeypatch)
    storage.delete_prefix("tiny/tune/trials")
    with pytest.raises(UserError, match="checkpoint_000000 is gone; set tune.winner=retrain"):
        job.train(config, storage)
    RunFolder(storage, config).write_result("tune", {"winner": {"trial": "b", "settings": SETTINGS, "checkpoint": None}})
    with pytest.raises(UserError, match="trial b left no checkpoint"):
        job.train(config, storage)
