"""jobs/tune.py: one fixed threat for all trials, a winner by it, and a search that goes on after it was stopped."""

import json
import os
import random
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.execution.class_cache import _ActorClassCache
from small_cluster import small_cluster
from tiny_run import write_faces

import jobs.tune as job
from jobs.cli import run_job, run_stage
from jobs.run_folder import RunFolder
from jobs.tuned import tuned_settings
from robust.config_file import parse
from robust.storage import Storage
from robust.training.recipes import RECIPES, Recipe
from robust.training.session import load_crops


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


def test_no_key_of_the_storage_goes_into_the_trials_runtime_environment(monkeypatch):
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    job.ENV_VARS_TO_PROPAGATE.update(keys)  # as Tune has it, whatever another test of this process has withheld
    for name in keys:
        monkeypatch.setenv(name, "planted")
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")

    class Trainable:
        pass

    job.withhold_credentials()
    given = _ActorClassCache().get(Trainable)._default_options["runtime_env"]["env_vars"]
    assert "planted" not in given.values() and given["RAY_CHDIR_TO_TRIAL_DIR"] == "0"


def test_the_winner_is_the_most_robust_one_that_keeps_clean_accuracy():
    table = [row("clean", 0.99, 0.10), row("robust", 0.97, 0.60), row("too_robust", 0.90, 0.80), row("lost", 1.0, 1.0, status="error")]
    assert job.choose(table, clean_tolerance=0.03)["trial"] == "robust"
    assert job.choose(table, clean_tolerance=0.1)["trial"] == "too_robust"
    assert job.choose(table, clean_tolerance=0)["trial"] == "clean"
    assert job.choose([row("a", 0.8, 0.5), row("b", 0.9, 0.5)], clean_tolerance=1)["trial"] == "b"


def test_the_rule_finds_the_same_winner_on_the_front_as_among_all():
    draw = random.Random(2)
    for _ in range(20):
        table = [{**row(str(n), draw.random(), draw.random()), "cost": draw.random()} for n in range(12)]
        bar = max(entry["auc"] for entry in table) - 0.2
        plain = max((entry for entry in table if entry["auc"] >= bar), key=lambda entry: entry["robust_auc"])
        assert job.choose(table, clean_tolerance=0.2) is plain and plain in job.front(table) and len(job.front(table)) < 12
    cheap, dear = {**row("cheap", 0.9, 0.5), "cost": 1.0}, row("dear", 0.9, 0.5) | {"cost": 2.0}
    assert job.choose([dear, cheap], clean_tolerance=0)["trial"] == "cheap"


def test_what_the_budget_left_out_is_told(tmp_path):
    config = config_of(tmp_path, samples=5, budget_hours=0.25, gpus_per_trial=0.5)
    table = [{**row(name, 0.9, 0.5), "seconds": 900.0} for name in "ab"]
    table[0]["settings"] |= {"recipe": "fast", "step_size": 1.5}
    told = job.summary(table, table[0], config)
    assert told.startswith("2 trials, 3 not run: the budget of 0.25 device-hours is spent; best is a: epsilon 1.00, 2 steps")
    assert "recipe fast" in told and "step size 1.50 epsilon / steps" in told and job.hours(table, config) == 0.25


def test_a_failed_trial_is_counted_in_the_summary(tmp_path):
    table = [row("a", 0.9, 0.5), {**row("b", None, None, status="error"), "error": "out of memory"}]
    assert job.summary(table, table[0], config_of(tmp_path)).startswith("2 trials (1 failed); best is a: epsilon 1.00, 2 steps")


def test_a_trial_that_broke_down_after_an_epoch_cannot_win():
    figures = {"auc": 0.9, "robust_auc": 0.8, "cost": 1.0, "time_total_s": 60.0, "epoch": 1}
    ended = [SimpleNamespace(metrics={**figures, "trial_id": name, "robust_auc": robust}, config={}, path=name, checkpoint=None, error=error)
             for name, robust, error in (("broken", 0.8, RuntimeError("Traceback\nthe loss was no finite number")), ("whole", 0.5, None))]
    table = job.trial_table(ended, root="")
    assert [row["status"] for row in table] == ["error", "done"] and table[0]["error"] == "the loss was no finite number"
    assert job.choose(table, clean_tolerance=1)["trial"] == "whole"


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


class Preempted(Exception):
    pass


