"""EOT: known answers, and stronger than a plain attack where something random or without a gradient stands in front."""

import pytest
import torch
from strength import Counting, margins, mean_loss, robust_accuracy, seeded
from torch import nn

from benchmarks import eot_views
from benchmarks.eot_views import striped_images, train_hardy_detector
from robust.attacks.eot import eot
from robust.attacks.losses import margin_loss
from robust.attacks.mean_logit import mean_logit
from robust.attacks.pgd import pgd
from robust.attacks.threat import L2, Linf
from robust.attacks.transformations import StraightThrough, jpeg

# --- Known answers ---------------------------------------------------------------------------------------------------


def test_linear_optimum(linear):
    # Linear transformations in front of a linear model: the expectation is linear. With none it is the model itself.
    x = 0.25 + torch.rand(8, 3, 6, 6, generator=seeded(1), dtype=torch.float64) / 2
    y = torch.arange(8) % 2
    uphill = (1 - 2 * y).view(-1, 1, 1, 1) * linear.weight.detach()
    x_adv = eot(linear, x, y, Linf(0.1), steps=10, samples=2, transformations=(), generator=seeded(0))
    torch.testing.assert_close(x_adv, x + 0.1 * uphill.sign(), rtol=0, atol=1e-12)
    best = margin_loss(linear(x + 0.2 * uphill / uphill[0].norm()), y)
    x_adv = eot(linear, x, y, L2(0.2), steps=100, samples=2, transformations=(), generator=seeded(0))
    torch.testing.assert_close(margins(linear, x_adv, y), best, rtol=1e-4, atol=0)


def test_linear_optimum_behind_jpeg(linear):
    # JPEG with the identity as its gradient leaves a linear model's gradient w, so the corner of the ball is found.
    x = 0.25 + torch.rand(8, 3, 6, 6, generator=seeded(1), dtype=torch.float64) / 2
    y = torch.arange(8) % 2
    corner = x + 0.1 * (1 - 2 * y).view(-1, 1, 1, 1) * linear.weight.detach().sign()
    front = StraightThrough(lambda images: jpeg(images, [95] * len(images)))
    x_adv = eot(linear, x, y, Linf(0.1), steps=10, samples=1, transformations=(front,), generator=seeded(0))
    reached, optimum = (margins(linear, front.function(images), y) for images in (x_adv, corner))
    assert (reached >= optimum - 1e-9).all()  # the best point that was seen behind the codec, the corner among them


def test_the_mean_of_views_has_the_gradient_of_the_mean(detector, images):
    x, views = images[0][:6].double(), [detector.double(), lambda z: detector(z.flip(3)), lambda z: 2 * detector(z**2)]
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    detector.eval().requires_grad_(False)
    ours, plain = mean_logit(views, one), sum(view(two) for view in views) / 3
    torch.testing.assert_close(ours, plain)
    upstream = torch.randn(6, generator=seeded(1), dtype=torch.float64)
    gradients = [torch.autograd.grad(value, z, upstream)[0] for value, z in ((ours, one), (plain, two))]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(mean_logit(views, x), plain.detach())


def test_views_without_a_gradient_are_named(detector, images):
    class Detached(nn.Module):
        def forward(self, x):
            return detector(x.detach()).detach()

    with pytest.raises(ValueError, match="no gradient"):
        eot(Detached(), *images, Linf.from_255(4), steps=2)


def test_passes_of_the_model(detector, images):
    model = Counting(detector)
    eot(model, images[0][:4], images[1][:4], Linf.from_255(4), steps=5, samples=3, restarts=2)
    assert (model.forwards, model.gradients) == (3 * (1 + 2 * 6), 3 * 2 * 5)


@pytest.mark.parametrize("settings", [{"steps": 5, "samples": 0}, {"steps": 5, "restarts": 0}])
def test_impossible_settings_are_named(detector, images, settings):
    with pytest.raises(ValueError, match="=0"):
        eot(detector, *images, Linf.from_255(4), **settings)


# --- Strength behind what is planted in front of the model -------------------------------------------------------------


@pytest.fixture(scope="module")
def hardy():
    return train_hardy_detector()


def test_beats_plain_attacks_behind_random_transformations_at_equal_passes(hardy):
    turned = eot_views.compare(hardy, *striped_images(48, seed=1000), epsilon=6)
    assert turned["no attack"] < 0.2
    for plain in ("PGD-80", "APGD-80"):
        assert turned["EOT-10 (8 views)"] > turned[plain] + 0.05, turned


class Behind(nn.Module):
    """A detector behind a step whose gradient is zero, as a codec's is."""

    def __init__(self, model, front):
        super().__init__()
        self.model, self.front = model, front

    def forward(self, x):
        return self.model(self.front(x.detach()) + 0 * x)


@pytest.mark.parametrize(
    "front", [lambda x: jpeg(x, [60] * len(x)), lambda x: (x * 20).round() / 20], ids=["JPEG 60", "21 levels"]
)
def test_straight_through_beats_a_zero_gradient(hardy, front):
    (x, y), threat = striped_images(48, seed=1000), Linf.from_255(8)
    target = Behind(hardy, front).eval()
    ours = eot(hardy, x, y, threat, steps=20, samples=1, transformations=(StraightThrough(front),))
    plain, unaware = (pgd(model, x, y, threat, steps=20) for model in (target, hardy))
    assert robust_accuracy(target, ours, y) < robust_accuracy(target, plain, y) - 0.3
    assert mean_loss(target, ours, y) > mean_loss(target, unaware, y)


class Noisy(nn.Module):
    """Adds its own noise to the input, as a randomised defence does."""

    def __init__(self, model, deviation):
        super().__init__()
        self.model, self.deviation, self.noise = model, deviation, seeded(5)

    def forward(self, x):
        return self.model(x + self.deviation * torch.randn(x.shape, generator=self.noise, dtype=x.dtype))


def test_beats_plain_pgd_on_a_model_that_is_itself_random(detector, images):
    (x, y), model, threat = images, Noisy(detector, 0.15).eval(), Linf.from_255(12)
    ours = eot(model, x, y, threat, steps=10, samples=10, transformations=(), generator=seeded(0))
    plain = pgd(model, x, y, threat, steps=100, generator=seeded(0))
    scored = [torch.stack([margins(model, images, y) for _ in range(40)]).mean().item() for images in (ours, plain)]
    assert scored[0] > scored[1] + 0.05, scored
