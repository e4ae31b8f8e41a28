"""The reference's faulty attack does what its audit says, and each of its ways to count what its scripts count."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.reference_attack import WithoutNormalisation, in_normalised_units, reference_fgsm, reference_pgd
from benchmarks.reference_protocol import (
    Crops,
    Scored,
    all_fakes,
    as_markdown,
    called_fake,
    caught_fakes,
    compare,
    compare_budgets,
    jpeg_copies,
    logits,
    needed_passes,
    right_after,
    right_twice,
)
from benchmarks.small_detector import make_images
from robust.attacks.checks import require_plausible_inputs
from robust.errors import UserError
from robust.models.detector import Architecture, Detector

PIXEL = 1 / 255


class Backbone(nn.Module):
    """Convolutions with batch normalisation and one logit: (N, 3, 32, 32) to (N, 1)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(),
                                  nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1))

    def forward(self, x):
        return self.body(x)


@pytest.fixture(scope="module")
def crops():
    x, y = make_images(24, generator=torch.Generator().manual_seed(5))
    return Crops(x, y)


@pytest.fixture(scope="module")
def model():
    """Trained to tell the images apart, so that an attack has something to do."""
    torch.manual_seed(0)
    detector = Detector(Backbone(), Architecture("none", 32, (0.5,) * 3, (0.5,) * 3, None)).train()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-2)
    for _ in range(60):
        x, y = make_images(64, generator=generator)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(detector(x), y.float()).backward()
        optimizer.step()
    return detector.eval()


@pytest.mark.parametrize("training, size", [(False, 24), (True, 1)])
def test_its_forty_steps_are_one_step_to_the_bit(model, crops, training, size):
    attacked = copy.deepcopy(model).train(training)
    for x, y in zip(crops.x[:4 * size].split(size), crops.y[:4 * size].split(size), strict=True):
        forty = reference_pgd(attacked, x, y, epsilon=2 * PIXEL)
        assert torch.equal(forty, reference_pgd(attacked, x, y, epsilon=2 * PIXEL, steps=1))
        assert not torch.equal(forty, reference_pgd(attacked, x, y, epsilon=2 * PIXEL, moves=True, step_size=0.001))
    assert needed_passes(model) == 1 and needed_passes(nn.Sequential(nn.Dropout(0.5))) == 40


def test_its_pgd_is_its_fgsm_and_can_not_go_further_than_its_step(model, crops):
    x, y = crops.x, crops.y
    for claimed, reached in ((1, 1), (2, 2), (4, 2.55), (16, 2.55)):
        x_adv = reference_pgd(model, x, y, epsilon=claimed * PIXEL, steps=3)
        assert (x_adv - x).abs().max().item() / PIXEL == pytest.approx(reached, abs=1e-3)
        assert torch.allclose(x_adv, reference_fgsm(model, x, y, epsilon=reached * PIXEL), atol=1e-6)


def test_repaired_it_is_stronger_than_its_one_step(model, crops):
    sign = 1 - 2 * crops.y.float()
    moved = {moves: (sign * model(reference_pgd(model, crops.x, crops.y, epsilon=8 * PIXEL, moves=moves, step_size=2 * PIXEL))).mean().item()
             for moves in (False, True)}
    assert moved[True] > moved[False] + 0.5


def test_on_normalised_values_epsilon_is_half_and_dark_values_turn_grey(model, crops):
    x = crops.x
    moved = in_normalised_units(model, x, crops.y, epsilon=2 * PIXEL, steps=1)
    bright = (x > 0.5 + 2 * PIXEL) & (x < 1 - 2 * PIXEL)
    assert (moved - x)[bright].abs().max().item() / PIXEL == pytest.approx(1, abs=1e-3)
    dark = x < 0.5 - 2 * PIXEL
    assert dark.float().mean() > 0.2 and (moved[dark] == 0.5).all()
    assert (moved - x).abs().max().item() > 80 * PIXEL
    assert torch.allclose(WithoutNormalisation(model)((x - 0.5) / 0.5), model(x), atol=1e-5)


def test_a_second_division_by_255_shows_black_images_that_our_check_refuses(crops):
    with pytest.raises(UserError, match="nearly constant"):
        require_plausible_inputs(crops.x / 255, where="its score")


def test_jpeg_copies_are_near_and_not_equal(crops):
    copies = jpeg_copies(crops.x)
    assert copies.shape == crops.x.shape and 1 * PIXEL < (copies - crops.x).abs().mean() < 20 * PIXEL
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert (jpeg_copies(flat) - flat).abs().max() <= PIXEL


def test_every_count_on_five_images_by_hand():
    # fake caught and turned, fake caught and kept, fake missed, real passed, real turned to fake
    scored = Scored(np.array([1.0, 1, -1, -1, -1]), np.array([-1.0, 1, -1, -1, 1]), np.array([1, 1, 1, 0, 0]))
    shares = {count: (int(count(scored).hits.sum()), int(count(scored).among.sum()))
              for count in (caught_fakes, all_fakes, right_twice, right_after, called_fake)}
    assert shares == {caught_fakes: (1, 2), all_fakes: (2, 3), right_twice: (2, 5), right_after: (2, 5), called_fake: (2, 5)}
    assert int(called_fake(Scored(scored.before, np.ones(5), scored.labels)).hits.sum()) == 5


def test_the_table_has_ours_each_fault_and_the_scripts_and_leaves_the_model_alone(model, crops):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    few = Crops(crops.x[:8], crops.y[:8])
    rows = compare(model, "small", few, Crops(crops.x[8:16], crops.y[8:16]), strict=0.5)
    assert not model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [row.group for row in rows] == ["ours"] * 2 + ["one fault"] * 10 + ["all faults"] * 4
    by_name = {row.protocol: row for row in rows}
    fakes = int((few.y == 1).sum())
    caught = int(((few.y == 1) & torch.from_numpy(logits(model, few.x) > 0)).sum())
    assert by_name["PGD-40 on the margin, logit 0"].success[1] == caught
    assert by_name["success counted over all fakes, missed ones too"].success[1] == fakes
    assert by_name["PGD-40 on the margin, logit 0"].change == 2.0
    assert by_name["training script, its validation under PGD-40"].change > 80
    table = as_markdown("small", rows)
    assert table.count("\n| ") == len(rows) + 1 and "every image labelled fake | 2 | 2 | – |" in table


def test_budgets_claimed_and_reached(model, crops):
    reached = {(row["claimed"], row["attack"]): row for row in compare_budgets(model, Crops(crops.x[:6], crops.y[:6]))}
    assert [reached[claimed, "ours"]["largest"] for claimed in (1, 4, 16)] == [1, 4, 16]
    assert reached[16, "on pixels"]["largest"] == 2.55 and reached[1, "on pixels"]["largest"] == 1
    assert reached[1, "on normalised values"]["largest"] > 80 and reached[1, "on normalised values"]["beyond"] > 0.2
    assert reached[16, "ours"]["beyond"] == 0
