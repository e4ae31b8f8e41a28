"""PGD and FGSM: known answers, strength, passes of the model. What all attacks share is in test_contract.py."""

import pytest
import torch
from strength import Counting, Scaled, mean_loss, robust_accuracy, seeded

from robust.attacks.fgsm import fgsm
from robust.attacks.losses import cross_entropy_loss, margin_loss
from robust.attacks.pgd import pgd
from robust.attacks.registry import ATTACKS
from robust.attacks.threat import L2, Linf

STEPS = {"fgsm": 1, "pgd": 5}
THREATS_TRIED = [Linf.from_255(4), L2(0.5)]
every_attack = pytest.mark.parametrize("name", STEPS)
every_threat = pytest.mark.parametrize("threat", THREATS_TRIED, ids=str)


def attack(name, model, x, y, threat, **settings):
    return ATTACKS[name](model, x, y, threat, **{"steps": STEPS[name], "generator": seeded(0)} | settings)


# --- Known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clipped", [False, True], ids=["inside the box", "at the box"])
@every_attack
def test_linear_optimum_linf(linear, name, clipped):
    # The worst case of w . x + b in the box and the ball: every pixel goes the full epsilon, clipped to [0, 1].
    x = torch.rand(8, 3, 6, 6, generator=seeded(1), dtype=torch.float64)
    x = x if clipped else 0.25 + x / 2
    y = torch.arange(8) % 2
    uphill = (1 - 2 * y).view(-1, 1, 1, 1) * linear.weight.detach().sign()
    optimum = (x + 0.1 * uphill).clamp(0, 1)
    torch.testing.assert_close(attack(name, linear, x, y, Linf(0.1)), optimum, rtol=0, atol=1e-12)


@every_attack
def test_linear_optimum_l2(linear, name):
    x = 0.25 + torch.rand(8, 3, 6, 6, generator=seeded(1), dtype=torch.float64) / 2
    y = torch.arange(8) % 2
    uphill = (1 - 2 * y).view(-1, 1, 1, 1) * linear.weight.detach() / linear.weight.detach().norm()
    settings = {} if name == "fgsm" else {"steps": 60, "step_size": 0.1}
    x_adv = attack(name, linear, x, y, L2(0.2), **settings)
    best_loss = margin_loss(linear(x + 0.2 * uphill), y)
    torch.testing.assert_close(margin_loss(linear(x_adv), y), best_loss, rtol=0, atol=1e-4)
    assert (margin_loss(linear(x_adv), y) <= best_loss + 1e-9).all()


# --- Strength --------------------------------------------------------------------------------------------------------


@every_threat
def test_forty_steps_are_not_one(detector, images, threat):
    # The reference implementation never moved its images inside the loop: 40 steps were one.
    x, y = images
    one, forty = (pgd(detector, x, y, threat, steps=n, generator=seeded(0)) for n in (1, 40))
    assert not torch.equal(one, forty)
    assert mean_loss(detector, forty, y) > mean_loss(detector, one, y) + 0.1


def test_pgd_is_stronger_than_fgsm_and_than_noise(detector, images):
    x, y = images
    threat = Linf.from_255(8)
    strong = mean_loss(detector, pgd(detector, x, y, threat, steps=20, generator=seeded(0)), y)
    single = mean_loss(detector, fgsm(detector, x, y, threat), y)
    noise = mean_loss(detector, threat.project(x + threat.epsilon * torch.randn(x.shape, generator=seeded(2)), x), y)
    assert strong > single + 0.1 and single > noise + 0.1


def test_more_restarts_never_hurt(detector, images):
    x, y = images
    one, three = (
        margin_loss(detector(pgd(detector, x, y, Linf.from_255(8), steps=4, restarts=n, generator=seeded(0))), y)
        for n in (1, 3)
    )
    assert (three >= one - 1e-5).all() and (three > one + 1e-3).any()


def test_no_image_ends_weaker_than_it_began(detector, images):
    # A step far too large throws the path back and forth; the best point is kept nevertheless.
    x, y = images
    x_adv = pgd(detector, x, y, Linf.from_255(8), steps=5, step_size=1.0, generator=seeded(0))
    last = pgd(detector, x, y, Linf.from_255(8), steps=5, step_size=1.0, generator=seeded(0), keep_best=False)
    clean, best, end = (margin_loss(detector(z), y) for z in (x, x_adv, last))
    assert (best >= clean - 1e-5).all() and (best >= end - 1e-5).all() and (best > end + 0.1).any()


def test_saturated_logits_do_not_hide_from_the_margin(detector, images):
    x, y = images
    threat = Linf.from_255(8)
    plain = robust_accuracy(detector, pgd(detector, x, y, threat, steps=20, generator=seeded(0)), y)
    saturated = Scaled(detector, 1000)
    margin, entropy = (
        robust_accuracy(detector, pgd(saturated, x, y, threat, steps=20, loss=loss, generator=seeded(0)), y)
        for loss in (margin_loss, cross_entropy_loss)
    )
    assert abs(margin - plain) <= 0.02
    assert entropy > margin + 0.1  # what the margin protects from: sigmoid(+-1000 z) has no gradient left


def test_robust_accuracy_falls_with_epsilon_to_zero(detector, images):
    x, y = images
    curve = [
        robust_accuracy(detector, pgd(detector, x, y, Linf.from_255(e), steps=20, generator=seeded(0)), y)
        for e in (0, 1, 2, 4, 8, 16, 255)
    ]
    assert curve[0] == robust_accuracy(detector, x, y) > 0.9
    assert all(after <= before for before, after in zip(curve, curve[1:]))
    assert curve[-1] == 0


# --- Passes of the model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "forwards", "gradients"),
    [
        ({"steps": 10}, 12, 10),
        ({"steps": 10, "restarts": 3}, 34, 30),
        ({"steps": 10, "random_start": False}, 11, 10),
        ({"steps": 10, "keep_best": False}, 10, 10),
    ],
)
def test_passes_of_the_model(detector, images, settings, forwards, gradients):
    model = Counting(detector)
    pgd(model, *images, Linf.from_255(4), **settings)
    assert (model.forwards, model.gradients) == (forwards, gradients)


def test_fgsm_passes_of_the_model(detector, images):
    model = Counting(detector)
    fgsm(model, *images, Linf.from_255(4))
    assert (model.forwards, model.gradients) == (1, 1)


# --- Bad input -------------------------------------------------------------------------------------------------------


@every_attack
def test_checks_can_be_left_out(detector, images, name):
    attack(name, detector, images[0] * 1.5, images[1], Linf.from_255(4), checked=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 5, "restarts": 0}, "restarts=0"),
        ({"steps": 5, "step_size": 0.0}, "step_size"),
        ({"steps": 5, "step_size": float("nan")}, "step_size"),
        ({"steps": 5, "restarts": 2, "random_start": False}, "restarts=2"),
        ({"steps": 5, "restarts": 2, "keep_best": False}, "restarts=2"),
    ],
)
def test_impossible_settings_are_named(detector, images, settings, message):
    with pytest.raises(ValueError, match=message):
        pgd(detector, *images, Linf.from_255(4), **settings)


def test_fgsm_makes_one_step(detector, images):
    with pytest.raises(ValueError, match="one step, not 20"):
        fgsm(detector, *images, Linf.from_255(4), steps=20)
