"""robust/training/recipes: each against its paper's formula, written out here for a logit that is linear in the image."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_training import Linear, crop_set, images, recipe, same, settings, smooth, train, weights

from robust.attacks.noise import ImageNoise
from robust.config import PIXEL
from robust.errors import ConfigError
from robust.training.lipschitz import lipschitz_term
from robust.training.loop import start_training
from robust.training.objective import Objective
from robust.training.recipes import RECIPES, recipe_named, stage_of
from robust.training.recipes.base import bernoulli_kl
from robust.training.step import take_step
from robust.training.weight_perturbation import statistics_held, worst_weights

CPU = torch.device("cpu")
EPSILON = 2.0  # 0-255 units


@pytest.fixture
def linear() -> Linear:
    return Linear(torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(3)))


def grey(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that no small change takes to the edge of [0, 1], and labels, half fake."""
    x, y = images(count, size=6)
    return 0.3 + 0.4 * x, y


def perturbed(name, network, x, y, **more):
    train_recipe = recipe(recipe=name, attack={"epsilon": EPSILON, "steps": 3, **more.pop("attack", {})}, **more)
    return recipe_named(name).perturb(network, x, y, train_recipe, epsilon=EPSILON, generator=torch.Generator().manual_seed(7))


def towards_wrong(network, y) -> torch.Tensor:
    """(N, 3, H, W) sign of dl/dx = (sigmoid(z) - y) w."""
    return (1 - 2 * y.view(-1, 1, 1, 1)) * network.weight.detach().sign()


def values(name, network, clean, adversarial, y, **more) -> dict[str, float]:
    terms = Objective(network)(clean, adversarial, y, recipe(recipe=name, attack={"epsilon": EPSILON}, **more))
    return {key: value.item() for key, value in terms.items()}


def test_fast_is_noise_of_twice_epsilon_and_a_step_of_epsilon(linear):
    # de Jorge et al. 2022, alg. 1: x + n + epsilon sign(grad), n ~ U(-2 epsilon, 2 epsilon), no projection to the ball.
    x, y = grey()
    noise = ImageNoise.of(x, generator=torch.Generator().manual_seed(7)).uniform()
    expected = x + 2 * EPSILON * PIXEL * noise + EPSILON * PIXEL * towards_wrong(linear, y)
    examples = perturbed("fast", linear, x, y)
    assert torch.allclose(examples, expected, atol=1e-6)
    assert EPSILON * PIXEL * 1.5 < (examples - x).abs().max() <= 3 * EPSILON * PIXEL


def test_fast_without_noise_is_fgsm_and_alpha_is_the_step_size(linear):
    x, y = grey()
    fgsm = x + EPSILON * PIXEL * towards_wrong(linear, y)
    assert torch.allclose(perturbed("fast", linear, x, y, noise=0), fgsm, atol=1e-6)
    half = perturbed("fast", linear, x, y, noise=0, attack={"step_size": 1.0})
    assert torch.allclose(half - x, (fgsm - x) / 2, atol=1e-6)


def test_fast_stays_in_the_box_and_may_leave_reals_alone(linear):
    x, y = images(6, size=6)
    examples = perturbed("fast", linear, x, y, attack={"targets": "fake", "epsilon": 60.0})
    assert torch.equal(examples[y == 0], x[y == 0]) and examples.min() >= 0 and examples.max() <= 1
    assert not torch.equal(examples[y == 1], x[y == 1])


def test_the_divergence_is_that_of_two_bernoulli_distributions():
    of, to = torch.tensor([0.3, -2.0, 4.0], dtype=torch.float64), torch.tensor([-1.0, -2.0, 0.5], dtype=torch.float64)
    p, q = (torch.distributions.Bernoulli(logits=logits) for logits in (of, to))
    assert torch.allclose(bernoulli_kl(of, to), torch.distributions.kl_divergence(p, q), rtol=1e-12)
    assert bernoulli_kl(torch.tensor([200.0]), torch.tensor([-200.0])).item() == pytest.approx(200)


