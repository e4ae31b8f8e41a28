"""Random transformations: against torch's and OpenCV's own, and each image's draws are its own."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from strength import seeded

from robust.attacks.noise import ImageNoise
from robust.attacks.separable import apply_separable, blur_matrix, down_up_matrix, resize_matrix
from robust.attacks.transformations import TRANSFORMATIONS, Blur, Draw, Jpeg, Noise, Resize, StraightThrough, jpeg

each = pytest.mark.parametrize("transformation", TRANSFORMATIONS, ids=lambda one: type(one).__name__)


@pytest.fixture
def x(images):
    return (images[0][:12] * 255).round() / 255


def draw(x, sample=0, samples=4, kind=0, seed=0):
    return Draw(ImageNoise.of(x, generator=seeded(seed)), sample, samples, kind)


def resized(x, height, width):
    return F.interpolate(x, size=(height, width), mode="bilinear", antialias=True, align_corners=False)


@pytest.mark.parametrize("length", [9, 16, 31, 32])
def test_shrinking_is_torchs_antialiased_resize(x, length):
    matrix = resize_matrix(32, 32, torch.full((12,), float(length)))
    small = apply_separable(x, matrix, matrix)
    torch.testing.assert_close(small[:, :, :length, :length], resized(x, length, length), rtol=0, atol=1e-5)
    assert small[:, :, length:].abs().max() == 0 if length < 32 else torch.allclose(small, x)


@pytest.mark.parametrize("length", [9, 16, 31, 32])
def test_down_and_up_is_torchs(x, length):
    matrix = down_up_matrix(32, torch.full((12,), float(length)))
    expected = F.interpolate(resized(x, length, length), size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(apply_separable(x, matrix, matrix), expected, rtol=0, atol=1e-5)


def test_images_are_resized_each_to_its_own_length_and_place():
    x = torch.ones(2, 3, 8, 8)
    matrix = resize_matrix(8, 8, torch.tensor([4.0, 6.0]), torch.tensor([0.0, 2.0]))
    out = apply_separable(x, matrix, matrix)
    assert out[0, 0].nonzero().amin() == 0 and out[0, 0].nonzero().amax() == 3
    assert out[1, 0].nonzero().amin() == 2 and out[1, 0].nonzero().amax() == 7
    assert torch.allclose(out[out > 0], torch.tensor(1.0))


def test_blur_is_opencvs_inside_the_border(x):
    for sigma in (0.6, 1.5):
        matrix = blur_matrix(32, torch.full((12,), sigma))
        ours = apply_separable(x, matrix, matrix)[0].permute(1, 2, 0).numpy()
        theirs = cv2.GaussianBlur(x[0].permute(1, 2, 0).numpy(), (15, 15), sigma)
        np.testing.assert_allclose(ours[8:-8, 8:-8], theirs[8:-8, 8:-8], atol=1e-5)
    matrix = blur_matrix(32, torch.zeros(12))
    assert torch.equal(apply_separable(x, matrix, matrix), x)


def test_jpeg_is_a_codecs_and_loses_more_at_lower_quality(x):
    coded = jpeg(x, [30] * 11 + [None])
    pixels = (x[0] * 255).round().byte().permute(1, 2, 0).numpy()
    data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    expected = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.array_equal((coded[0] * 255).round().byte().permute(1, 2, 0).numpy(), expected)
    assert torch.equal(coded[11], x[11])
    errors = [(jpeg(x, [level] * 12) - x).abs().mean().item() for level in (95, 60, 20)]
    assert 0 < errors[0] < errors[1] < errors[2]


def test_what_has_no_gradient_passes_it_straight_through(x):
    x = x.clone().requires_grad_()
    rounded = StraightThrough(lambda images: (images * 8).round() / 8)(x, draw(x))
    assert torch.equal(rounded, (x * 8).round() / 8)
    upstream = torch.randn(x.shape, generator=seeded(2))
    (gradient,) = torch.autograd.grad(rounded, x, upstream)
    assert torch.equal(gradient, upstream)
    assert torch.autograd.grad(Jpeg()(x, draw(x)).sum(), x)[0].eq(1).all()


@pytest.mark.parametrize("transformation", [Resize(), Blur()], ids=["Resize", "Blur"])
def test_linear_ones_have_their_exact_gradient(transformation, x):
    x = x[:2, :, :8, :8].double().clone().requires_grad_()
    kept = draw(x, sample=1)
    assert torch.autograd.gradcheck(lambda images: transformation(images, kept), (x,))


@each
def test_stays_an_image_and_is_the_same_in_any_batch(transformation, x):
    together = transformation(x, draw(x))
    assert together.shape == x.shape and together.dtype == x.dtype
    assert together.min() >= 0 and together.max() <= 1 + 1e-6
    for i in (0, 11):
        torch.testing.assert_close(transformation(x[i : i + 1], draw(x[i : i + 1]))[0], together[i], rtol=0, atol=1e-6)


@each
def test_changes_some_images_and_others_in_other_draws(transformation, x):
    changed = torch.stack([
        (transformation(x, draw(x, **which)) - x).abs().flatten(1).amax(1) > 1e-6
        for which in ({"sample": 0}, {"sample": 1}, {"seed": 1}, {"seed": 2})
    ])
    assert changed.any() and not changed.all() and len(torch.unique(changed, dim=0)) > 1


def test_strengths_are_zero_for_half_and_else_uniform_and_spread_over_the_views():
    x = torch.rand(500, 3, 4, 4, generator=seeded(3))
    noise = ImageNoise.of(x, generator=seeded(0))
    strengths = torch.stack([Draw(noise, sample, 8, 1).strength() for sample in range(8)])
    assert ((strengths > 0).sum(0) == 4).all()  # of each image exactly half of the views
    above = strengths[strengths > 0].sort().values
    assert (above - torch.linspace(0, 1, len(above))).abs().max() < 0.03  # Kolmogorov-Smirnov, n = 2000: 0.03 at 5 %
    other = torch.stack([Draw(noise, sample, 8, 2).strength() for sample in range(8)])
    assert abs(np.corrcoef(strengths.flatten(), other.flatten())[0, 1]) < 0.05


def test_noise_has_the_deviation_of_its_draw(x):
    x = torch.full((12, 3, 32, 32), 0.5) + torch.arange(12).view(-1, 1, 1, 1) / 1000
    kept = draw(x)
    after = (Noise(0.1)(x, kept) - x).flatten(1).std(1)
    torch.testing.assert_close(after, 0.1 * kept.strength(), rtol=0.05, atol=1e-6)
