"""The prior restores before it repeats, belongs to its image, and BPDA goes through what has no gradient."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robust.attacks.pgd import pgd
from robust.attacks.threat import Linf
from robust.defenses.deep_image_prior import PUBLISHED, QUICK, Prior, SkipNet, bpda, choose_stop, purify

TINY = Prior(iterations=6, stops=(3, 6), size=32, channels=(8, 8), input_channels=8, average=0.5)


def smooth(count, size, *, seed=0):
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False).clamp(0.05, 0.95)


def test_it_removes_noise_before_it_learns_it():
    clean = smooth(1, 64)
    noisy = (clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    outputs = purify(noisy, QUICK)
    errors = {stop: F.mse_loss(image, clean).item() for stop, image in outputs.items()}
    assert errors[150] < 0.35 * F.mse_loss(noisy, clean).item() and errors[150] < errors[50]
    assert all(image.shape == noisy.shape and 0 <= image.min() and image.max() <= 1 for image in outputs.values())


def test_an_images_output_is_its_own_and_the_global_random_state_stays():
    x = smooth(3, 40)
    state = torch.get_rng_state()
    whole = purify(x, TINY, seed=4)
    assert torch.equal(state, torch.get_rng_state())
    with torch.inference_mode():
        alone = purify(x[1:2], TINY, seed=4)
    for stop in TINY.stops:
        assert whole[stop].shape == x.shape and torch.equal(whole[stop][1:2], alone[stop])
    assert not torch.equal(purify(x[1:2], TINY, seed=5)[6], alone[6])
    shorter = dataclasses.replace(TINY, iterations=3, stops=(3,))
    assert torch.equal(purify(x[1:2], shorter, seed=4)[3], alone[3])  # a stop chosen on validation gives what was seen there


def test_the_published_network_has_its_size_counted_by_hand():
    def conv(a, b, k):
        return a * b * k * k + b + 2 * b  # weights, bias, batch normalisation

    widths = [32, 128, 128, 128, 128]
    expected = sum(conv(w, 4, 1) + conv(w, 128, 3) + conv(128, 128, 3) for w in widths)
    expected += 5 * (2 * 132 + conv(132, 128, 3) + conv(128, 128, 1)) + 128 * 3 + 3
    assert sum(parameter.numel() for parameter in SkipNet(PUBLISHED).parameters()) == expected == 2217831
    assert (PUBLISHED.iterations, PUBLISHED.size, PUBLISHED.learning_rate, PUBLISHED.average) == (10_000, 512, 0.01, 0.99)


@pytest.mark.parametrize("settings", [{"size": 40}, {"size": 4}, {"stops": (3, 7)}, {"stops": (3, 3)}, {"stops": ()}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match="size|stops"):
        dataclasses.replace(TINY, channels=(8, 8, 8, 8) if "size" in settings else (8, 8), **settings)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * 16 * 16, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return (x - 0.5).flatten(1) @ self.weight


def test_bpda_through_nothing_is_the_exact_worst_case_of_a_linear_logit():
    model, x, y = Linear(), smooth(4, 16), torch.tensor([1, 0, 1, 0])
    x_adv = bpda(model, lambda images: images, x, y, Linf.from_255(4), steps=5)
    reach = 4 / 255 * model.weight.abs().sum()
    expected = model(x) + torch.where(y == 1, -reach, reach)
    assert torch.allclose(model(x_adv), expected, atol=1e-2)
    assert model.weight.requires_grad and model.weight.grad is None


def test_bpda_goes_through_a_rounding_that_stops_a_gradient():
    def rounded(images):
        return (images * 16).round() / 16

    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Linear()

        def forward(self, images):
            return self.model(rounded(images))

    behind, x, y = Behind(), smooth(8, 16), torch.ones(8)
    with torch.no_grad():
        plain = behind(x) - behind(pgd(behind, x, y, Linf.from_255(8), steps=10, random_start=False))
        through = behind(x) - behind(bpda(behind.model, rounded, x, y, Linf.from_255(8), steps=10))
    reach = 8 / 255 * behind.model.weight.abs().sum().item()
    assert plain.abs().max() < 1e-4 and through.min() > 0.7 * reach


def test_the_earliest_of_the_best_stops_is_chosen():
    assert choose_stop({50: 0.6, 100: 0.8, 150: 0.8}) == 100