def run_trial(config, kept: Path, monkeypatch, *, start=None, until=None) -> None:
    """A trial in this process, whose checkpoints are kept as Ray keeps them; taken away after an epoch if told so."""
    def report(metrics, checkpoint):
        name = f"checkpoint_{metrics['epoch']:06d}"
        shutil.copytree(checkpoint.path, kept / name)
        (kept / name / "metrics.json").write_text(json.dumps(metrics))
        if metrics["epoch"] == until:
            raise Preempted

    checkpoint = None if start is None else job.tune.Checkpoint.from_directory(str(start))
    monkeypatch.setattr(job.tune, "get_checkpoint", lambda: checkpoint)
    monkeypatch.setattr(job.tune, "report", report)
    settings = {"epsilon": 1.0, "steps": 1, "lipschitz_weight": 1e-5, "recipe": "fast", "activation": "silu"}
    job.trial(settings, config=config.model_dump(mode="json"))


def test_a_preempted_trial_goes_on_and_ends_with_the_weights_of_one_that_was_not(tmp_path, monkeypatch):
    config = config_of(tmp_path, epochs=2)
    write_faces(Storage.from_config(config.storage), "tiny")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_trial(config, whole, monkeypatch)
    with pytest.raises(Preempted):
        run_trial(config, parts, monkeypatch, until=1)
    # The search was killed before it knew of the last checkpoint: the one it knows has made way for it.
    run_trial(config, parts, monkeypatch, start=parts / "checkpoint_000000")
    last = "checkpoint_000002"
    assert sorted(path.name for path in parts.iterdir()) == ["checkpoint_000001", last]
    assert (parts / last / "model.safetensors").read_bytes() == (whole / last / "model.safetensors").read_bytes()
    states = [json.loads((folder / last / "training.json").read_text())["facts"]["cost"] for folder in (whole, parts)]
    steps = 2 * len(load_crops(config, Storage.from_config(config.storage)).train) // config.train.batch_size
    assert [cost["steps"] for cost in states] == [steps, steps]
    told = json.loads((parts / last / "metrics.json").read_text())
    assert told["cost"] == pytest.approx(states[1]["seconds"] / steps) and 0 < told["seconds"] < states[1]["seconds"]


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
    RunFolder(storage, config).write_result("tune", {"winner": {**row("1f2e3_00001", 0.9, 0.5), "checkpoint": "tiny/tune/trials/t1/c"}})
    return config, storage


@pytest.mark.parametrize("winner, checkpoint", [("retrain", None), ("checkpoint", "tiny/tune/trials/t1/c")])
def test_the_winners_settings_replace_those_of_the_defended_recipe(tmp_path, winner, checkpoint):
    config, storage = finished_search(tmp_path, winner=winner)
    tuned = tuned_settings(config, storage)
    assert (tuned.source, tuned.checkpoint) == ("tune trial 00001", checkpoint)
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
    config = config_of(tmp_path, samples=4, search="optuna", recipe=["madry", "fast"], activation=["relu", "silu"],
                       step_size=[1, 4])
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


def test_as_many_trials_as_the_nodes_hold_or_the_config_allows(tmp_path):
    nodes = [(3, 0), (5, 1)]
    assert job.concurrent_trials(config_of(tmp_path, max_concurrent=None), nodes) == 8
    assert job.concurrent_trials(config_of(tmp_path, max_concurrent=None, cpus_per_trial=2), nodes) == 3
    assert job.concurrent_trials(config_of(tmp_path, max_concurrent=1), nodes) == 1
    few = config_of(tmp_path, max_concurrent=20)
    assert job.concurrent_trials(few, nodes) == 8
    grows = few.model_copy(update={"cluster": few.cluster.model_copy(update={"wait_for_nodes_s": 60, "address": "auto"})})
    assert job.concurrent_trials(grows, nodes) == 20


def test_no_trials_are_refused_before_the_runs_name_is_taken(tmp_path, capsys):
    settings = ["tune.samples=0", "cluster.address=local", f"storage.uri={tmp_path / 'storage'}"]
    assert run_job("tune", job.search, needs_ray=False, first=job.require_trials, argv=settings) == 2
    assert capsys.readouterr().err == "tune: error: tune.samples is 0, which means no search; give the number of trials, as in tune.samples=16\n"
    assert not (tmp_path / "storage/run").exists()