def test_trades_is_clean_loss_and_beta_times_the_divergence(linear):
    x, y = grey()
    x_adv = x + 0.02
    expected = 0.0
    for clean, adversarial, label in zip(linear(x).tolist(), linear(x_adv).tolist(), y.tolist(), strict=True):
        p, q = 1 / (1 + math.exp(-clean)), 1 / (1 + math.exp(-adversarial))
        expected -= math.log(p if label else 1 - p) / len(x)
        expected += 5 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / len(x)
    assert values("trades", linear, x, x_adv, y, beta=5)["total"] == pytest.approx(expected, rel=1e-4)


def test_trades_attacks_the_divergence_not_the_label(linear):
    # KL grows with (z' - z)^2, so an image goes on to the side on which its random start fell.
    x, y = grey(8)
    said = linear(x).detach()
    examples, swapped = (perturbed("trades", linear, x, labels) for labels in (y, 1 - y))
    corner = (linear.weight.abs().sum() * EPSILON * PIXEL).detach()
    moved = (linear(examples) - said).detach()
    assert torch.allclose(moved.abs(), corner.expand_as(moved), rtol=1e-3) and len(set(moved.sign().tolist())) == 2
    assert torch.equal(examples, swapped)


def test_mart_weighs_the_divergence_by_what_the_clean_image_is_called_wrong(linear):
    # Wang et al. 2020, eqs. 7 and 10: BCE(p', y) = -log p'_y - log(1 - max_{k != y} p'_k), and KL(p || p') (1 - p_y).
    x, y = grey()
    x_adv = x - 0.02
    expected = 0.0
    for clean, adversarial, label in zip(linear(x).tolist(), linear(x_adv).tolist(), y.tolist(), strict=True):
        fake, fake_adv = 1 / (1 + math.exp(-clean)), 1 / (1 + math.exp(-adversarial))
        p, q = (1 - fake, fake), (1 - fake_adv, fake_adv)
        boosted = -math.log(q[label]) - math.log(1 - q[1 - label])
        divergence = sum(p[k] * math.log(p[k] / q[k]) for k in (0, 1))
        expected += (boosted + 5 * divergence * (1 - p[label])) / len(x)
    assert values("mart", linear, x, x_adv, y, beta=5)["total"] == pytest.approx(expected, rel=1e-4)


def stepped(network, x, y, train_recipe, **changes):
    """(training, terms, examples) after one step that leaves the weights as they are."""
    train_settings = settings(optimizer="sgd", **changes)
    training = start_training(network, train_settings, train_recipe, device=CPU)
    stage = stage_of(train_recipe, epoch=0)
    terms, examples = take_step(training, x, y, train_settings, stage, rate=0.0, epsilon=stage.attack.epsilon, seed=1, now=0)
    return training, terms, examples


def test_free_climbs_epsilon_a_replay_and_carries_its_perturbation_on(linear):
    # Shafahi et al. 2019, alg. 1: delta <- clip(delta + epsilon sign(grad_x loss(x + delta)), -epsilon, epsilon).
    x, y = grey()
    up = EPSILON * PIXEL * towards_wrong(linear, y)
    for replays, seen in ((1, torch.zeros_like(x)), (3, up)):
        training, _, examples = stepped(linear, x, y, recipe(recipe="free", replays=replays, attack={"epsilon": EPSILON}))
        assert torch.allclose(examples, x + seen, atol=1e-6) and torch.allclose(training.perturbation, up, atol=1e-6)
    train_settings, train_recipe = settings(optimizer="sgd"), recipe(recipe="free", replays=1, attack={"epsilon": EPSILON})
    _, examples = take_step(training, x.flip(0), 1 - y, train_settings, train_recipe, rate=0.0, epsilon=EPSILON, seed=1, now=1)
    assert torch.allclose(examples, x.flip(0) + up, atol=1e-6) and training.perturbation.abs().max() < 1e-6


