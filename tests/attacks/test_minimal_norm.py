"""Minimal perturbations: exact on linear detectors, honest about what was found, and one run for a whole curve."""

import numpy as np
import pytest
import scipy.optimize
import torch
from strength import Counting, Scaled, margins, robust_accuracy, seeded

from robust.attacks.apgd import apgd
from robust.attacks.geometry import length, move_to_hyperplane
from robust.attacks.minimal_norm import (
    HALVINGS,
    fmn,
    inside_ball,
    logits_at_each,
    minimal_perturbation,
    robust_accuracy_curve,
)
from robust.attacks.threat import L2, Linf

every_norm = pytest.mark.parametrize("norm", [Linf, L2], ids=lambda norm: norm.__name__)


# --- The move to a hyperplane ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rise", [0.05, 0.5, 2.0, -0.5])
@every_norm
def test_move_to_a_hyperplane_is_the_shortest(norm, rise):
    x = torch.rand(6, 2, 3, 3, generator=seeded(0), dtype=torch.float64)
    x[0], x[1, 0] = 0.0, 1.0  # so that many pixels have no room
    normal = torch.randn(6, 2, 3, 3, generator=seeded(1), dtype=torch.float64)
    normal[2, 0] = 0.0
    move = move_to_hyperplane(x, normal, torch.full((6,), rise, dtype=torch.float64), norm)
    assert (x + move).min() >= -1e-12 and (x + move).max() <= 1 + 1e-12
    torch.testing.assert_close((move * normal).flatten(1).sum(1), torch.full((6,), rise, dtype=torch.float64))
    for i in range(6):
        expected = shortest_by_scipy(x[i].flatten().numpy(), normal[i].flatten().numpy(), rise, norm)
        assert length(move[i : i + 1], norm).item() == pytest.approx(expected, rel=1e-4)


