"""Gates: every faked robustness is caught by its name, and honest models of many kinds raise no alarm."""

import copy
from functools import partial

import pytest
import torch
from gate_models import (
    Brightness,
    Counting,
    Crooked,
    Detached,
    Fractional,
    Ignorant,
    NotANumber,
    NotANumberInNoise,
    Quantised,
    Random,
    Reversed,
    Rippled,
    Saturated,
    Scaled,
    Scrambled,
    Trap,
    TwoFaced,
    honest,
    pictures,
)
from torch import nn

from robust.attacks.gates import GATES, NEED_SURROGATES, PRECONDITIONS, Budget, run_gates
from robust.attacks.gates.compare import allowed, gains_less, sampling_noise
from robust.attacks.gates.evidence import Attacked, Evidence
from robust.attacks.gates.planted import Features, plant
from robust.attacks.gates.preconditions import pixel_statistics
from robust.attacks.gates.strength import _not_weaker, round_away
from robust.attacks.losses import cross_entropy_loss
from robust.attacks.pgd import pgd
from robust.attacks.threat import Linf

HONEST = [kind for kind in range(24) if kind not in (3, 5, 9, 19)]  # those did not learn their task
EPSILONS = (0.5, 1, 2, 4, 8)
NAMES = [gate.__name__ for gate in (*PRECONDITIONS, *GATES)]
ALONE = [gate.__name__ for gate in (*PRECONDITIONS, *GATES) if gate not in NEED_SURROGATES]


@pytest.fixture(scope="module")
def sample():
    return pictures(32, seed=999)


@pytest.fixture(scope="module")
def net():
    """A plain detector, nearly all of whose images fall at epsilon 8 and few at 2."""
    return honest(12)


def failed(model, x, y, budget, **more):
    return {gate.name for gate in run_gates(model, x, y, budget, **more) if not gate.passed}


# --- Honest models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HONEST)
def test_honest_models_raise_no_alarm(sample, net, trained_detector, kind):
    x, y = sample
    outcomes = run_gates(honest(kind), x, y, Budget(EPSILONS[kind % len(EPSILONS)]), surrogates=[net, trained_detector])
    assert [gate for gate in outcomes if not gate.passed] == []
    assert [gate.name for gate in outcomes] == NAMES
    assert all(gate.measured and gate.remedy for gate in outcomes)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 2, 16])
def test_an_adversarially_trained_model_raises_none_at_any_epsilon(trained_detector, images, epsilon):
    assert failed(trained_detector, images[0][:32], images[1][:32], Budget(epsilon)) == set()


def test_confident_logits_are_no_fault(sample, net):
    assert failed(Scaled(net), *sample, Budget(8)) == set()


def test_a_dozen_images_and_one_image_do(sample, net):
    x, y = sample
    assert failed(net, x[10:22], y[10:22], Budget(4)) == set()
    assert failed(net, x[:1], y[:1], Budget(4)) == set()


def test_a_model_that_gives_no_number_beside_its_images_is_told_before_any_attack(sample, net):
    x, y = sample
    model = NotANumberInNoise(net, x)
    assert torch.equal(model(x), net(x))
    x_adv = pgd(model, x, y, Linf.from_255(4), steps=3)
    assert torch.equal(x_adv, x)  # to the attack it looks perfectly robust
    *_, last = outcomes = run_gates(model, x, y, Budget(4))
    assert [gate.name for gate in outcomes if not gate.passed] == ["input_gradients"] and len(outcomes) == len(PRECONDITIONS)
    assert "beside 32 of 32 images" in last.measured and "finite" in last.remedy


# --- Each fault by its name ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "wrapper", "epsilon"),
    [
        ("deterministic", Random, 2),
        ("input_gradients", Quantised, 2),
        ("input_gradients", Detached, 2),
        ("input_gradients", Saturated, 2),
        ("input_gradients", TwoFaced, 2),
        ("iterative_beats_one_step", Reversed, 8),
        ("more_steps", Reversed, 2),
        ("more_steps", Rippled, 2),
        ("more_steps", NotANumber, 2),
        ("larger_epsilon", Trap, 8),
        ("large_epsilon", Scrambled, 2),
        ("large_epsilon", Rippled, 2),
        ("beats_random_noise", Scrambled, 2),
        ("beats_random_noise", Rippled, 8),
        ("survives_rounding", Fractional, 8),
        ("finds_planted", Scrambled, 2),
        ("finds_planted", Reversed, 8),
        ("same_model", Counting, 2),
    ],
)
def test_a_model_that_fakes_it_is_caught_by_name(sample, net, gate, wrapper, epsilon):
    assert gate in failed(wrapper(net), *sample, Budget(epsilon))