def test_free_updates_once_a_replay_and_leaves_reals_alone_if_asked():
    network, (x, y) = smooth(), images()
    train_recipe = recipe(recipe="free", replays=3, attack={"epsilon": EPSILON, "targets": "fake"})
    training, _, examples = stepped(network, x, y, train_recipe)
    assert int(network.features[1].num_batches_tracked) == int(smooth().features[1].num_batches_tracked) + 3
    assert torch.equal(examples[y == 0], x[y == 0]) and not torch.equal(examples[y == 1], x[y == 1])
    one_replay = recipe(recipe="free", replays=1, attack={"epsilon": EPSILON, "targets": "fake"})
    moved = training.perturbation.abs().amax((1, 2, 3)) > 0
    _, examples = take_step(training, x, 1 - y, settings(optimizer="sgd"), one_replay, rate=0.0, epsilon=EPSILON, seed=1, now=1)
    assert moved.any() and torch.equal(examples, x)  # what moved fakes must not move the reals that follow


def test_awp_moves_each_weight_tensor_up_its_gradient_by_gamma_times_its_norm():
    # Wu et al. 2020, eq. 10: v_l = gamma ||w_l|| g_l / ||g_l||; vectors stay, and everything comes back to the bit.
    network, (x, y) = smooth(), images()
    F.binary_cross_entropy_with_logits(network(x), y.float()).backward()
    before = weights(network)
    kept = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    with worst_weights(network, 0.01):
        for name, parameter in network.named_parameters():
            w, g = kept[name], parameter.grad
            v = 0.01 * w.norm() * g / g.norm() if w.ndim > 1 else torch.zeros_like(w)
            assert torch.allclose(parameter - w, v, atol=1e-7)
    assert same(weights(network), before)


def test_awp_trains_on_the_gradient_at_the_worst_weights(linear):
    # With z = w.x + b: g = mean (sigmoid(z) - y) x, taken once at w for v and once at w + v for the update.
    x, y = grey()

    def gradient(w):
        wrong = torch.sigmoid((x * w).flatten(1).sum(1)) - y
        return (wrong.view(-1, 1, 1, 1) * x).mean(0)

    w = linear.weight.detach().clone()
    g = gradient(w)
    expected = gradient(w + 0.1 * w.norm() * g / g.norm())
    training, *_ = stepped(linear, x, y, recipe(awp=0.1))
    assert torch.allclose(linear.weight.grad, expected, rtol=1e-4) and not torch.allclose(g, expected, rtol=1e-3)
    assert torch.equal(linear.weight, w)


@pytest.mark.parametrize("name", ["madry", "trades", "free"])
def test_awp_is_seen_by_batch_norm_once(name):
    (x, y), network = images(), smooth()
    training, *_ = stepped(network, x, y, recipe(recipe=name, awp=0.05, replays=1, attack={"epsilon": EPSILON, "steps": 1}))
    assert int(network.features[1].num_batches_tracked) == int(smooth().features[1].num_batches_tracked) + 1
    network = smooth()
    with statistics_held(network):
        held = network(x)
    assert same(weights(network), weights(smooth())) and torch.equal(held, smooth()(x))
    assert network.features[1].track_running_stats


def test_gradnorm_is_clean_loss_and_the_norm_of_w_without_any_attack(linear):
    x, y = grey()
    for norm, length in (("l1", linear.weight.abs().sum()), ("l2", linear.weight.square().sum())):
        train_recipe = recipe(recipe="gradnorm", attack={"epsilon": EPSILON}, lipschitz={"weight": 0.5, "norm": norm})
        _, terms, examples = stepped(linear, x, y, train_recipe)
        clean = F.binary_cross_entropy_with_logits(linear(x), y.float())
        assert torch.equal(examples, x)
        assert float(terms["lipschitz"]) == pytest.approx(length.item(), rel=1e-5)
        assert float(terms["total"]) == pytest.approx((clean + 0.5 * length).item(), rel=1e-5)
    with pytest.raises(ConfigError, match=r"gradnorm .*lipschitz\.weight is 0"):
        stage_of(recipe(recipe="gradnorm"), epoch=0)


