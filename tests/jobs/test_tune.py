"""jobs/tune.py: one fixed threat for all trials, a winner by it, and a search that goes on after it was stopped."""

import json
import os
import signal
from pathlib import Path

import pytest
from small_cluster import small_cluster
from tiny_run import write_faces

import jobs.tune as job
from jobs.cli import run_stage
from jobs.run_folder import RunFolder
from jobs.tuned import tuned_settings
from robust.config import parse
from robust.errors import UserError
from robust.storage import Storage
from robust.training.recipes import RECIPES, Recipe


def config_of(folder, **tune):
    return parse({
        "run": {"name": "tiny"}, "storage": {"uri": str(folder / "storage")},
        "cluster": {"address": "local", "num_cpus": 2, "object_store_memory_mb": 100, "outputs": str(folder / "outputs")},
        "model": {"name": "test_resnet", "input_size": 32, "weights": "none"},
        "train": {"batch_size": 8, "loader_threads": 0, "validation": {"epsilon": 7}, "defended": {"epochs": 9, "attack": {"step_size": 0.1}}},
        "tune": {"samples": 3, "epochs": 1, "steps": [1], "threat": {"epsilon": 3, "steps": 1, "max_images": 8}, "max_concurrent": 1, **tune},
    })


def row(name, auc, robust_auc, *, status="done"):
    return {"trial": name, "status": status, "auc": auc, "robust_auc": robust_auc, "cost": 1.0, "seconds": 60.0, "error": None,
            "settings": {"epsilon": 1.0, "steps": 2, "lipschitz_weight": 1e-3}}


def test_the_winner_is_the_most_robust_one_that_keeps_clean_accuracy():
    table = [row("clean", 0.99, 0.10), row("robust", 0.97, 0.60), row("too_robust", 0.90, 0.80), row("lost", 1.0, 1.0, status="error")]
    assert job.choose(table, clean_tolerance=0.03)["trial"] == "robust"
    assert job.choose(table, clean_tolerance=0.1)["trial"] == "too_robust"
    assert job.choose(table, clean_tolerance=0)["trial"] == "clean"
    assert job.choose([row("a", 0.8, 0.5), row("b", 0.9, 0.5)], clean_tolerance=1)["trial"] == "b"


def test_a_failed_trial_is_counted_in_the_summary(tmp_path):
    table = [row("a", 0.9, 0.5), {**row("b", None, None, status="error"), "error": "out of memory"}]
    assert job.summary(table, table[0], config_of(tmp_path)).startswith("2 trials (1 failed); best is a: epsilon 1.00, 2 steps")


@pytest.mark.parametrize("epsilon", [0.25, 8.0])
def test_a_trial_trains_at_its_own_epsilon_and_is_measured_at_the_fixed_one(tmp_path, monkeypatch, epsilon):
    config = config_of(tmp_path)
    write_faces(Storage.from_config(config.storage), "tiny")
    trained, measured, reported = [], [], []

    def record(network, crops, threat, **_):
        measured.append((threat.epsilon, threat.steps))
        return {"auc": 1.0, "robust_auc": 0.5}

    assert job.OBJECTIVE == "robust_auc"
    monkeypatch.setattr("robust.training.session.validate", record)
    recipe = Recipe(lambda network, x, y, settings, **_: trained.append(settings.attack) or x)
    monkeypatch.setitem(RECIPES, "madry", recipe)
    monkeypatch.setattr(job.tune, "get_checkpoint", lambda: None)
    monkeypatch.setattr(job.tune, "report", lambda metrics, checkpoint: reported.append(metrics))
    job.trial({"epsilon": epsilon, "steps": 5, "lipschitz_weight": 1e-5}, config=config.model_dump(mode="json"))
    assert measured == [(3, 1)] and reported[0]["robust_auc"] == 0.5 and reported[0]["epoch"] == 1
    assert {(attack.epsilon, attack.steps, attack.step_size) for attack in trained} == {(epsilon, 5, None)}


def test_a_trial_differs_from_the_defended_recipe_in_its_settings_and_length_only(tmp_path):
    config = config_of(tmp_path)
    recipe = job.trial_recipe(config, {"epsilon": 2.5, "steps": 3, "lipschitz_weight": 0.01})
    expected = config.train.defended.model_dump()
    expected["epochs"], expected["lipschitz"]["weight"] = 1, 0.01
    expected["attack"].update(epsilon=2.5, steps=3, step_size=None)
    assert recipe.model_dump() == expected


def finished_search(folder, **tune):
    config = config_of(folder, **tune)
    storage = Storage.from_config(config.storage)
    RunFolder(storage, config).write_result("tune", {"winner": {**row("t1", 0.9, 0.5), "checkpoint": "tiny/tune/trials/t1/c"}})
    return config, storage


