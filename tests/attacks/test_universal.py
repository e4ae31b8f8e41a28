"""Universal perturbations: the exact optimum of a linear model, and images that were not fitted on."""

import pytest
import torch
from strength import Counting, mean_loss, robust_accuracy, seeded

from benchmarks.small_detector import make_images
from robust.attacks.pgd import pgd
from robust.attacks.threat import L2, Linf
from robust.attacks.universal import Universal, fit_universal, universal

threats = pytest.mark.parametrize("threat", [Linf.from_255(12), L2(2.5)], ids=str)


def test_linear_optimum(linear):
    # Every image's gradient is w: the best pattern for fakes is the corner -epsilon sign(w), for reals +epsilon sign(w).
    x = 0.3 + 0.4 * torch.rand(9, 3, 6, 6, generator=seeded(1), dtype=torch.float64)
    y, weight = torch.arange(9) % 2, linear.weight.detach()
    found = fit_universal(linear, x, y, Linf(0.1), steps=10, clip=1e9)
    torch.testing.assert_close(found.patterns, 0.1 * torch.stack([weight.sign(), -weight.sign()]), rtol=0, atol=1e-12)
    uphill = (1 - 2 * y).view(-1, 1, 1, 1) * weight.sign()
    torch.testing.assert_close(found.apply(x, y), x + 0.1 * uphill, rtol=0, atol=1e-12)
    found = fit_universal(linear, x, y, L2(0.2), steps=10, clip=1e9).patterns
    torch.testing.assert_close(found, 0.2 / weight.norm() * torch.stack([weight, -weight]), rtol=0, atol=1e-9)


@threats
def test_turns_images_that_it_was_not_fitted_on(detector, images, threat):
    x, y = images
    fit_on = make_images(96, generator=seeded(77))
    x_adv = universal(detector, x, y, threat, steps=30, fit_on=fit_on)
    pattern = fit_universal(detector, *fit_on, threat, steps=30).patterns[1]
    shuffled = pattern.flatten()[torch.randperm(pattern.numel(), generator=seeded(2))].view_as(pattern)
    control = Universal(torch.stack([shuffled, shuffled]), threat).apply(x, y)
    assert mean_loss(detector, x_adv, y) > mean_loss(detector, control, y) + 0.5
    own = pgd(detector, x, y, threat, steps=30)
    kept = [robust_accuracy(detector, images, y) for images in (own, x_adv, control)]
    assert kept[0] <= kept[1] < kept[2] - 0.05, kept


@threats
def test_every_image_gets_the_same_pattern_within_ball_and_box(detector, images, threat):
    x, y = images
    x_adv = universal(detector, x, y, threat, steps=4, fit_on=(x, y))
    delta = (x_adv - x).flatten(1)
    assert (delta.abs().amax(1) if isinstance(threat, Linf) else delta.norm(dim=1)).max() <= threat.epsilon + 1e-6
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    for label in (0, 1):
        inner = ((x > 0.1) & (x < 0.9) & (y == label).view(-1, 1, 1, 1)) if isinstance(threat, Linf) else None
        if inner is not None:
            pattern = (x_adv - x)[inner.nonzero(as_tuple=True)]
            first = torch.where(inner, x_adv - x, torch.nan)
            spread = first.nan_to_num(-9).amax(0) - first.nan_to_num(9).amin(0)
            assert pattern.abs().max() > 0 and spread[inner.any(0)].max() < 1e-6


def test_it_depends_on_neither_batches_nor_order(detector, images):
    model, (x, y) = detector.double(), (images[0].double(), images[1])
    whole = fit_universal(model, x, y, L2(1.0), steps=4).patterns
    order = torch.randperm(64, generator=seeded(3))
    torch.testing.assert_close(fit_universal(model, x[order], y[order], L2(1.0), steps=4, batch_size=7).patterns, whole)


def test_the_best_pattern_is_kept(detector, images):
    x, y = images
    wild = fit_universal(detector, x, y, Linf.from_255(8), steps=5, step_size=1.0).apply(x, y)
    assert mean_loss(detector, wild, y) >= mean_loss(detector, x, y) - 1e-5


def test_passes_of_the_model_and_no_trace(detector, mixed_detector, images, untouched):
    model = Counting(mixed_detector)
    with untouched(model):
        fit_universal(model, *images, Linf.from_255(4), steps=5)
    assert (model.images, model.gradients) == (6 * 64, 10)


def test_a_label_that_is_not_there_gets_no_pattern(detector, images):
    fakes = images[1] == 1
    found = fit_universal(detector, images[0][fakes], images[1][fakes], Linf.from_255(4), steps=3)
    assert found.patterns[0].abs().max() == 0 < found.patterns[1].abs().max()
    assert fit_universal(detector, *images, Linf(0.0), steps=3).patterns.abs().max() == 0


def test_impossible_settings_are_named(detector, images):
    with pytest.raises(ValueError, match="not 0"):
        fit_universal(detector, *images, Linf(0.1), steps=0)
    with pytest.raises(ValueError, match=r"pattern is \(3, 8, 8\)"):
        Universal(torch.zeros(2, 3, 8, 8), Linf(0.1)).apply(*images)
