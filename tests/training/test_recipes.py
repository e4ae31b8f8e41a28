"""robust/training/recipes: examples inside the ball, for whom they are asked, without a trace on the network."""

import pytest
import torch
from tiny_training import Linear, images, recipe, same, smooth, weights

from robust.config import PIXEL
from robust.errors import ConfigError
from robust.training.recipes import recipe_named

perturb = recipe_named("madry").perturb


def attacked(network, x, y, *, epsilon=2.0, seed=0, **settings):
    return perturb(network, x, y, recipe(attack={"epsilon": 2.0, **settings}), epsilon=epsilon, generator=torch.Generator().manual_seed(seed))


def test_examples_stay_in_the_ball_and_leave_no_trace():
    network, (x, y) = smooth(), images()
    before = weights(network)
    examples = attacked(network, x, y)
    assert 0 < (examples - x).abs().max() <= 2 * PIXEL * (1 + 1e-5) and examples.min() >= 0 and examples.max() <= 1
    assert same(weights(network), before) and all(module.training for module in network.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_epsilon_0_is_the_very_same_tensor():
    x, y = images()
    assert attacked(smooth(), x, y, epsilon=0) is x


def test_fakes_only_leaves_reals_untouched_and_attacks_fakes_all_the_same():
    network, (x, y) = smooth(), images()
    fakes_only, both = attacked(network, x, y, targets="fake"), attacked(network, x, y)
    assert torch.equal(fakes_only[y == 0], x[y == 0]) and torch.equal(fakes_only[y == 1], both[y == 1])
    assert not torch.equal(both[y == 0], x[y == 0])


@pytest.mark.parametrize("label", [0, 1])
def test_fakes_only_takes_batches_of_one_label(label):
    x, _ = images()
    examples = attacked(smooth(), x, torch.full((len(x),), label), targets="fake")
    assert torch.equal(examples, x) == (label == 0)


def test_the_step_size_shrinks_with_epsilon_during_the_warm_up():
    # On a linear logit one step from x moves every pixel by the step size; grey pixels never reach an edge.
    network, x, y = Linear(torch.ones(3, 4, 4)), torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 1])
    for epsilon in (2.0, 0.5):
        moved = attacked(network, x, y, epsilon=epsilon, steps=1, step_size=1.0, random_start=False) - x
        assert torch.allclose(moved.abs(), torch.full_like(moved, epsilon / 2 * PIXEL), atol=1e-6)
        assert (moved[0] > 0).all() and (moved[1] < 0).all()


def test_an_unknown_recipe_is_told():
    with pytest.raises(ConfigError, match="'adversarial' is not a recipe; there are .*madry"):
        recipe_named("adversarial")
