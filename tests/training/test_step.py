"""robust/training/step.py: the passes of a step and no more, the same in every layout, precision and grouping of passes."""

from contextlib import nullcontext

import pytest
import torch
from tiny_training import images, recipe, settings, smooth
from torch.utils._python_dispatch import TorchDispatchMode

from robust.training.loop import start_training
from robust.training.modes import acts_as_deployed
from robust.training.objective import Objective
from robust.training.recipes import RECIPES, recipe_named, stage_of
from robust.training.step import take_step

ATTACK = {"epsilon": 2, "steps": 3}
DIFFERENCE = {"weight": 0.5, "kind": "finite_difference"}
EXACT = {"weight": 0.5, "kind": "exact"}
CPU = torch.device("cpu")


def stepped(train_recipe, *, device=CPU, network=None, layout=torch.channels_last, **changes):
    """(training, examples) after one step that leaves the weights as they are."""
    train_settings = settings(optimizer="sgd", **changes)
    training = start_training(network or smooth(), train_settings, train_recipe, device=device)
    if changes.get("batch_norm") == "frozen":
        training.network.eval()
    training.network.to(memory_format=layout)
    x, y = images()
    stage = stage_of(train_recipe, epoch=0)
    _, examples = take_step(training, x.to(device, memory_format=layout), y, train_settings, stage,
                            rate=0.0, epsilon=stage.attack.epsilon, seed=1, now=0)
    return training, examples


def gradient_of(training) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in training.network.parameters()])


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())


class Convolutions(TorchDispatchMode):
    """Counts backward passes of convolutions by whether they compute the gradients of weights."""

    def __init__(self):
        super().__init__()
        self.of_weights = self.of_inputs_only = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name == "convolution_backward":
            weights = args[-1][1]
            self.of_weights += weights
            self.of_inputs_only += not weights
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("name", ["madry", "fast", "trades"])
def test_an_attack_computes_no_gradient_of_a_weight(name, fold):
    train_recipe = recipe(recipe=name, attack=ATTACK)
    training = start_training(smooth(), settings(fold=fold), train_recipe, device=CPU)
    x, y = images()
    network = training.attacked(x)
    with Convolutions() as counted:
        recipe_named(name).perturb(network, x, y, train_recipe, epsilon=2.0, generator=torch.Generator().manual_seed(0))
    steps = 1 if name == "fast" else ATTACK["steps"]
    assert counted.of_weights == 0 and counted.of_inputs_only == 2 * steps  # of the two convolutions
    assert all(parameter.grad is None and parameter.requires_grad for parameter in training.network.parameters())


@pytest.mark.parametrize("lipschitz, forwards, backwards", [
    (None, 1, 1),  # the loss
    (DIFFERENCE, 2, 2),  # the loss's point serves the difference, whose other end is one pass more
    (EXACT, 1, None),
])
def test_the_loss_and_the_term_share_a_forward_where_they_can(lipschitz, forwards, backwards):
    train_recipe = recipe(attack=ATTACK, **({"lipschitz": lipschitz} if lipschitz else {}))
    for batch_norm, more in (("frozen", 0), ("train", 1 if lipschitz else 0)):
        network, seen = smooth(), []
        network.register_forward_hook(lambda *_: seen.append(1))
        with Convolutions() as counted:
            stepped(train_recipe, network=network, batch_norm=batch_norm, fold=False)
        assert len(seen) == ATTACK["steps"] + forwards + more
        if backwards is not None:
            assert counted.of_weights == 2 * (backwards + more)


@pytest.mark.parametrize("at", ["clean", "adversarial"])
@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("lipschitz", [DIFFERENCE, EXACT, {**DIFFERENCE, "of": "loss"}])
def test_sharing_the_forward_changes_nothing(at, share, lipschitz, monkeypatch):
    train_recipe = recipe(attack=ATTACK, lipschitz={**lipschitz, "at": at}, adversarial_share=share)
    shared = gradient_of(stepped(train_recipe, batch_norm="frozen")[0])
    monkeypatch.setattr(Objective, "_shares", lambda self, recipe: False)
    assert apart(gradient_of(stepped(train_recipe, batch_norm="frozen")[0]), shared) < 1e-4


def test_a_network_is_as_deployed_unless_something_in_it_trains():
    network = smooth(dropout=0.0)
    assert not acts_as_deployed(network) and acts_as_deployed(smooth().eval())
    network.features[1].eval()
    assert acts_as_deployed(network)
    network.head[0].p = 0.1
    assert not acts_as_deployed(network)
    network.head[0].p, network.drop_rate = 0.0, 0.2  # timm's functional dropout of the head
    assert not acts_as_deployed(network)


@pytest.mark.parametrize("lipschitz", [DIFFERENCE, EXACT])
def test_channels_last_is_the_plain_layout(lipschitz):
    train_recipe = recipe(attack=ATTACK, lipschitz=lipschitz)
    (one, seen) = stepped(train_recipe, layout=torch.channels_last)
    (other, plainly) = stepped(train_recipe, layout=torch.contiguous_format)
    assert one.network.features[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert other.network.features[0].weight.is_contiguous() and (seen - plainly).abs().mean() < 1e-6
    assert apart(gradient_of(one), gradient_of(other)) < 1e-4


@pytest.mark.parametrize("name", ["madry", "trades", "mart", "fast", "free"])
def test_bfloat16_has_the_gradient_of_float32_within_a_tenth(name):
    # bfloat16 has 8 bits: 0.4 % a number. On white noise some gradients' signs change, and with them pixels of the examples.
    train_recipe = recipe(recipe=name, attack=ATTACK, lipschitz=DIFFERENCE, replays=2)
    full, half = (gradient_of(stepped(train_recipe, precision=precision)[0]) for precision in ("float32", "bfloat16"))
    assert half.dtype == torch.float32 and 0 < apart(full, half) < 0.1


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_in_a_step_asks_the_device_for_a_number(name, monkeypatch):
    # Tensors on the meta device have shapes and no numbers: whatever waits for one (item, nonzero, a branch) is an error there.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # has no mode for that device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    more = {"lipschitz": DIFFERENCE, "awp": 0.01, "replays": 2, "attack": {**ATTACK, "targets": "fake"}}
    stepped(recipe(recipe=name, **more), device=torch.device("meta"), network=smooth().to("meta"), fold=False,
            gradient_clip=1.0, ema_decay=0.9, accumulate=2)
    with pytest.raises(Exception, match="meta"):
        bool(images()[0].to("meta").sum() > 0)
