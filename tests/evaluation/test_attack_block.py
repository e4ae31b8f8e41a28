"""One block in-process: the numbers are the model's, do not depend on how the work is cut, and faults are loud."""

import numpy as np
import pytest
import torch
from torch import nn

from robust.config import EvaluateConfig
from robust.data.inputs import to_tensor
from robust.errors import ConfigError, UserError
from robust.evaluation.attack_block import Cell, attack_block, block_hash, cells, perturb


class Linear(nn.Module):
    """A logit w.x + b: the worst case in the Linf ball is exact, epsilon * ||w||_1 away if no pixel is clipped."""

    def __init__(self, size=8):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * size * size, generator=torch.Generator().manual_seed(0)))
        self.bias = nn.Parameter(-0.5 * self.weight.sum().detach())

    def forward(self, x):
        return x.flatten(1) @ self.weight + self.bias


@pytest.fixture
def crops():
    rng = np.random.default_rng(0)
    return rng.integers(40, 216, (13, 8, 8, 3)).astype(np.uint8), np.arange(13) % 2


@pytest.mark.parametrize("cell", [Cell("fgsm", 4.0, 1), Cell("pgd", 4.0, 10), Cell("pgd", 4.0, 5, restarts=2)])
def test_the_linear_worst_case_is_reached_in_both_directions(crops, cell):
    model = Linear().eval()
    pixels, labels = crops
    clean, adversarial = attack_block(model, pixels, labels, cell, batch_size=5, seed=1)
    with torch.no_grad():
        expected = model(to_tensor(pixels)).numpy()
    reach = 4 / 255 * model.weight.detach().abs().sum().item()
    np.testing.assert_allclose(clean, expected, atol=1e-4)
    np.testing.assert_allclose(adversarial, expected + np.where(labels == 1, -reach, reach), atol=1e-2)


def test_results_do_not_depend_on_batches_or_on_the_cut_into_blocks(crops):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(144, 1), nn.Flatten(0)).eval()
    pixels, labels = crops
    cell = Cell("pgd", 8.0, 3)
    whole = attack_block(model, pixels, labels, cell, batch_size=13, seed=1)
    parts = [attack_block(model, pixels[cut], labels[cut], cell, batch_size=4, seed=1) for cut in (slice(0, 6), slice(6, 13))]
    for index in range(2):
        np.testing.assert_allclose(np.concatenate([part[index] for part in parts]), whole[index], atol=1e-5)
    other = attack_block(model, pixels, labels, cell, batch_size=13, seed=2)
    assert not np.array_equal(other[1], whole[1])


def test_perturbation_stays_within_epsilon_of_255(crops):
    x = to_tensor(crops[0])
    x_adv = perturb(Linear().eval(), x, torch.as_tensor(crops[1]), Cell("pgd", 2.0, 4), seed=0)
    assert (x_adv - x).abs().max().item() == pytest.approx(2 / 255, abs=1e-6)


@pytest.mark.parametrize("fault", [lambda pixels: pixels * 0, lambda pixels: pixels // 255, lambda pixels: pixels * 0 + 255])
def test_blank_crops_are_an_error_not_a_figure(crops, fault):
    with pytest.raises(UserError, match="nearly constant"):
        attack_block(Linear().eval(), fault(crops[0]), crops[1], Cell("fgsm", 1.0, 1), batch_size=4, seed=0)


def test_a_model_in_training_mode_is_an_error(crops):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 1), nn.Flatten(0)).eval()
    model[1].train()
    with pytest.raises(UserError, match="training mode, the first is 1"):
        attack_block(model, *crops, Cell("fgsm", 1.0, 1), batch_size=4, seed=0)


def test_grid_of_the_config():
    grid = cells(EvaluateConfig())
    assert len(grid) == 10 and grid[0] == Cell("fgsm", 0.5, 1) and grid[-1] == Cell("pgd", 8.0, 20)
    assert [Cell("pgd", 1, 20).label, Cell("fgsm", 1, 1).label, Cell("pgd", 1, 5, 2).label] == ["PGD-20", "FGSM", "PGD-5 x 2"]
    with pytest.raises(ConfigError, match="evaluate.suites.quick: autoattack unknown"):
        cells(EvaluateConfig(suites={"quick": {"autoattack": {"steps": 1}}}))
    for budget in ({"steps": 2}, {"steps": 1, "restarts": 2}):
        with pytest.raises(ConfigError, match="evaluate.suites.quick.fgsm: is one step"):
            cells(EvaluateConfig(suites={"quick": {"fgsm": budget}}))


def test_a_blocks_name_changes_with_everything_it_depends_on():
    names = {block_hash(**facts) for facts in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": 1})}
    assert len(names) == 4 and block_hash(a=1, b=2) == block_hash(b=2, a=1)


def test_an_attack_that_can_not_have_this_budget_or_ball_is_refused_before_any_work():
    with pytest.raises(ConfigError, match=r"evaluate.suites.quick.cw: minimises an L2 length"):
        cells(EvaluateConfig(suites={"quick": {"cw": {"steps": 10}}}))
    with pytest.raises(ConfigError, match=r"evaluate.suites.quick.square.restarts is 2"):
        cells(EvaluateConfig(suites={"quick": {"square": {"steps": 10, "restarts": 2}}}))
    standard = {cell.attack: cell.label for cell in cells(EvaluateConfig(suite="standard", epsilons=[1]))}
    assert standard == {"apgd": "APGD-50 x 5", "apgd_ce": "APGD_CE-50", "fmn": "FMN-50 x 3", "square": "SQUARE-5000",
                        "transfer": "TRANSFER-10"}
    adaptive = {cell.attack: cell.label for cell in cells(EvaluateConfig(suite="adaptive", epsilons=[1], eot_samples=6))}
    assert adaptive == standard | {"eot": "EOT-25 (6 views)"}
    for suite, headline in (({"transfer": {}}, "worst"), ({"transfer": {}, "pgd": {}}, "transfer")):
        with pytest.raises(ConfigError, match="evaluate.headline: transfer sees other models only"):
            cells(EvaluateConfig(suites={"quick": suite}, headline=[headline, 0.5]))


def test_eot_is_given_its_samples_and_transfer_its_surrogates(crops):
    class Counted(Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    target, other = Counted().eval(), Counted().eval()
    pixels, labels = crops
    attack_block(target, pixels, labels, Cell("eot", 4.0, 3, samples=5), batch_size=13, seed=1)
    assert target.calls == 5 * (1 + 3 + 1) + 2
    target.calls = 0
    with torch.no_grad():
        other.weight.neg_()
        other.bias.neg_()
    clean, adversarial = attack_block(target, pixels, labels, Cell("transfer", 4.0, 3), batch_size=13, seed=1, surrogates=[other])
    assert target.calls == 2 and other.calls == 3
    assert (np.sign(adversarial - clean) == np.where(labels == 1, 1, -1)).all()  # the other's worst case is this one's best
