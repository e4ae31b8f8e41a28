"""robust/training/lipschitz.py: known answers on a linear logit, and the finite difference against the exact term."""

import pytest
import torch
from tiny_training import SIZE, Linear, images, same, smooth, weights

from robust.config import PIXEL
from robust.training.lipschitz import lipschitz_term
from robust.training.modes import evaluation_mode

BOTH_KINDS, BOTH_NORMS = ("exact", "finite_difference"), ("l2", "l1")


def parameter_gradient(network, loss):
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(gradients, network.parameters(), strict=True)])


@pytest.mark.parametrize("kind", BOTH_KINDS)
@pytest.mark.parametrize("norm, expected", [("l2", lambda w: w.square().sum()), ("l1", lambda w: w.abs().sum())])
def test_a_linear_logit_has_the_norm_of_its_weights(kind, norm, expected):
    w = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model, (x, _) = Linear(w.clone()), images(5, size=6, dtype=torch.float64)
    term = lipschitz_term(model, x, kind=kind, norm=norm)
    assert torch.allclose(term, expected(w), rtol=1e-9)
    (gradient,) = torch.autograd.grad(term, model.weight)
    assert torch.allclose(gradient, 2 * w if norm == "l2" else w.sign(), rtol=1e-6)


@pytest.mark.parametrize("norm", BOTH_NORMS)
@pytest.mark.parametrize("h", [0.5 * PIXEL, 1 * PIXEL])
def test_finite_difference_agrees_with_exact_on_a_smooth_network(norm, h):
    network, (x, _) = smooth().eval(), images(6)
    exact, difference = (lipschitz_term(network, x, kind=kind, norm=norm, h=h) for kind in BOTH_KINDS)
    assert exact.item() > 1e-6 and abs((difference / exact).item() - 1) < 0.05
    of_exact, of_difference = parameter_gradient(network, exact), parameter_gradient(network, difference)
    assert float((of_difference - of_exact).norm() / of_exact.norm()) < 0.05


@pytest.mark.parametrize("kind", BOTH_KINDS)
@pytest.mark.parametrize("norm", BOTH_NORMS)
def test_the_term_is_the_mean_over_images_taken_alone(kind, norm):
    network, x = smooth().double(), images(5)[0].double()  # in float32 the difference of two logits loses digits to the batch
    with evaluation_mode(network):
        whole = lipschitz_term(network, x, kind=kind, norm=norm)
        alone = [lipschitz_term(network, x[i:i + 1], kind=kind, norm=norm) for i in range(len(x))]
    assert whole.item() == pytest.approx(float(torch.stack(alone).mean()), rel=1e-7)


def test_l1_is_the_same_for_the_same_function_at_another_resolution():
    # The logit is the mean pixel's colour, so at 32 px each of four times as many pixels has a quarter of the slope.
    class Colour(torch.nn.Module):
        def forward(self, x):
            return x.mean(dim=(2, 3)) @ torch.tensor([1.0, -2.0, 0.5])

    small, large = (lipschitz_term(Colour(), torch.rand(2, 3, size, size), kind="exact", norm="l1") for size in (16, 32))
    assert small.item() == pytest.approx(3.5, rel=1e-5) and large.item() == pytest.approx(3.5, rel=1e-5)


@pytest.mark.parametrize("kind", BOTH_KINDS)
def test_statistics_modes_and_gradients_stay_as_they_were(kind):
    network, (x, _) = smooth(dropout=0.5), images()
    network.features[1].eval()
    before, modes = weights(network), [module.training for module in network.modules()]
    with evaluation_mode(network):
        assert not any(module.training for module in network.modules())
        lipschitz_term(network, x, kind=kind, norm="l2")
    assert same(weights(network), before) and [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters()) and x.grad is None and not x.requires_grad


def test_modes_come_back_after_an_error():
    network = smooth()
    with pytest.raises(KeyError), evaluation_mode(network):
        raise KeyError
    assert all(module.training for module in network.modules())


def test_a_flat_network_has_the_term_0_and_finite_gradients():
    model, (x, _) = Linear(torch.zeros(3, SIZE, SIZE)), images(2)
    for kind in BOTH_KINDS:
        for norm in BOTH_NORMS:
            term = lipschitz_term(model, x, kind=kind, norm=norm)
            assert term.item() == 0 and parameter_gradient(model, term).isfinite().all()
