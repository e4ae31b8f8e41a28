"""robust/training/collapse.py: a network that fools one step and no more is found out, taken back and trained on with PGD."""

import pytest
import torch
from tiny_training import crop_set, recipe, same, settings, train, weights
from torch import nn

from robust.attacks.fgsm import fgsm
from robust.attacks.threat import Linf
from robust.config import ProbeConfig
from robust.data.inputs import to_tensor
from robust.training.collapse import CollapseGuard, probe_crops
from robust.training.loop import Place, start_training

EPSILON = 12.0  # 0-255 units; reds of fakes are 40 higher
FAST = {"recipe": "fast", "attack": {"epsilon": EPSILON, "steps": 2}}


class Masking(nn.Module):
    """The logit s = red - middle, times 1 - 4 * masked where a third to two thirds of epsilon have been walked towards it.

    With `masked` 0 that is robust: reds differ by more than 2 epsilon. With 1 the gradient at an image and the place where a
    step of epsilon ends are as before, so that FGSM finds nothing; what lies between is called wrong.
    """

    def __init__(self):
        super().__init__()
        self.masked = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("middle", torch.tensor(140 / 255))

    def forward(self, x):
        s = x[:, 0].mean(dim=(1, 2)) - self.middle
        walked = (20 / 255 - s.abs()) * 255 / EPSILON
        between = torch.sigmoid((walked - 0.3) * 60) * torch.sigmoid((0.7 - walked) * 60)
        return 10 * s * (1 - 4 * self.masked * between)


def flat_crops():
    """crop_set() whose reds are exactly 120 (real) and 160 (fake)."""
    crops = crop_set()
    crops.pixels[:] = 100
    crops.pixels[..., 0] = 120
    crops.pixels[crops.labels == 1, :, :, 0] = 160
    return crops


def guard_of(network, crops, train_recipe, **changes):
    training = start_training(network, settings(optimizer="sgd", **changes), train_recipe, device=torch.device("cpu"))
    return training, CollapseGuard.of(training, crops, train_recipe, epsilon=EPSILON, seed=1, place=Place())


def test_a_planted_collapse_is_found_where_one_step_sees_none():
    network, crops = Masking(), flat_crops()
    training, guard = guard_of(network, crops, recipe(**FAST), ema_decay=0.5)
    assert guard.before == 1.0 and guard.robust_auc() == 1.0
    before, averaged = weights(network), weights(training.average.network)
    network.masked.grad = torch.tensor(1.0)
    training.optimizer.step()
    assert training.optimizer.state_dict()["state"]
    with torch.no_grad():
        network.masked.fill_(1.0)
    training.average.update(network)
    x, y = to_tensor(crops.pixels), torch.from_numpy(crops.labels)
    one_step = network(fgsm(network, x, y, Linf.from_255(EPSILON)))
    assert ((one_step > 0) == (y == 1)).all()
    figures = guard.check()
    assert figures["probe_before"] == 1.0 and figures["probe_after"] < 0.1 and figures["collapsed"] == 1.0
    assert same(weights(network), before) and same(weights(training.average.network), averaged) and training.average.updates == 0
    assert training.collapsed and training.optimizer.state_dict()["state"] == {}


def test_without_a_collapse_nothing_is_taken_back():
    network = Masking()
    training, guard = guard_of(network, flat_crops(), recipe(**FAST))
    with torch.no_grad():
        network.masked.fill_(0.01)
    assert guard.check() == {"probe_before": 1.0, "probe_after": 1.0, "collapsed": 0.0}
    assert network.masked.item() == pytest.approx(0.01) and not training.collapsed


def test_the_loop_takes_the_epoch_back_and_goes_on_with_pgd(monkeypatch):
    import robust.training.loop as loop

    used, real = [], loop.take_step

    def plant(training, x, y, train_settings, train_recipe, *, now, **keywords):
        used.append(train_recipe.recipe)
        answer = real(training, x, y, train_settings, train_recipe, now=now, **keywords)
        if now == 5:  # in the second epoch of four steps
            with torch.no_grad():
                training.network.masked.fill_(1.0)
        return answer

    monkeypatch.setattr(loop, "take_step", plant)
    train_recipe, train_settings = recipe(**FAST), settings(learning_rate=1e-9, min_learning_rate=0, ema_decay=0.5)
    training, figures = train(Masking(), flat_crops(), train_recipe=train_recipe, train_settings=train_settings)
    assert [figure.probe.get("collapsed") for figure in figures] == [0.0, 1.0, None]
    assert used == ["fast"] * 8 + ["madry"] * 4
    assert abs(training.network.masked.item()) < 1e-6 and abs(training.scored.masked.item()) < 1e-6 and training.epoch == 3


def test_a_network_of_no_numbers_is_no_robust_one():
    network = Masking()
    _, guard = guard_of(network, flat_crops(), recipe(**FAST))
    with torch.no_grad():
        network.masked.fill_(float("nan"))
    assert guard.check()["collapsed"] == 1.0


def test_only_a_single_step_attack_is_probed():
    network, crops = Masking(), flat_crops()
    training = start_training(network, settings(), recipe(), device=torch.device("cpu"))
    for other in (recipe(recipe="madry", attack={"epsilon": EPSILON}), recipe(recipe="free", attack={"epsilon": EPSILON})):
        assert CollapseGuard.of(training, crops, other, epsilon=EPSILON, seed=1, place=Place()) is None
    assert CollapseGuard.of(training, crops, recipe(**FAST), epsilon=0.0, seed=1, place=Place()) is None


def test_the_probe_has_as_many_fakes_as_reals_and_is_the_same_for_a_seed():
    labels = crop_set(reals=12, fakes=20).labels
    chosen = probe_crops(labels, ProbeConfig(images=10), seed=3)
    assert len(set(chosen)) == 10 and labels[chosen].sum() == 5
    assert (chosen == probe_crops(labels, ProbeConfig(images=10), seed=3)).all()
    assert len(probe_crops(labels, ProbeConfig(images=64), seed=3)) == 32
