"""APGD: known answers, step sizes that halve, and strength next to PGD."""

import pytest
import torch
from strength import Counting, Scaled, margins, mean_loss, robust_accuracy, seeded
from torch import nn

from robust.attacks.apgd import apgd, checkpoints
from robust.attacks.losses import cross_entropy_loss, margin_loss
from robust.attacks.pgd import pgd
from robust.attacks.threat import L2, Linf

every_threat = pytest.mark.parametrize("threat", [Linf.from_255(6), L2(0.8)], ids=str)


def linear_images(*, clipped):
    x = torch.rand(8, 3, 6, 6, generator=seeded(1), dtype=torch.float64)
    return (x if clipped else 0.25 + x / 2), torch.arange(8) % 2


# --- Known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [margin_loss, cross_entropy_loss])
@pytest.mark.parametrize("clipped", [False, True], ids=["inside the box", "at the box"])
def test_linear_optimum_linf(linear, clipped, loss):
    x, y = linear_images(clipped=clipped)
    uphill = (1 - 2 * y).view(-1, 1, 1, 1) * linear.weight.detach().sign()
    x_adv = apgd(linear, x, y, Linf(0.1), steps=10, loss=loss, generator=seeded(0))
    torch.testing.assert_close(x_adv, (x + 0.1 * uphill).clamp(0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("clipped", [False, True], ids=["inside the box", "at the box"])
def test_linear_optimum_l2(linear, clipped):
    x, y = linear_images(clipped=clipped)
    best_loss = margin_loss(linear(l2_optimum(x, y, linear.weight.detach(), 0.8)), y)
    reached = margins(linear, apgd(linear, x, y, L2(0.8), steps=100, generator=seeded(0)), y)
    torch.testing.assert_close(reached, best_loss, rtol=1e-4, atol=0)
    assert (reached <= best_loss + 1e-9).all()


def l2_optimum(x, y, weight, epsilon):
    """Pixels move along w until they meet the box: clip(x + s w) with the s, found by bisection, that uses epsilon."""
    uphill = (1 - 2 * y).view(-1, 1, 1, 1) * weight
    low, high = torch.zeros(len(x), 1, 1, 1, dtype=x.dtype), torch.full((len(x), 1, 1, 1), 10.0, dtype=x.dtype)
    for _ in range(80):
        middle = (low + high) / 2
        short = ((x + middle * uphill).clamp(0, 1) - x).flatten(1).norm(dim=1).view(-1, 1, 1, 1) < epsilon
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (x + low * uphill).clamp(0, 1)


class Peak(nn.Module):
    """A smooth hill for label 0: the logit is highest where every pixel is 0.503."""

    def forward(self, x):
        return -1000 * (x - 0.503).pow(2).flatten(1).mean(dim=1)


def test_steps_are_halved_until_the_peak_is_met():
    # Steps of one size jump over a peak inside the ball for ever.
    x, y = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64), torch.tensor([0, 0])
    halving = apgd(Peak(), x, y, Linf(0.02), steps=100, generator=seeded(0))
    fixed = pgd(Peak(), x, y, Linf(0.02), steps=100, step_size=0.04, generator=seeded(0))
    assert (halving - 0.503).abs().max() < 5e-4 < (fixed - 0.503).abs().mean()


def test_checkpoints_are_the_papers():
    # p = 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of the steps (section 3.3 of the paper).
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


# --- Strength --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 20])
@every_threat
def test_at_least_as_strong_as_pgd_at_equal_passes(detector, images, threat, steps):
    x, y = images
    ours, theirs = (
        attack(detector, x, y, threat, steps=steps, restarts=2, generator=seeded(0)) for attack in (apgd, pgd)
    )
    assert robust_accuracy(detector, ours, y) <= robust_accuracy(detector, theirs, y)
    assert mean_loss(detector, ours, y) > mean_loss(detector, theirs, y)


def test_more_steps_are_stronger(detector, images):
    x, y = images
    weak = apgd(detector, x, y, Linf.from_255(8), steps=3, generator=seeded(0))
    strong = apgd(detector, x, y, Linf.from_255(8), steps=30, generator=seeded(0))
    assert mean_loss(detector, strong, y) > mean_loss(detector, weak, y) + 0.05


@every_threat
def test_more_restarts_never_hurt(detector, images, threat):
    x, y = images
    one, three = (
        margins(detector, apgd(detector, x, y, threat, steps=5, restarts=n, generator=seeded(0)), y) for n in (1, 3)
    )
    assert (three >= one - 1e-5).all() and (three > one + 1e-3).any()


def test_saturated_logits_do_not_hide_from_the_margin(detector, images):
    x, y = images
    threat, saturated = Linf.from_255(8), Scaled(detector, 1000)
    plain = robust_accuracy(detector, apgd(detector, x, y, threat, steps=20), y)
    margin, entropy = (
        robust_accuracy(detector, apgd(saturated, x, y, threat, steps=20, loss=loss), y)
        for loss in (margin_loss, cross_entropy_loss)
    )
    assert abs(margin - plain) <= 0.02
    assert entropy >= margin + 0.1  # sigmoid(+-1000 z) has no gradient left


def test_robust_accuracy_falls_with_epsilon_to_zero(detector, images):
    x, y = images
    curve = [
        robust_accuracy(detector, apgd(detector, x, y, Linf.from_255(e), steps=15, generator=seeded(0)), y)
        for e in (0, 2, 4, 8, 255)
    ]
    assert curve[0] == robust_accuracy(detector, x, y) > 0.9
    assert all(after <= before for before, after in zip(curve, curve[1:])) and curve[-1] == 0


# --- Passes of the model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "forwards", "gradients"), [({}, 12, 10), ({"restarts": 3}, 34, 30)])
def test_passes_of_the_model(detector, images, settings, forwards, gradients):
    model = Counting(detector)
    apgd(model, *images, Linf.from_255(4), steps=10, **settings)
    assert (model.forwards, model.gradients) == (forwards, gradients)


@pytest.mark.parametrize("loss", [margin_loss, cross_entropy_loss])
@every_threat
def test_early_stop_flips_the_same_images_for_less(detector, images, threat, loss):
    x, y = images
    whole, stopped = Counting(detector), Counting(detector)
    settings = {"steps": 10, "restarts": 2, "loss": loss}
    strongest = apgd(whole, x, y, threat, **settings)
    first = apgd(stopped, x, y, threat, early_stop=True, **settings)
    assert torch.equal(margins(detector, first, y) > 0, margins(detector, strongest, y) > 0)
    assert mean_loss(detector, first, y) < mean_loss(detector, strongest, y)
    assert stopped.images < 0.85 * whole.images


def test_early_stop_pays_one_pass_for_what_is_wrong_already(detector, images):
    model = Counting(detector)
    wrong = 1 - (detector(images[0]) > 0).long()
    x_adv = apgd(model, images[0], wrong, Linf.from_255(4), steps=10, early_stop=True)
    assert model.forwards == 1 and torch.equal(x_adv, images[0])


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 5, "restarts": 0}])
def test_impossible_settings_are_named(detector, images, settings):
    with pytest.raises(ValueError, match="=0"):
        apgd(detector, *images, Linf.from_255(4), **settings)
