"""Several workers do what one does: the gradient of two, each with its half of a batch, is that of one with all of it."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from tiny_training import crop_set, recipe, settings, smooth, train
from torch.nn.parallel import DistributedDataParallel

from robust.config import AugmentConfig
from robust.data.augment import build_augmentation
from robust.errors import NonFiniteLoss
from robust.training.loop import Place, start_training
from robust.training.state import gather_statistics, load_state, restore_statistics, save_state

ATTACK = {"epsilon": 2, "steps": 2}
CASES = {
    "plain": {},
    "attack": {"attack": ATTACK},
    "mixed": {"attack": ATTACK, "adversarial_share": 0.5},
    "exact": {"attack": ATTACK, "lipschitz": {"weight": 0.1, "kind": "exact"}},
    "finite_difference": {"attack": ATTACK, "lipschitz": {"weight": 0.1, "kind": "finite_difference", "norm": "l1"}},
    "fast": {"recipe": "fast", "attack": ATTACK},
    "free": {"recipe": "free", "attack": ATTACK, "replays": 2},
    "trades": {"recipe": "trades", "attack": ATTACK, "beta": 1e3},
    "mart": {"recipe": "mart", "attack": ATTACK},
    "gradnorm": {"recipe": "gradnorm", "lipschitz": {"weight": 10, "of": "loss"}},
    "reference": {"recipe": "reference", "attack": ATTACK},
    "flagship": {"recipe": "flagship", "attack": ATTACK, "fast_share": 0.5, "lipschitz": {"weight": 10}},
    "awp": {"recipe": "trades", "attack": ATTACK, "beta": 1e3, "awp": 0.05},
    "accumulated": {"recipe": "mart", "attack": ATTACK, "awp": 0.05},
    "uneven": {"attack": ATTACK, "lipschitz": {"weight": 0.1, "kind": "exact"}},
    "uneven parts": {"recipe": "trades", "attack": ATTACK, "beta": 1e3, "awp": 0.05},
}
PARTS = {"accumulated": 2, "uneven parts": 3}
BATCH = {"uneven": 7, "uneven parts": 7}
"""Of which one worker has 4 and the other 3."""
EPOCHS = 2
"""Of one step each; the rate is so small that the second gradient is taken at the same weights."""


def gradient(case: str, place: Place, wrap=lambda module: module) -> torch.Tensor:
    """What the last step left, flattened; it went through augmentation, attack and the Lipschitz term."""
    train_settings = settings(optimizer="sgd", learning_rate=1e-9, min_learning_rate=0, batch_norm="frozen",
                              accumulate=PARTS.get(case, 1), batch_size=BATCH.get(case, 8))
    train_recipe = recipe(epochs=EPOCHS, **CASES[case])
    training = start_training(smooth(), train_settings, train_recipe, device=place.device, wrap=wrap)
    train(None, crop_set(reals=4, fakes=4), epochs=EPOCHS, training=training, train_settings=train_settings, train_recipe=train_recipe,
          augment=build_augmentation(AugmentConfig()), place=place)
    return torch.cat([parameter.grad.flatten() for parameter in training.network.parameters()])


def stopped(place: Place, wrap) -> dict:
    """Where a training ends whose second worker has a loss that is no number in the only step."""
    network = smooth()
    if place.rank == 1:
        network.head.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    training = start_training(network, settings(), recipe(), device=place.device, wrap=wrap)
    try:
        train(None, crop_set(reals=4, fakes=4), epochs=1, training=training, place=place)
    except NonFiniteLoss as error:
        return error.batch
    return {}


def resumed(place: Place, wrap, folder: str) -> dict[str, torch.Tensor]:
    """Weights and statistics after two epochs with norms in training: of one run, and of one that went on from rank 0's state."""
    keywords = {"train_settings": settings(batch_norm="train", batch_size=8), "train_recipe": recipe(epochs=2, attack=ATTACK)}
    crops = crop_set(reals=16, fakes=16)

    def started(seed: int):
        return start_training(smooth(seed=seed), *keywords.values(), device=place.device, wrap=wrap)

    whole, half, rest = started(0), started(0), started(5)
    train(None, crops, epochs=2, training=whole, place=place, **keywords)
    train(None, crops, epochs=1, training=half, place=place, **keywords)
    gather_statistics(half, place)
    if place.rank == 0:
        save_state(half, Path(folder), {})
    distributed.barrier()
    load_state(rest, Path(folder))
    restore_statistics(rest, place)
    train(None, crops, epochs=1, training=rest, place=place, **keywords)
    return {name: torch.cat([value.flatten().double() for value in one.network.state_dict().values()]) for name, one in (("whole", whole), ("resumed", rest), ("half", half))}


def worker(rank: int, folder: str) -> None:
    """One of two processes that reduce their gradients over 127.0.0.1."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    wrap = partial(DistributedDataParallel, broadcast_buffers=False)  # as jobs.train has it
    gradients = {case: gradient(case, Place(rank, 2), wrap) for case in CASES}
    torch.save({**gradients, "stopped": stopped(Place(rank, 2), wrap), **resumed(Place(rank, 2), wrap, folder)},
               f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    multiprocessing.spawn(worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_workers_have_the_gradient_of_one(of_two, case):
    one = gradient(case, Place())
    assert torch.equal(of_two[0][case], of_two[1][case])
    assert float((of_two[0][case] - one).abs().max() / one.abs().max()) < 1e-4


def test_workers_stop_together_where_one_has_a_loss_that_is_no_number(of_two):
    # Else rank 0, whose loss was finite in that step, would go on with weights that are no numbers.
    one, other = (of["stopped"] for of in of_two)
    assert one == other and (one["epoch"], one["step"], len(one["crops"])) == (0, 0, 8)


def test_two_workers_whose_norms_train_go_on_with_the_same_bits(of_two):
    one, other = of_two
    assert torch.equal(one["whole"], one["resumed"]) and not torch.equal(one["whole"], one["half"])
    assert not torch.equal(one["whole"], other["whole"])  # each has its own last batch's statistics, so there was something to lose


def test_the_cases_differ(of_two):
    # Else the test above would also pass with terms that never ran.
    plain = of_two[0]["plain"]
    apart = {case: float((of_two[0][case] - plain).abs().max() / plain.abs().max()) for case in CASES if case != "plain"}
    assert min(apart.values()) > 1e-3, apart
