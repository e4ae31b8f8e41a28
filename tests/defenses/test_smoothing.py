"""Certificates: those of a linear logit are known exactly, and no more of them than alpha may be wrong."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm
from torch import nn

from robust.defenses.smoothing import ABSTAINS, Smoothing, certify, count_votes, lower_bound, radii
from robust.errors import UserError


class Linear(nn.Module):
    """The logit w . x + b: the smoothed class is its sign, and its exact radius is |w . x + b| / ||w||."""

    def __init__(self, size=8):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * size * size, generator=torch.Generator().manual_seed(0)))
        self.bias = nn.Parameter(-0.5 * self.weight.sum().detach())

    def forward(self, x):
        return x.flatten(1) @ self.weight + self.bias

    def exact_radius(self, x):
        """L2, 0-255 units."""
        with torch.no_grad():
            return (255 * self(x).abs() / self.weight.norm()).numpy()


@pytest.fixture
def images():
    """24 images, spread over some hundred units of distance from the boundary."""
    return torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_linear_logits_certificate_is_sound_and_comes_near_the_exact_radius(images):
    model, smoothing = Linear().eval(), Smoothing(sigma=64, n0=50, n=4000, alpha=1e-4)
    certified = certify(*count_votes(model, images, smoothing, seed=3), smoothing)
    exact, fake = model.exact_radius(images), (model(images) > 0).numpy()
    sure = certified.verdict != ABSTAINS
    assert sure.sum() > 15 and (certified.verdict[sure] == fake[sure]).all()
    assert (certified.radius <= exact).all()
    reachable = sure & (exact < smoothing.largest_radius)
    expected = smoothing.sigma * norm.ppf(lower_bound(np.round(4000 * norm.cdf(exact / 64)), 4000, 1e-4))
    assert reachable.sum() > 8
    np.testing.assert_allclose(certified.radius[reachable], expected[reachable], atol=0.15 * 64)
    # What is lost to the bound shrinks with the root of the votes: the gap at 4000 is at most a fifth of sigma.
    assert (exact - certified.radius)[reachable & (exact < 96)].max() < 0.2 * 64


def test_more_votes_come_nearer(images):
    model = Linear().eval()
    gaps = []
    for n in (100, 400, 1600):
        smoothing = Smoothing(sigma=128, n0=20, n=n, alpha=0.001)
        certified = certify(*count_votes(model, images, smoothing, seed=0), smoothing)
        near = model.exact_radius(images) < 128
        gaps.append((model.exact_radius(images) - certified.radius)[near].mean())
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[0] > 1.6 * gaps[2]


@pytest.mark.parametrize("share", [0.55, 0.75, 0.95])
def test_certificates_are_wrong_no_more_often_than_alpha(share):
    smoothing, trials, rng = Smoothing(sigma=10, n0=20, n=200, alpha=0.1), 4000, np.random.default_rng(0)
    exact = 10 * norm.ppf(share)
    certified = certify(rng.binomial(20, share, trials), rng.binomial(200, share, trials), smoothing)
    wrong = (certified.verdict == 0) | (certified.radius > exact)
    assert wrong.mean() <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / trials)
    assert wrong.mean() > 0.02  # a bound that is never wrong would be one that says too little


def test_the_bound_is_scipys_exact_one():
    for hits, n in ((0, 10), (1, 10), (9, 10), (10, 10), (730, 1000), (1000, 1000)):
        interval = binomtest(hits, n).proportion_ci(confidence_level=1 - 2 * 0.001, method="exact")
        assert lower_bound(np.array([hits]), n, 0.001)[0] == pytest.approx(interval.low, abs=1e-9)


def test_abstains_on_a_tie_and_against_its_own_choice():
    smoothing = Smoothing(sigma=16, n0=10, n=1000, alpha=0.001)
    certified = certify(np.array([5, 10, 10, 0, 10]), np.array([500, 500, 0, 0, 1000]), smoothing)
    assert certified.verdict.tolist() == [ABSTAINS, ABSTAINS, ABSTAINS, 0, 1]
    largest = 16 * norm.ppf(0.001 ** (1 / 1000))
    assert certified.radius == pytest.approx([0, 0, 0, largest, largest]) and smoothing.largest_radius == pytest.approx(largest)
    assert (np.diff(radii(np.arange(501, 1001), smoothing)) >= 0).all()


def test_votes_belong_to_the_image_and_the_seed_not_to_the_batch(images):
    model, smoothing = Linear().eval(), Smoothing(sigma=128, n0=10, n=60, alpha=0.01)
    whole = np.stack(count_votes(model, images, smoothing, seed=7))
    parts = np.concatenate([np.stack(count_votes(model, part, smoothing, seed=7)) for part in images.split(5)], axis=1)
    assert (whole == parts).all()
    assert (whole != np.stack(count_votes(model, images, smoothing, seed=8))).any()
    longer = np.stack(count_votes(model, images, Smoothing(sigma=128, n0=10, n=90, alpha=0.01), seed=7))
    assert (longer[0] == whole[0]).all() and (longer[1] >= whole[1]).all()


def test_no_attack_inside_the_radius_changes_the_vote_of_a_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.SiLU(), nn.Flatten(), nn.Linear(216, 1), nn.Flatten(0)).eval()
    x = torch.rand(8, 3, 8, 8)
    with torch.no_grad():
        model[3].bias.sub_(model(x).median())
    smoothing = Smoothing(sigma=128, n0=50, n=1500, alpha=1e-4)
    certified = certify(*count_votes(model, x, smoothing, seed=0), smoothing)
    x.requires_grad_()
    direction = torch.autograd.grad(model(x).sum(), x)[0]
    direction = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    towards = torch.tensor(np.where(certified.verdict == 1, -1.0, 1.0)).view(-1, 1, 1, 1)
    moved = (x.detach() + towards * direction * torch.tensor(0.98 * certified.radius / 255).view(-1, 1, 1, 1)).float()
    _, votes = count_votes(model, moved, smoothing, seed=1)
    sure = certified.verdict != ABSTAINS
    share = np.where(certified.verdict == 1, votes, 1500 - votes)[sure] / 1500
    assert sure.sum() >= 3 and (share > 0.5).all()


def test_a_logit_that_is_no_number_is_no_vote():
    class Broken(torch.nn.Module):
        def forward(self, x):
            return torch.where(x.amax(dim=(1, 2, 3)) > 1, torch.nan, 1.0)  # of noisy images only

    with pytest.raises(UserError, match="sigma 16 the logit of 2 of 2 images is not a finite number"):
        count_votes(Broken(), torch.ones(2, 3, 4, 4), Smoothing(16, 2, 10, 0.1), seed=0)
