"""robust/training/objective.py: what exactly is minimised."""

import pytest
import torch
import torch.nn.functional as F
from tiny_training import images, recipe, same, smooth, weights

from robust.config import PIXEL
from robust.training.lipschitz import lipschitz_term
from robust.training.objective import Objective


def bce(network, x, y):
    return F.binary_cross_entropy_with_logits(network(x), y.float())


@pytest.fixture
def batch():
    x, y = images()
    return x, (x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1), y


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_mixture_of_clean_and_adversarial_loss(batch, share):
    clean, adversarial, y = batch
    network = smooth().eval()
    terms = Objective(network)(clean, adversarial, y, recipe(adversarial_share=share))
    expected = (1 - share) * bce(network, clean, y) + share * bce(network, adversarial, y)
    assert terms["total"].item() == pytest.approx(float(expected), rel=1e-5) and terms["lipschitz"].item() == 0
    if share > 0:
        assert terms["adversarial"].item() == pytest.approx(float(bce(network, adversarial, y)), rel=1e-5)
    if share < 1:
        assert terms["clean"].item() == pytest.approx(float(bce(network, clean, y)), rel=1e-5)


def test_without_an_attack_all_loss_is_clean(batch):
    clean, _, y = batch
    network = smooth().eval()
    terms = Objective(network)(clean, clean, y, recipe(adversarial_share=1))
    assert terms["total"].item() == terms["clean"].item() == pytest.approx(float(bce(network, clean, y))) and terms["adversarial"].item() == 0


@pytest.mark.parametrize("at", ["adversarial", "clean"])
@pytest.mark.parametrize("kind", ["exact", "finite_difference"])
def test_the_lipschitz_term_is_added_with_its_weight(batch, at, kind):
    clean, adversarial, y = batch
    network = smooth().eval()
    settings = {"weight": 0.7, "kind": kind, "norm": "l1", "at": at}
    terms = Objective(network)(clean, adversarial, y, recipe(lipschitz=settings, attack={"epsilon": 2}))
    slope = lipschitz_term(network, adversarial if at == "adversarial" else clean, kind=kind, norm="l1", h=2 * PIXEL)
    assert terms["lipschitz"].item() == pytest.approx(slope.item(), rel=1e-5)
    assert terms["total"].item() == pytest.approx(float(bce(network, adversarial, y) + 0.7 * slope), rel=1e-5)


@pytest.mark.parametrize("kind", ["exact", "finite_difference"])
def test_the_lipschitz_term_does_not_move_batch_norm(batch, kind):
    clean, adversarial, y = batch
    with_term, without = smooth(), smooth()
    Objective(with_term)(clean, adversarial, y, recipe(lipschitz={"weight": 1, "kind": kind}))
    Objective(without)(clean, adversarial, y, recipe())
    assert same(weights(with_term), weights(without)) and all(module.training for module in with_term.modules())


def test_the_term_is_that_of_the_deployed_function_also_with_dropout(batch):
    # Two passes with two dropout masks would differ by far more than h times the slope.
    clean, adversarial, y = batch
    network = smooth(dropout=0.5)
    network.features.eval()  # batch norm stays as it is from one call to the next
    slopes = [float(Objective(network)(clean, adversarial, y, recipe(lipschitz={"weight": 1, "kind": kind}))["lipschitz"])
              for kind in ("exact", "finite_difference")]
    assert slopes[1] == pytest.approx(slopes[0], rel=0.05)


def test_the_finite_difference_survives_half_precision(batch):
    clean, adversarial, y = batch
    objective, of = Objective(smooth().eval()), recipe(lipschitz={"weight": 1, "kind": "finite_difference"})
    expected = float(objective(clean, adversarial, y, of)["lipschitz"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective(clean, adversarial, y, of)
    assert terms["lipschitz"].item() == pytest.approx(expected, rel=0.02)