def test_dropout_left_on(sample):
    model = honest(0)
    model.head[0].train()
    assert "evaluation_mode" in failed(model, *sample, Budget(2))


def test_images_divided_by_255_twice(sample, net):
    assert failed(net, sample[0] / 255, sample[1], Budget(2)) == {"input_statistics"}


def test_images_unlike_those_of_training(sample, net):
    mean, std = pixel_statistics(sample[0])
    assert failed(net, *sample, Budget(2), training_inputs={"mean": mean + 0.1, "std": 0.6 * std}) == set()
    for other in ({"mean": mean - 0.2, "std": std}, {"mean": mean, "std": 2.5 * std}, {"mean": mean, "std": 0.4 * std}):
        assert failed(net, *sample, Budget(2), training_inputs=other) == {"input_statistics"}


def test_a_gradient_that_hides_what_a_search_finds(sample):
    model, x = Brightness(), sample[0]
    x = x[model(x).abs().argsort()[:24]]
    y = (model(x) > 0).long()
    assert failed(model, x, y, Budget(8)) == set()
    assert "white_box_beats_black_box" in failed(Rippled(model), x, y, Budget(8))


def test_a_gradient_that_hides_what_another_model_shows(sample):
    model, x = Brightness(), sample[0]
    x = x[model(x).abs().argsort()[:24]]
    y = (model(x) > 0).long()
    assert failed(model, x, y, Budget(8), surrogates=[Rippled(model)]) == set()
    assert "white_box_beats_transfer" in failed(Rippled(model), x, y, Budget(8), surrogates=[model])


def test_without_another_model_nothing_is_said_of_transfer(sample, net):
    assert [gate.name for gate in run_gates(net, *sample, Budget(4))] == ALONE == [name for name in NAMES if "transfer" not in name]
    gate, = (one for one in run_gates(net, *sample, Budget(4), surrogates=[Detached(net)]) if one.name == "white_box_beats_transfer")
    assert gate.passed and "no gradient" in gate.measured and "nothing to compare with" in gate.measured


def test_cross_entropy_on_confident_logits(sample, net):
    budget = Budget(8, attack=partial(pgd, loss=cross_entropy_loss))
    assert "margin_not_weaker" in failed(Scaled(net), *sample, budget)
    assert failed(net, *sample, budget) == set()


def test_steps_that_do_not_move(sample, net):
    budget = Budget(8, attack=partial(pgd, step_size=1e-5, random_start=False))
    assert "iterative_beats_one_step" in failed(net, *sample, budget)


def test_too_few_steps(sample, net):
    crooked = Crooked(net)
    assert "converged" in failed(crooked, *sample, Budget(8, steps=1))
    assert "converged" not in failed(crooked, *sample, Budget(8, steps=20))


def test_a_model_that_ignores_its_input(sample):
    assert "large_epsilon" in failed(Ignorant(), *sample, Budget(2))


def test_after_a_failed_precondition_nothing_is_attacked(sample, net):
    outcomes = run_gates(Quantised(net), *sample, Budget(2))
    assert [gate.name for gate in outcomes] == NAMES[: len(PRECONDITIONS)]


# --- What they rest on -----------------------------------------------------------------------------------------------


def test_the_model_is_left_as_it_was(sample, net, untouched):
    model = copy.deepcopy(net)
    with untouched(model):
        run_gates(model, *sample, Budget(2))


def test_the_same_outcome_every_time(sample, net):
    assert run_gates(net, *sample, Budget(4)) == run_gates(net, *sample, Budget(4))


def test_cost_in_passes(sample, net):
    # What docs/gates.md says, on a model that resists: all contested images are there, and a large epsilon costs most.
    passes = {True: 0, False: 0}

    def count(_, inputs, __):
        passes[inputs[0].requires_grad] += len(inputs[0])

    model = copy.deepcopy(net)
    model.register_forward_hook(count)
    run_gates(model, *sample, Budget(0.5))
    assert passes[False] <= 40 * 32 and passes[True] <= 75 * 32, passes


