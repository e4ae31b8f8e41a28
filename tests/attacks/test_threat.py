"""The balls: projection, steps and random starts, in every dtype that images come in."""

import math

import pytest
import torch
from scipy.optimize import minimize

from robust.attacks.noise import ImageNoise
from robust.attacks.threat import L2, THREATS, Linf, round_towards

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def batch(*, dtype=torch.float32, seed=0, shape=(5, 3, 8, 8)):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[0], x[1] = 0, 1  # a black and a white image
    return x.to(dtype)


def size(threat, delta):
    """The largest perturbation of the batch in the threat's own norm, in float64."""
    delta = delta.double().flatten(1)
    return (delta.abs().amax(1) if isinstance(threat, Linf) else delta.norm(dim=1)).max().item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threat", [Linf(0.5 / 255), Linf(4 / 255), Linf(1.0), L2(0.05), L2(0.5), L2(30.0)], ids=str)
def test_projection_lands_in_the_ball_and_in_the_box(threat, dtype):
    x = batch(dtype=dtype)
    far = (x + 3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)).to(dtype)
    projected = threat.project(far, x)
    assert projected.dtype == dtype and projected.shape == x.shape
    assert size(threat, projected.double() - x.double()) <= threat.epsilon + 1e-6
    assert 0 <= projected.min() and projected.max() <= 1


@pytest.mark.parametrize("threat", [Linf(4 / 255), L2(0.5)], ids=str)
def test_projection_leaves_a_point_of_the_ball_alone(threat):
    x = batch().clamp(0.2, 0.8)
    inside = x + 0.01 * torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) / 3
    torch.testing.assert_close(threat.project(inside, x), inside, rtol=0, atol=1e-7)


@pytest.mark.parametrize("threat", [Linf(4 / 255), L2(0.5)], ids=str)
def test_projection_reaches_the_edge(threat):
    x = torch.full((2, 3, 8, 8), 0.5)
    assert size(threat, threat.project(x + 0.3, x) - x) == pytest.approx(threat.epsilon, rel=1e-5)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 2.5])
def test_projection_is_the_nearest_point_of_ball_and_box(epsilon):
    # Told by a solver of constrained problems that knows nothing of clipping.
    x = batch(dtype=torch.float64, shape=(4, 3, 3, 3))
    far = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    projected = L2(epsilon).project(far, x)
    for here, there, found in zip(x.flatten(1).numpy(), far.flatten(1).numpy(), projected.flatten(1).numpy(), strict=True):
        ball = {"type": "ineq", "fun": lambda u: epsilon**2 - ((u - here) ** 2).sum(), "jac": lambda u: -2 * (u - here)}
        nearest = minimize(lambda u: ((u - there) ** 2).sum(), here, jac=lambda u: 2 * (u - there), bounds=[(0, 1)] * len(here),
                           constraints=[ball], method="SLSQP", options={"ftol": 1e-11, "maxiter": 1000})
        assert nearest.success and abs(found - nearest.x).max() < 1e-4


def test_l2_of_one_image_does_not_depend_on_the_others():
    x = batch()
    far = x.clone()
    far[2] += 0.001
    far[3] += 10
    torch.testing.assert_close(L2(0.5).project(far, x)[2], far[2].clamp(0, 1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", THREATS)
def test_epsilon_zero_allows_nothing(name):
    x = batch()
    assert torch.equal(THREATS[name](0.0).project(x + 1, x), x)


@pytest.mark.parametrize("name", THREATS)
def test_units(name):
    assert THREATS[name].from_255(4).epsilon == 4 / 255


@pytest.mark.parametrize("epsilon", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", THREATS)
def test_impossible_radius_is_refused(name, epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        THREATS[name](epsilon)


def test_linf_step_moves_every_pixel_by_the_step():
    gradient = torch.tensor([[1e-30, -5.0, 0.0, math.nan]])
    moved = Linf(1.0).step(torch.full((1, 4), 0.5), gradient, 0.25)
    assert torch.equal(moved, torch.tensor([[0.75, 0.25, 0.5, 0.5]]))


@pytest.mark.parametrize("scale", [1e-38, 1.0, 1e30])
def test_l2_step_has_the_length_of_the_step_whatever_the_gradient(scale):
    gradient = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * scale
    delta = L2(1.0).step(torch.zeros_like(gradient), gradient, 0.25)
    torch.testing.assert_close(delta.flatten(1).norm(dim=1), torch.full((4,), 0.25))
    assert (delta * gradient.sign() >= 0).all()


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_l2_step_stays_where_there_is_no_gradient(bad):
    x = torch.full((2, 3, 2, 2), 0.5)
    assert torch.equal(L2(1.0).step(x, torch.full_like(x, bad), 0.25), x)


def test_linf_random_start_fills_the_ball():
    x = torch.full((4, 3, 32, 32), 0.5)
    delta = (Linf(0.1).random_start(x, ImageNoise.of(x)) - x) / 0.1
    assert delta.abs().max() > 0.99
    assert delta.double().var().item() == pytest.approx(1 / 3, rel=0.03)


def test_l2_random_start_is_uniform_in_the_ball():
    # In d dimensions a uniform point of the unit ball has radius^d uniform in [0, 1]; d = 3 shows it.
    x = 0.5 + 1e-6 * torch.arange(4000, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    delta = (L2(0.1).random_start(x, ImageNoise.of(x)) - x).flatten(1) / 0.1
    volume = delta.norm(dim=1) ** 3
    assert volume.max() <= 1 + 1e-6
    assert volume.mean().item() == pytest.approx(0.5, abs=0.02)
    assert volume.var().item() == pytest.approx(1 / 12, rel=0.06)
    assert delta.mean(dim=0).abs().max() < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_never_moves_away_from_the_image(dtype):
    x = batch(dtype=dtype)
    x_adv = (x.float() + (torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) - 0.5) / 20).clamp(0, 1)
    rounded = round_towards(x_adv, x, dtype)
    assert rounded.dtype == dtype
    assert ((rounded.float() - x.float()).abs() <= (x_adv - x.float()).abs()).all()
    assert not torch.equal(rounded, x_adv.to(dtype))  # plain rounding would have