@pytest.mark.parametrize("winner, checkpoint", [("retrain", None), ("checkpoint", "tiny/tune/trials/t1/c")])
def test_the_winners_settings_replace_those_of_the_defended_recipe(tmp_path, winner, checkpoint):
    config, storage = finished_search(tmp_path, winner=winner)
    tuned = tuned_settings(config, storage)
    assert (tuned.source, tuned.checkpoint) == ("tune trial t1", checkpoint)
    recipe = tuned.apply(config.train.defended)
    # The trial's own step size follows from its epsilon and steps; the config's must not come back.
    assert (recipe.attack.epsilon, recipe.attack.steps, recipe.attack.step_size, recipe.lipschitz.weight, recipe.epochs) == (1.0, 2, None, 1e-3, 9)


def test_a_search_that_only_reports_changes_nothing(tmp_path):
    assert tuned_settings(*finished_search(tmp_path, winner="report")) is None
    config = config_of(tmp_path / "none")
    assert tuned_settings(config, Storage.from_config(config.storage)) is None


def stopping_trial(folder: Path, driver: int):
    """The real trial; the second and the fourth start send Ctrl-C to the job."""
    def trial(settings, config):
        from ray import tune

        import jobs.tune

        (folder / f"{tune.get_context().get_trial_id()}.{os.getpid()}").touch()
        if len(list(folder.iterdir())) in (2, 4):
            os.kill(driver, signal.SIGINT)
            signal.pause()  # until the job takes it along
        jobs.tune.trial(settings, config)

    return trial


@pytest.mark.cluster
@pytest.mark.fault
def test_a_search_stopped_twice_goes_on_and_a_finished_one_is_left_alone(tmp_path, monkeypatch):
    config = config_of(tmp_path, samples=4, search="optuna", recipe=["madry", "fast"], activation=["relu", "silu"], step_size=[1, 4])
    storage = Storage.from_config(config.storage)
    write_faces(storage, "tiny")
    starts = tmp_path / "starts"
    starts.mkdir()
    monkeypatch.setattr(job, "trial", stopping_trial(starts, os.getpid()))
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0")  # the search's state is saved after every event, not every ten seconds
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "0")
    for started in (2, 4):
        with small_cluster(config):
            with pytest.raises(KeyboardInterrupt):
                run_stage("tune", job.search, config, storage)
            assert RunFolder(storage, config).result("tune") is None
            assert len(list(starts.iterdir())) == started

    with small_cluster(config):
        result = run_stage("tune", job.search, config, storage)
        runs = [path.name.split(".")[0] for path in starts.iterdir()]
        # The stopped ones were run again. Tune may have saved its state before a finished one's end; then that one is started
        # again, too, from its own last checkpoint.
        assert len(set(runs)) == 4 and len(runs) in (6, 7, 8)

    table = result["trials"]
    assert [entry["status"] for entry in table] == ["done"] * 4 and {entry["trial"] for entry in table} == set(runs)
    assert all(0.25 <= entry["settings"]["epsilon"] <= 8 and entry["epochs"] == 1 for entry in table)
    assert len({entry["settings"]["epsilon"] for entry in table}) == 4 and all(entry["cost"] > 0 for entry in table)
    assert result["winner"] == job.choose(table, clean_tolerance=config.tune.clean_tolerance) and result["threat"]["epsilon"] == 3
    assert result["winner"]["trial"] in result["front"] and result["not_run"] == 0 and result["device_hours"] > 0
    assert storage.exists(f"{result['winner']['checkpoint']}/model.safetensors")
    page = storage.read_bytes("tiny/tune/trials.html").decode()
    assert page.count("<tr") == 1 + 4 and "<svg" in page and result["winner"]["trial"] in page

    monkeypatch.setattr(job, "resumable_tuner", None)  # no trial, no Ray
    for _ in range(2):
        again = run_stage("tune", job.search, config, storage)
    assert again["trials"] == table and again["summary"] == f"there already: {result['summary']}"
    assert json.loads(storage.read_bytes("tiny/tune/result.json"))["winner"] == result["winner"]


def test_a_trial_that_fits_nowhere_is_an_error_not_a_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(job.ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(UserError, match="a trial needs 3 CPU and 0 GPU, the cluster has 2 and 0; lower tune.cpus_per_trial"):
        job.concurrent_trials(config_of(tmp_path, cpus_per_trial=3))
    with pytest.raises(UserError, match="1 GPU"):
        job.concurrent_trials(config_of(tmp_path, gpus_per_trial=1))
    assert job.concurrent_trials(config_of(tmp_path, max_concurrent=None)) == 2
    assert job.concurrent_trials(config_of(tmp_path, max_concurrent=1)) == 1