def test_how_many_images_may_contradict():
    assert [sampling_noise(n) for n in (1, 32, 256)] == [1, 5, 15]
    assert [allowed(n) for n in (1, 8, 32, 256)] == [1, 1, 2, 7]


def test_a_weaker_loss_counts_if_it_is_sure_and_matters():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(32, generator=generator) - 10
    strong = start + 1 + 0.1 * torch.randn(32, generator=generator)
    assert gains_less(strong - 0.2, strong, start)
    assert not gains_less(strong - 0.05, strong, start)  # sure, but a twentieth of the gain
    assert not gains_less(strong - 0.3 + 2 * torch.randn(32, generator=generator), strong, start)  # not sure
    assert not gains_less(strong + 0.2, strong, start)
    assert not gains_less(strong + 9 + 5, strong + 9 + 50, start)  # both are far beyond the boundary
    assert not gains_less(strong[:1] - 5, strong[:1], start[:1])  # one image is no evidence


@pytest.mark.parametrize(("barely_lost", "passes"), [(0, True), (2, True), (3, False)])
def test_images_that_are_lost_count_however_little_their_loss_differs(sample, net, barely_lost, passes):
    evidence, start = Evidence(net, *sample, Budget(2)), torch.full((32,), -5.0)
    strong = torch.linspace(-1, 1, 32)
    weak = strong.clone()
    weak[16 : 16 + barely_lost] = -0.001
    evidence.clean, reference, attack = (Attacked(sample[0], loss, loss > 0) for loss in (start, strong, weak))
    assert not gains_less(weak, strong, start)
    assert _not_weaker("name", evidence, attack, reference, "so", "otherwise", "remedy").passed is passes


@pytest.mark.parametrize("epsilon", [0.5, 1, 2.5, 8])
def test_rounding_stays_in_the_ball_and_in_the_direction(sample, epsilon):
    x = sample[0]
    linear = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 1), nn.Flatten(0))
    x_adv = pgd(linear, x, sample[1], Linf.from_255(epsilon), steps=3)
    rounded = round_away(x_adv, x, epsilon) * 255
    torch.testing.assert_close(rounded, rounded.round(), rtol=0, atol=1e-4)
    change = rounded - 255 * x
    assert change.abs().max() <= -(-epsilon // 1) + 1e-3
    moved = (x_adv - x).abs() > 1e-4
    assert ((change * (x_adv - x))[moved] > 0).all()


def test_a_planted_example_is_adversarial_and_its_neighbours_are_not(sample, net):
    x, threat, generator = sample[0][:8], Linf.from_255(4), torch.Generator()
    planted, fitted = plant(net, x, threat, generator.manual_seed(0))
    assert fitted.all()
    with torch.no_grad():
        assert (planted(x) <= -0.99).all()
        for _ in range(20):
            near = x + threat.epsilon * (2 * torch.rand(x.shape, generator=generator) - 1)
            assert (planted(near.clamp(0, 1)) < 0.5).float().mean() > 0.5  # chance does not find it


def test_features_are_those_of_the_last_layer(sample, net):
    x = sample[0][:4]
    with torch.no_grad():
        torch.testing.assert_close(net.head(Features(net)(x)).squeeze(1), net(x))
        assert Features(Brightness())(x).shape == (4, 1)


def test_the_search_without_gradients_stays_in_its_ball_and_finds_what_is_coarse(sample):
    model, x = Brightness(), sample[0]
    y = (model(x) > 0).long()
    evidence = Evidence(model, x, y, Budget(8))
    found = evidence.budget.black_box(model, x, y, evidence.threat, steps=30, generator=evidence.generator())
    assert (found - x).abs().max() <= 8 / 255 + 1e-6 and 0 <= found.min() and found.max() <= 1
    before, after = evidence.clean.loss, evidence.attacked(found).loss
    optimum = 20 * 2 * 8 / 255  # the top up and the bottom down, by epsilon each
    assert (after >= before).all() and (after - before).mean() > 0.3 * optimum


@pytest.mark.parametrize("bad", [0, -1.0, float("nan")])
def test_gates_need_an_epsilon(bad):
    with pytest.raises(ValueError, match="epsilon above 0"):
        Budget(bad)


def test_gates_need_images(sample, net):
    with pytest.raises(ValueError, match="images and a label for each"):
        run_gates(net, sample[0][:0], sample[1][:0], Budget(1))
    with pytest.raises(ValueError, match="images and a label for each"):
        run_gates(net, sample[0], sample[1][:5], Budget(1))
