"""Transfer: known answers, what momentum and diversity do, and that the target is never asked."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import LinearDetector
from strength import Counting, margins, mean_loss, robust_accuracy, seeded

from benchmarks.small_detector import train_small_detector
from robust.attacks.losses import margin_loss
from robust.attacks.pgd import pgd
from robust.attacks.threat import L2, Linf
from robust.attacks.transfer import AtInputSize, Ensemble, mi_fgsm, transfer

# --- Known answers ---------------------------------------------------------------------------------------------------


def linear_images():
    x = 0.25 + torch.rand(8, 3, 6, 6, generator=seeded(1), dtype=torch.float64) / 2
    return x, torch.arange(8) % 2


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_linear_optimum(linear, decay):
    x, y = linear_images()
    uphill = (1 - 2 * y).view(-1, 1, 1, 1) * linear.weight.detach()
    x_adv = mi_fgsm(linear, x, y, Linf(0.1), steps=10, decay=decay, diversity=0)
    torch.testing.assert_close(x_adv, x + 0.1 * uphill.sign(), rtol=0, atol=1e-12)
    x_adv = mi_fgsm(linear, x, y, L2(0.2), steps=10, decay=decay, diversity=0)
    torch.testing.assert_close(x_adv, x + 0.2 * uphill / uphill[0].norm(), rtol=0, atol=1e-9)


def test_the_ensembles_optimum_is_that_of_the_mean_weight(linear):
    x, y = linear_images()
    other = LinearDetector(torch.randn(3, 6, 6, generator=seeded(9), dtype=torch.float64))
    weight = (linear.weight + other.weight).detach() / 2
    x_adv = transfer(linear, x, y, Linf(0.1), steps=10, surrogates=(linear, other), diversity=0)
    uphill = (1 - 2 * y).view(-1, 1, 1, 1) * weight.sign()
    torch.testing.assert_close(x_adv, x + 0.1 * uphill, rtol=0, atol=1e-12)


def by_hand(model, x, y, *, epsilon, steps, step_size, decay):
    """Algorithm 1 of the paper, written out for cross-entropy."""
    momentum, x_adv = torch.zeros_like(x), x.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.binary_cross_entropy_with_logits(model(x_adv), y.to(x.dtype), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x_adv)
        momentum = decay * momentum + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
        x_adv = (x + (x_adv.detach() + step_size * momentum.sign() - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return x_adv


def test_is_the_papers_algorithm(detector, images):
    x, y = images[0][:16].double(), images[1][:16]
    budget = {"steps": 6, "step_size": 2 / 255, "decay": 0.9}
    ours = mi_fgsm(detector.double(), x, y, Linf.from_255(8), diversity=0, **budget,
                   loss=lambda z, t: F.binary_cross_entropy_with_logits(z, t.to(z.dtype), reduction="none"))
    torch.testing.assert_close(ours, by_hand(detector.eval(), x, y, epsilon=8 / 255, **budget), rtol=0, atol=1e-9)


# --- What is asked ---------------------------------------------------------------------------------------------------


def test_the_target_is_never_asked_and_each_surrogate_once_a_step(detector, images):
    target, surrogates = Counting(detector), [Counting(copy.deepcopy(detector)) for _ in range(2)]
    transfer(target, *images, Linf.from_255(4), steps=5, surrogates=surrogates)
    assert target.forwards == 0 and [(one.forwards, one.gradients) for one in surrogates] == [(5, 5), (5, 5)]


def test_surrogates_are_left_as_they_were(detector, mixed_detector, images, untouched):
    surrogate = copy.deepcopy(mixed_detector)
    with untouched(surrogate), untouched(mixed_detector):
        transfer(mixed_detector, *images, Linf.from_255(4), steps=2, surrogates=[surrogate])


def test_without_surrogates_it_is_refused(detector, images):
    with pytest.raises(ValueError, match="at least one surrogate"):
        transfer(detector, *images, Linf.from_255(4), steps=2)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 3, "diversity": 2}, {"steps": 3, "step_size": 0.0}])
def test_impossible_settings_are_named(detector, images, settings):
    with pytest.raises(ValueError, match="mi_fgsm needs"):
        mi_fgsm(detector, *images, Linf.from_255(4), **settings)


def test_a_surrogate_of_another_input_size_is_shown_resized_images(images):
    class Sized(torch.nn.Module):
        def forward(self, x):
            assert x.shape[2:] == (20, 20)
            return x.mean(dim=(1, 2, 3))

    model = AtInputSize(Sized().eval(), 20)
    assert not any(module.training for module in model.modules())
    x_adv = mi_fgsm(model, *images, Linf.from_255(4), steps=3)
    assert x_adv.shape == images[0].shape and mean_loss(model, x_adv, images[1]) > mean_loss(model, *images)


# --- Strength --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peers():
    """Two detectors of the same task with other starting weights and data."""
    return [train_small_detector(seed=seed) for seed in (1, 2)]


def test_what_is_made_on_surrogates_turns_the_target(detector, peers, images):
    x, y = images
    threat = Linf.from_255(12)
    x_adv = transfer(detector, x, y, threat, steps=10, surrogates=peers, generator=seeded(0))
    noise = threat.project(x + threat.epsilon * torch.randn(x.shape, generator=seeded(2)).sign(), x)
    white = pgd(detector, x, y, threat, steps=10, generator=seeded(0))
    kept = [robust_accuracy(detector, images, y) for images in (white, x_adv, noise)]
    assert kept[0] <= kept[1] + 1 / 64 and kept[1] < kept[2] - 0.2, kept


def test_diversity_and_momentum_change_the_path(detector, images):
    x, y = images
    runs = [mi_fgsm(detector, x, y, Linf.from_255(8), steps=8, generator=seeded(0), **settings)
            for settings in ({}, {"diversity": 0}, {"decay": 0}, {"diversity": 0, "decay": 0})]
    assert all(not torch.equal(one, other) for i, one in enumerate(runs) for other in runs[:i])
    assert all(mean_loss(detector, run, y) > mean_loss(detector, x, y) + 1 for run in runs)


def test_the_ensemble_is_attacked_as_one_model(peers, images):
    x, y = images
    x_adv = transfer(peers[0], x, y, Linf.from_255(8), steps=10, surrogates=peers, diversity=0)
    loss = margin_loss(torch.stack([model(x_adv) for model in peers]).mean(0), y)
    torch.testing.assert_close(margins(Ensemble(peers).eval(), x_adv, y), loss)
    assert loss.mean() > torch.stack([margins(model, x, y) for model in peers]).mean() + 1
