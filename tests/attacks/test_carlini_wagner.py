"""CW-L2: the known distance of a linear detector, agreement with the other minimal-norm attack, any scale of logits."""

import pytest
import torch
from strength import Counting, Scaled, margins, seeded

from robust.attacks.carlini_wagner import carlini_wagner, cw
from robust.attacks.minimal_norm import minimal_perturbation
from robust.attacks.threat import L2, Linf


def test_linear_distance_within_a_thousandth(linear):
    x = 0.25 + torch.rand(8, 3, 6, 6, generator=seeded(1), dtype=torch.float64) / 2
    logits = linear(x).detach()
    x_adv, distance = carlini_wagner(linear, x, (logits > 0).long(), steps=150)
    exact = logits.abs() / linear.weight.detach().norm()
    assert (distance >= exact - 1e-6).all() and (distance <= exact + 1e-3).all()
    torch.testing.assert_close((x_adv - x).flatten(1).norm(dim=1), distance.double(), rtol=1e-6, atol=0)


def test_agrees_with_the_other_minimal_norm_attack(detector, images):
    x, y = images[0][:24], images[1][:24]
    _, ours = carlini_wagner(detector, x, y, steps=50, searches=5)
    _, other = minimal_perturbation(detector, x, y, L2, steps=30)
    near = other < 2  # further off, both stop at some local minimum
    assert near.sum() >= 10
    torch.testing.assert_close(ours[near], other[near], rtol=0.05, atol=0)


def test_every_finite_distance_is_a_flip_of_that_length(detector, images):
    x, y = images
    x_adv, distance = carlini_wagner(detector, x, y, steps=10, searches=3)
    flipped = distance.isfinite()
    assert 0.5 < flipped.float().mean() < 1
    assert torch.equal(margins(detector, x_adv, y) > 0, flipped)
    torch.testing.assert_close((x_adv - x).flatten(1).norm(dim=1), torch.where(flipped, distance, 0))


@pytest.mark.parametrize("factor", [1e-3, 1000.0])
def test_the_scale_of_the_logits_does_not_matter(detector, images, factor):
    x, y = images[0][:24], images[1][:24]
    _, plain = carlini_wagner(detector, x, y, steps=20, searches=3)
    _, scaled = carlini_wagner(Scaled(detector, factor), x, y, steps=20, searches=3)
    assert scaled.median().item() == pytest.approx(plain.median().item(), rel=0.01)


def test_more_searches_never_hurt(detector, images):
    x, y = images[0][:24], images[1][:24]
    one, four = (carlini_wagner(detector, x, y, steps=20, searches=n)[1] for n in (1, 4))
    assert (four <= one).all() and (four < 0.98 * one).any()


def test_what_is_wrong_has_distance_zero_and_what_never_flips_infinity(linear):
    x = torch.rand(4, 3, 6, 6, generator=seeded(1), dtype=torch.float64)
    x_adv, distance = carlini_wagner(linear, x, (linear(x) <= 0).long(), steps=5)
    assert torch.equal(x_adv, x) and (distance == 0).all()
    linear.bias.data.fill_(1000.0)  # all fake, whatever the pixels
    x_adv, distance = carlini_wagner(linear, x, torch.ones(4).long(), steps=5)
    assert torch.equal(x_adv, x) and distance.isposinf().all()


def test_as_an_attack_it_flips_what_lies_in_the_ball(detector, images):
    x, y, threat = images[0][:24], images[1][:24], L2(1.0)
    _, distance = carlini_wagner(detector, x, y, steps=20, searches=3)
    flipped = margins(detector, cw(detector, x, y, threat, steps=20, searches=3), y) > 0
    assert flipped[distance <= threat.epsilon].all()
    assert 0.2 < flipped.float().mean() < 0.8


def test_linf_is_refused(detector, images):
    with pytest.raises(ValueError, match=r"L2 .*Linf\(epsilon=0.1\)"):
        cw(detector, *images, Linf(0.1), steps=5)


def test_passes_of_the_model(detector, images):
    model = Counting(detector)
    carlini_wagner(model, *images, steps=10, searches=2)
    assert (model.forwards - model.gradients, model.gradients) == (2, 21)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 5, "searches": 0}])
def test_impossible_settings_are_named(detector, images, settings):
    with pytest.raises(ValueError, match="=0"):
        carlini_wagner(detector, *images, **settings)
