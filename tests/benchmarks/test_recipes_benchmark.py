"""benchmarks/recipes.py on a small made task: cost is what decides the epochs, and what is done is not done again."""

import dataclasses

import numpy as np
import pytest

from benchmarks import recipes as module
from robust.config import RecipeConfig
from robust.config_file import parse


@pytest.fixture
def task(monkeypatch):
    made = module._made
    monkeypatch.setattr(module, "_made", lambda count, seed: made(max(64, count // 32), seed))
    monkeypatch.setattr(module, "ATTACK_STEPS", 3)
    return module.made_task(parse({"run": {"name": "small"}}))


def test_a_dearer_recipe_has_fewer_epochs_of_the_same_seconds(task, monkeypatch):
    monkeypatch.setattr(module, "TRIED", (1, 2))
    cheap, dear = (module.fitting(task, settings, 30.0) for settings in (module.PLAIN, module.RECIPES["reference"]))
    assert cheap > 4 * dear >= 4


def test_the_worse_of_two_attacks_counts_and_none_is_better_than_the_clean_image(task):
    network = task.network(task.config, RecipeConfig())
    clean, attacked = (module.attacked_logits(network, task, epsilon, 0) for epsilon in (0.0, 4.0))
    signs = np.where(task.labels == 1, 1, -1)
    assert (signs * attacked <= signs * clean).all() and (signs * attacked < signs * clean).mean() > 0.9


def test_what_is_trained_is_kept_and_another_setting_is_another_training(task, local_storage, monkeypatch):
    first = module.trained(task, module.PLAIN, 1, 24, local_storage, "plain")
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_epochs", lambda *a, **k: pytest.fail("trained again"))
        assert module.trained(task, module.PLAIN, 1, 24, local_storage, "plain") == first
    assert module.trained(task, module.PLAIN, 2, 24, local_storage, "plain")["epochs"] == 2
    other = task.config.model_copy(update={"augment": task.config.augment.model_copy(update={"jpeg_probability": 0.9})})
    assert module.trained(dataclasses.replace(task, config=other), module.PLAIN, 1, 24, local_storage, "plain")["settings"] != first["settings"]


def test_the_table_compares_with_flagship_on_the_same_people(task):
    generator = np.random.default_rng(0)
    scores = task.labels + generator.normal(0, 0.5, (3, len(task.labels)))
    better = {epsilon: scores for epsilon in (0.0, *task.epsilons)}
    worse = {epsilon: scores - task.labels * 0.8 for epsilon in better}
    found = {"flagship": module.Outcome(better, 10.0, 4), "other": module.Outcome(worse, 10.0, 2)}
    rows = {name: module._row(task, name, found) for name in found}
    value, low, high = rows["other"]["4"]["behind"]
    assert low < value < high < 0 and value == pytest.approx(rows["other"]["4"]["auc"][0] - rows["flagship"]["4"]["auc"][0])
    assert "| other | 2 | 10 |" in module.table(task, rows)[-1]
    rows["PGD-10, equal epochs"] = rows["other"]
    rows |= dict.fromkeys(module.RECIPES.keys() - rows.keys(), rows["other"])
    told = module.bars(task, rows, 5.0)
    assert "met" in told[0] and "2.00 x" in told[0] and all("yes" in line for line in told if "above" in line)


def test_every_recipe_and_part_is_one_that_the_configuration_knows():
    known = {"flagship": module.FLAGSHIP, **module.RECIPES, "full": module.FULL, "plain": module.PLAIN}
    known |= {name: {**module.FLAGSHIP, **change} for name, change in {**module.WITHOUT, **module.OTHER}.items()}
    for name, settings in known.items():
        recipe = RecipeConfig.model_validate({key: value for key, value in settings.items() if key != "ema_decay"})
        assert recipe.recipe in name or name in ("full", "plain", *module.WITHOUT, *module.OTHER)