@pytest.mark.parametrize("kind", ["exact", "finite_difference"])
def test_the_slope_of_the_loss_is_the_logits_times_how_wrong_it_is(kind):
    # dl/dx = (sigmoid(z) - y) w
    w = 0.1 * torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (x, y), model = images(5, size=6, dtype=torch.float64), Linear(w)
    wrong = torch.sigmoid(model(x)).sub(y).abs()
    for norm, expected in (("l1", wrong * w.abs().sum()), ("l2", wrong.square() * w.square().sum())):
        term = lipschitz_term(model, x, kind=kind, norm=norm, h=1e-6, labels=y)
        assert term.item() == pytest.approx(expected.mean().item(), rel=1e-4)
    terms = Objective(Linear(w))(x, x, y, recipe(lipschitz={"weight": 1, "of": "loss", "norm": "l1", "kind": kind}))
    assert terms["lipschitz"].item() == pytest.approx((wrong * w.abs().sum()).mean().item(), rel=0.02)


def test_the_reference_is_its_own_numbers_in_pixel_units():
    stage = stage_of(recipe(recipe="reference", attack={"epsilon": 0.5}, adversarial_share=1), epoch=0)
    # 1 / 255 and steps of 0.01 in [-1, 1] are half as much in [0, 1]; psi * mean g^2 is psi / (3 * 299^2) * ||g||^2, g^2 a quarter.
    assert (stage.recipe, stage.attack.steps, stage.attack.random_start, stage.attack.targets) == ("madry", 40, False, "both")
    assert stage.attack.epsilon * PIXEL == pytest.approx(1 / 255 / 2)
    assert stage.attack.step_size * PIXEL == pytest.approx(0.01 / 2)
    assert stage.lipschitz.weight == pytest.approx(1000 / 268203 / 4)
    assert (stage.lipschitz.kind, stage.lipschitz.at) == ("exact", "adversarial")
    assert stage.adversarial_share == 0.5


def test_the_flagship_is_fast_first_and_strong_last():
    train_recipe = recipe(recipe="flagship", epochs=10, fast_share=0.7, lipschitz={"weight": 0.1}, attack={"epsilon": EPSILON})
    stages = [stage_of(train_recipe, epoch=epoch) for epoch in range(10)]
    assert [stage.recipe for stage in stages] == ["fast"] * 7 + ["trades"] * 3
    assert {stage.lipschitz.weight for stage in stages[:7]} == {0} and {stage.lipschitz.weight for stage in stages[7:]} == {0.1}
    assert stages[9].lipschitz.kind == "finite_difference"
    assert stage_of(train_recipe.model_copy(update={"finish": "madry"}), epoch=9).recipe == "madry"
    assert stage_of(train_recipe, epoch=0, collapsed=True).recipe == "madry"


def test_every_recipe_trains_and_without_an_attack_each_is_plain_training():
    more = {"gradnorm": {"lipschitz": {"weight": 1e-3}}}
    for name in RECIPES:
        attacked = recipe(recipe=name, epochs=1, attack={"epsilon": EPSILON, "steps": 1}, **more.get(name, {}))
        training, (figures,) = train(smooth(), crop_set(), train_recipe=attacked)
        assert all(math.isfinite(value) for value in figures.losses.values())
        assert not same(weights(training.network), weights(smooth()))
    plain = weights(train(smooth(), crop_set(), train_recipe=recipe(epochs=1))[0].network)
    for name in ("madry", "fast", "free", "trades"):
        assert same(weights(train(smooth(), crop_set(), train_recipe=recipe(recipe=name, epochs=1))[0].network), plain)
