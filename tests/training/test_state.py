"""robust/training/state.py and averaging.py: training goes on from a saved state as if it had never stopped."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import crop_set, recipe, same, settings, smooth, train, weights

from robust.config import AugmentConfig
from robust.data.augment import build_augmentation
from robust.models.checkpoint import WEIGHTS
from robust.training.averaging import WeightAverage
from robust.training.loop import Place, start_training, train_epoch
from robust.training.state import FACTS, TENSORS, load_state, save_state

RECIPE = recipe(epochs=4, attack={"epsilon": 2, "steps": 1}, lipschitz={"weight": 0.01}, epsilon_warmup=0.5)


@pytest.mark.parametrize("changes", [
    {}, {"ema_decay": 0.9, "weight_decay": 0.01, "optimizer": "adamw", "gradient_clip": 1.0}, {"optimizer": "sgd", "warmup_steps": 3}, {"batch_norm": "frozen"},
])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path, changes):
    train_settings, crops, augment = settings(**changes), crop_set(), build_augmentation(AugmentConfig())
    keywords = {"train_settings": train_settings, "train_recipe": RECIPE, "augment": augment}
    whole, _ = train(smooth(dropout=0.2), crops, **keywords)

    half, _ = train(smooth(dropout=0.2), crops, epochs=2, **keywords)
    save_state(half, tmp_path, {"weights": "none"})
    torch.manual_seed(99)  # whatever happened in between
    resumed = start_training(smooth(seed=5, dropout=0.2), train_settings, RECIPE, device=torch.device("cpu"))
    assert load_state(resumed, tmp_path) == {"weights": "none"} and resumed.epoch == 2
    train(None, crops, epochs=2, training=resumed, **keywords)

    assert same(weights(resumed.network), weights(whole.network)) and same(weights(resumed.scored), weights(whole.scored))
    assert resumed.epoch == whole.epoch == 4 and not same(weights(half.network), weights(whole.network))


def to_the_end(training, crops, train_settings, train_recipe, between=lambda training: None) -> list:
    return [train_epoch(training, crops, train_settings, train_recipe, build_augmentation(AugmentConfig()), seed=24, place=Place(loader_threads=1), between=between)
            for _ in range(train_recipe.epochs - training.epoch)]


@pytest.mark.parametrize("more", [{}, {"recipe": "trades"}, {"recipe": "mart", "lipschitz": {"weight": 0.01}}, {"recipe": "flagship", "fast_share": 0.5}])
def test_a_training_goes_on_at_the_very_batch_with_the_same_bits(tmp_path, more):
    crops, keywords = crop_set(), (settings(ema_decay=0.9), recipe(epochs=3, attack={"epsilon": 2, "steps": 1}, epsilon_warmup=0.5, **more))

    def started(seed: int):
        return start_training(smooth(seed=seed, dropout=0.2), *keywords, device=torch.device("cpu"))

    def save(training):
        if (training.epoch, training.step) == (2, 3):  # of 4 steps
            save_state(training, tmp_path, {})

    whole, resumed = started(0), started(5)
    figures = to_the_end(whole, crops, *keywords, between=save)
    torch.manual_seed(99)
    load_state(resumed, tmp_path)
    assert (resumed.epoch, resumed.step) == (2, 3)
    (last,) = to_the_end(resumed, crops, *keywords)
    assert same(weights(resumed.network), weights(whole.network)) and same(weights(resumed.scored), weights(whole.scored))
    assert last.losses == pytest.approx(figures[2].losses, rel=1e-5) and (last.steps, figures[2].steps) == (1, 4)  # its own step alone


@pytest.mark.parametrize("more", [{"recipe": "fast"}, {"recipe": "free", "replays": 2}])
def test_what_cannot_be_saved_in_the_middle_of_an_epoch_is_not(tmp_path, more):
    seen, train_recipe = [], recipe(epochs=1, attack={"epsilon": 2, "steps": 1}, **more)

    def save(training):
        seen.append(training.can_pause)
        with pytest.raises(ValueError, match=f"after step {len(seen)} of epoch 0"):
            save_state(training, tmp_path, {})

    training = start_training(smooth(), settings(), train_recipe, device=torch.device("cpu"))
    to_the_end(training, crop_set(), settings(), train_recipe, between=save)
    assert seen == [False] * 3 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("collapsed, more", [
    (False, {"recipe": "fast"}), (True, {"recipe": "fast"}), (False, {"recipe": "free", "replays": 2}), (False, {"recipe": "mart"}),
    (False, {"recipe": "trades", "awp": 0.01}), (False, {"recipe": "gradnorm", "lipschitz": {"weight": 0.01}}),
    (False, {"recipe": "reference"}), (False, {"recipe": "flagship", "fast_share": 0.5}),
])
def test_every_recipe_goes_on_with_the_same_bits(tmp_path, collapsed, more):
    train_recipe, crops = recipe(epochs=2, attack={"epsilon": 2, "steps": 2}, **more), crop_set(reals=8, fakes=8)
    keywords = {"train_settings": settings(ema_decay=0.9), "train_recipe": train_recipe}

    def started(seed: int):
        return start_training(smooth(seed=seed, dropout=0.2), *keywords.values(), device=torch.device("cpu"))

    whole, part, resumed = started(0), started(0), started(5)
    whole.collapsed = part.collapsed = collapsed
    train(None, crops, epochs=2, training=whole, **keywords)
    train(None, crops, epochs=1, training=part, **keywords)
    save_state(part, tmp_path, {})
    torch.manual_seed(99)
    load_state(resumed, tmp_path)
    assert resumed.collapsed == collapsed
    train(None, crops, epochs=1, training=resumed, **keywords)
    assert same(weights(resumed.network), weights(whole.network)) and same(weights(resumed.scored), weights(whole.scored))
    assert not same(weights(part.network), weights(whole.network))


def test_a_state_is_numbers_and_json(tmp_path):
    training, _ = train(smooth(), crop_set(), epochs=1, train_settings=settings(ema_decay=0.5))
    save_state(training, tmp_path, {"weights": "none"})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([WEIGHTS, TENSORS, FACTS])
    assert json.loads((tmp_path / FACTS).read_text())["epoch"] == 1


def test_the_scored_and_saved_network_is_the_average(tmp_path):
    training, _ = train(smooth(), crop_set(), epochs=1, train_settings=settings(ema_decay=0.9))
    assert training.scored is training.average.network and not same(weights(training.scored), weights(training.network))
    save_state(training, tmp_path, {})
    saved = load_file(tmp_path / WEIGHTS)
    assert all(torch.equal(saved[name], value) for name, value in training.scored.state_dict().items())
    plain, _ = train(smooth(), crop_set(), epochs=1)
    assert plain.scored is plain.network and same(weights(plain.network), weights(training.network))


def test_an_average_follows_its_formula_and_copies_counters():
    network = torch.nn.BatchNorm1d(1)
    average, expected = WeightAverage(network, 0.3), 1.0
    for t, value in enumerate([2.0, 4.0, 8.0, 16.0, 1.0]):
        with torch.no_grad():
            network.weight.fill_(value)
            network.num_batches_tracked.fill_(t)
        average.update(network)
        decay = min(0.3, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * value
    assert float(average.network.weight) == pytest.approx(expected) and int(average.network.num_batches_tracked) == 4
    assert not average.network.training and not any(parameter.requires_grad for parameter in average.network.parameters())
    assert float(network.weight) == 1.0
