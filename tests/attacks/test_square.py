"""The square attack: it sees logits only, counts its queries, and stays behind the white-box attacks."""

import pytest
import torch
from strength import Counting, Scaled, margins, mean_loss, robust_accuracy, seeded
from torch import nn

from robust.attacks.apgd import apgd
from robust.attacks.losses import margin_loss
from robust.attacks.noise import ImageNoise
from robust.attacks.square import _bump, _first, _next, square, square_with_queries
from robust.attacks.threat import L2, Linf

every_threat = pytest.mark.parametrize("threat", [Linf.from_255(16), L2(2.0)], ids=str)


class Detached(nn.Module):
    """A detector without gradient, as a remote one is."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        assert not x.requires_grad and not torch.is_grad_enabled()
        return self.model(x).detach()


@pytest.mark.parametrize("clipped", [False, True], ids=["inside the box", "at the box"])
def test_nears_the_linear_optimum(linear, clipped):
    # The worst case of a linear logit is a corner of the ball, a sign for each pixel: squares of one pixel find it.
    x = torch.rand(8, 3, 6, 6, generator=seeded(1), dtype=torch.float64)
    x, y = (x if clipped else 0.25 + x / 2), torch.arange(8) % 2
    far = Shifted(linear, 1000 * (2 * y - 1))  # never flips, so that the search goes on
    optimum = (x + 0.05 * (1 - 2 * y).view(-1, 1, 1, 1) * linear.weight.detach().sign()).clamp(0, 1)
    clean, best, random = (margin_loss(linear(z), y) for z in (x, optimum, _first(x, Linf(0.05), ImageNoise.of(x))))
    reached = margin_loss(linear(square(far, x, y, Linf(0.05), steps=400)), y)
    assert (reached <= best + 1e-9).all()
    assert ((reached - clean) / (best - clean)).mean() > 0.9 > 0.5 > ((random - clean) / (best - clean)).mean()


class Shifted(nn.Module):
    """A logit moved by a number for each image of the batch, which must come whole and in order."""

    def __init__(self, model, shift):
        super().__init__()
        self.model, self.shift = model, shift

    def forward(self, x):
        return self.model(x) + self.shift


@every_threat
def test_takes_no_gradient(detector, images, threat):
    x, y = images[0][:16], images[1][:16]
    hidden = square(Detached(detector), x, y, threat, steps=20, generator=seeded(0))
    assert torch.equal(hidden, square(detector, x, y, threat, steps=20, generator=seeded(0)))


@every_threat
def test_success_grows_with_queries_and_stays_behind_apgd(detector, images, threat):
    x, y = images
    few, many = (square(detector, x, y, threat, steps=n, generator=seeded(0)) for n in (5, 150))
    white = apgd(detector, x, y, threat, steps=20, generator=seeded(0))
    assert mean_loss(detector, few, y) > mean_loss(detector, x, y)
    assert mean_loss(detector, many, y) > mean_loss(detector, few, y) + 0.1
    assert robust_accuracy(detector, many, y) >= robust_accuracy(detector, white, y) + 0.1
    assert (margins(detector, many, y) <= margins(detector, white, y) + 0.05)[margins(detector, many, y) <= 0].all()


def test_robust_accuracy_falls_with_epsilon(detector, images):
    x, y = images
    curve = [
        robust_accuracy(detector, square(detector, x, y, Linf.from_255(e), steps=150, generator=seeded(0)), y)
        for e in (0, 16, 64, 255)
    ]
    assert all(after <= before for before, after in zip(curve, curve[1:]))
    assert curve[0] == robust_accuracy(detector, x, y) and curve[-1] < 0.7


@every_threat
def test_queries_are_counted(detector, images, threat):
    x, y = images
    threat = type(threat)(4 * threat.epsilon)
    y = torch.where(torch.arange(len(y)) < 3, 1 - (detector(x) > 0).long(), y)  # three that are wrong already
    model = Counting(detector)
    x_adv, queries = square_with_queries(model, x, y, threat, steps=60, generator=seeded(0))
    flipped = margins(detector, x_adv, y) > 0
    assert (queries[:3] == 0).all() and torch.equal(x_adv[:3], x[:3])
    assert (queries[~flipped] == 60).all() and (queries[flipped] < 60).any()
    assert model.images == len(x) + queries.sum() and model.gradients == 0


@pytest.mark.parametrize("threat", [Linf(0.1), L2(1.0)], ids=str)
def test_first_and_next_points_use_the_whole_ball(threat):
    x = 0.3 + 0.4 * torch.rand(6, 3, 20, 16, generator=seeded(0), dtype=torch.float64)
    noise = ImageNoise.of(x)
    point = _first(x, threat, noise)
    for query in range(1, 60):
        delta = (point - x).flatten(1)
        size = delta.abs().amax(1) if isinstance(threat, Linf) else delta.norm(dim=1)
        assert (size <= threat.epsilon + 1e-6).all() and (size > 0.9 * threat.epsilon).all()
        after = _next(x, point, threat, noise, query, 60)
        assert not torch.equal(after, point)
        point = after


@pytest.mark.parametrize("side", [1, 2, 3, 8, 9])
def test_a_bump_has_two_halves_of_opposite_sign(side):
    bump = _bump(side, like=torch.zeros(1, dtype=torch.float64))
    assert bump.shape == (side, side)
    assert (bump[: side // 2] > 0).all() and (bump[side // 2 :] < 0).all()
    assert bump.abs().max() == bump[side // 2 + (side - side // 2) // 2].abs().max()


@every_threat
def test_the_scale_of_the_logits_does_not_matter(detector, images, threat):
    x, y = images[0][:16], images[1][:16]
    plain = square(detector, x, y, threat, steps=40, generator=seeded(0))
    scaled = square(Scaled(detector, 1024), x, y, threat, steps=40, generator=seeded(0))
    assert torch.equal(plain, scaled)


def test_only_images_have_squares(linear):
    with pytest.raises(ValueError, match=r"\(2, 108\)"):
        square(linear, torch.rand(2, 108, dtype=torch.float64), torch.zeros(2), Linf(0.1), steps=5)