def shortest_by_scipy(x, normal, rise, norm):
    """The length of the shortest move, by a linear (Linf) or a quadratic (L2) programme."""
    count = len(x)
    if norm is Linf:  # minimise t with -t <= m_i <= t
        eye, ones = np.eye(count), np.ones((count, 1))
        result = scipy.optimize.linprog(
            np.r_[np.zeros(count), 1],
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(2 * count),
            A_eq=np.r_[normal, 0][None],
            b_eq=[rise],
            bounds=[*zip(-x, 1 - x), (0, None)],
        )
        return result.fun
    result = scipy.optimize.minimize(
        lambda m: (m @ m) / 2,
        np.zeros(count),
        jac=lambda m: m,
        bounds=list(zip(-x, 1 - x)),
        constraints={"type": "eq", "fun": lambda m: normal @ m - rise, "jac": lambda m: normal},
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert result.success
    return np.sqrt(2 * result.fun)


@every_norm
def test_out_of_reach_goes_as_far_as_it_can(norm):
    x = torch.rand(2, 1, 2, 2, generator=seeded(0))
    normal = torch.tensor([[1.0, -2.0, 0.0, torch.nan], [0.0, 0.0, 0.0, 0.0]]).view(2, 1, 2, 2)
    moved = x + move_to_hyperplane(x, normal, torch.tensor([100.0, 1.0]), norm)
    expected = x.clone()
    expected[0, 0, 0] = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(moved, expected)


# --- Known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 5, 20])
@every_norm
def test_linear_distance_is_exact(linear, norm, steps):
    x = 0.25 + torch.rand(8, 3, 6, 6, generator=seeded(1), dtype=torch.float64) / 2
    logits = linear(x).detach()
    x_adv, distance = minimal_perturbation(linear, x, (logits > 0).long(), norm, steps=steps)
    dual = linear.weight.detach().abs().sum() if norm is Linf else linear.weight.detach().norm()
    exact = logits.abs() / dual
    torch.testing.assert_close(distance.double(), exact, rtol=2e-3, atol=0)
    assert (distance.double() >= exact * (1 - 1e-6)).all()
    torch.testing.assert_close(length(x_adv - x, norm), distance.double(), rtol=1e-6, atol=0)


@every_norm
def test_linear_distance_is_exact_at_the_box(linear, norm):
    # Images of black and white pixels: half of them can not move the way that the detector wants.
    x = torch.randint(2, (8, 3, 6, 6), generator=seeded(1)).double()
    logits = linear(x).detach()
    _, distance = minimal_perturbation(linear, x, (logits > 0).long(), norm, steps=10)
    uphill = -logits.sign().view(-1, 1, 1, 1) * linear.weight.detach()
    for i in range(8):
        expected = shortest_by_scipy(x[i].flatten().numpy(), uphill[i].flatten().numpy(), logits[i].abs().item(), norm)
        assert distance[i].item() == pytest.approx(expected, rel=2e-3)


@every_norm
def test_what_is_wrong_has_distance_zero_and_what_never_flips_infinity(linear, norm):
    x = torch.rand(4, 3, 6, 6, generator=seeded(1), dtype=torch.float64)
    wrong = (linear(x) <= 0).long()
    x_adv, distance = minimal_perturbation(linear, x, wrong, norm, steps=5)
    assert torch.equal(x_adv, x) and (distance == 0).all()
    linear.bias.data.fill_(1000.0)  # all fake, whatever the pixels
    x_adv, distance = minimal_perturbation(linear, x, torch.ones(4).long(), norm, steps=5, restarts=2)
    assert torch.equal(x_adv, x) and distance.isposinf().all()


# --- On a trained detector -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_norm
def test_every_finite_distance_is_a_flip_of_that_length(detector, images, norm, dtype):
    detector, x, y = detector.to(dtype), images[0].to(dtype), images[1]
    x_adv, distance = minimal_perturbation(detector, x, y, norm, steps=15, restarts=2)
    flipped = distance.isfinite()
    assert flipped.float().mean() > 0.9
    assert torch.equal(margins(detector, x_adv, y) > 0, flipped)
    torch.testing.assert_close(length(x_adv.double() - x.double(), norm).float(), torch.where(flipped, distance, 0))
    assert 0 <= x_adv.min() and x_adv.max() <= 1 and x_adv.dtype == dtype


@pytest.mark.parametrize(("norm", "epsilons"), [(Linf, (1 / 255, 2 / 255, 4 / 255, 8 / 255)), (L2, (0.25, 0.5, 1.0))])
def test_one_run_gives_the_curve_that_apgd_needs_many_for(detector, images, norm, epsilons):
    x, y = images
    _, distance = minimal_perturbation(detector, x, y, norm, steps=30, restarts=2, generator=seeded(0))
    curve = robust_accuracy_curve(distance, epsilons).tolist()
    assert all(after <= before for before, after in zip(curve, curve[1:]))
    for epsilon, robust in zip(epsilons, curve):
        apgds = robust_accuracy(detector, apgd(detector, x, y, norm(epsilon), steps=20, generator=seeded(0)), y)
        assert robust == pytest.approx(apgds, abs=1.5 / len(x))


@every_norm
def test_more_restarts_never_hurt(detector, images, norm):
    one, three = (
        minimal_perturbation(detector, *images, norm, steps=10, restarts=n, generator=seeded(0))[1] for n in (1, 3)
    )
    assert (three <= one * (1 + 1e-5)).all() and (three < 0.9 * one).any()


@every_norm
def test_the_scale_of_the_logits_does_not_matter(detector, images, norm):
    plain, scaled = (
        minimal_perturbation(model, *images, norm, steps=15)[1] for model in (detector, Scaled(detector, 1000))
    )
    assert scaled.median().item() == pytest.approx(plain.median().item(), rel=0.01)


@pytest.mark.parametrize("threat", [Linf.from_255(4), L2(1.0)], ids=str)
def test_as_an_attack_it_flips_what_lies_in_the_ball(detector, images, threat):
    x, y = images
    _, distance = minimal_perturbation(detector, x, y, type(threat), steps=15)
    flipped = margins(detector, fmn(detector, x, y, threat, steps=15), y) > 0
    assert flipped[distance <= threat.epsilon].all()
    assert 0.2 < flipped.float().mean() < 0.8


@pytest.mark.parametrize("norm", [Linf, L2], ids=lambda norm: norm.__name__)
def test_logits_at_each_epsilon_are_those_of_the_attack_on_that_ball(detector, images, norm):
    x, y = images
    found = minimal_perturbation(detector, x, y, norm, steps=6)
    median = found[1][found[1] > 0].median().item()
    balls = [norm(share * median) for share in (0, 0.3, 1, 3)]
    model = Counting(detector)
    clean, at_each = logits_at_each(model, x, y, balls, *found)
    with torch.no_grad():
        torch.testing.assert_close(clean, detector.eval()(x), rtol=0, atol=1e-6)
        for ball, logits in zip(balls, at_each, strict=True):
            attacked = detector(inside_ball(detector, x, y, ball, *found))
            torch.testing.assert_close(logits, attacked, rtol=0, atol=1e-5)
    beyond = sum(int(((found[1] > ball.epsilon) & found[1].isfinite()).sum()) for ball in balls[1:])
    assert model.images == len(x) + int((found[1] > 0).sum()) + beyond


def test_the_next_batch_draws_alike_whether_or_not_this_one_was_attacked(detector, images):
    # Else a figure would depend on how the images are cut into batches.
    x, y = images[0][:4], (detector(images[0][:4]) > 0).long()
    after_right, after_wrong = seeded(0), seeded(0)
    minimal_perturbation(detector, x, y, Linf, steps=2, generator=after_right)
    minimal_perturbation(detector, x, 1 - y, Linf, steps=2, generator=after_wrong)
    assert torch.equal(after_right.get_state(), after_wrong.get_state())


def test_curve_by_hand():
    distance = torch.tensor([0.0, 0.1, 0.2, torch.inf])
    assert robust_accuracy_curve(distance, [0, 0.05, 0.1, 0.15, 1]).tolist() == [0.75, 0.75, 0.75, 0.5, 0.25]


def test_passes_of_the_model(detector, images):
    model = Counting(detector)
    minimal_perturbation(model, *images, Linf, steps=10, restarts=2)
    assert (model.forwards - model.gradients, model.gradients) == (1 + 2 * (2 + HALVINGS), 20)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 5, "restarts": 0}])
def test_impossible_settings_are_named(detector, images, settings):
    with pytest.raises(ValueError, match="=0"):
        minimal_perturbation(detector, *images, Linf, **settings)
