"""benchmarks/training.py: both steps do the same thing, and its rows hold what is printed."""

import json

import pytest
import torch

from benchmarks import training as benchmark


def test_a_row_holds_times_floor_and_ratios(tmp_path, capsys):
    (row,) = benchmark.main(["test_resnet:32:2", "--rounds", "1", "--batch-norm", "frozen", "--out", str(tmp_path / "a.json")])
    assert json.loads((tmp_path / "a.json").read_text()) == [row]
    floor = 7 * row["attack gradient"] + row["input gradient"] + 2 * row["full"] - row["forward"]
    assert row["floor"] == pytest.approx(floor) and row["plain / ours"] == pytest.approx(row["plain"] / row["ours"])
    assert f"ours / floor {row['ours / floor']:.2f} (bar 1.10: " in capsys.readouterr().out


def test_the_plain_step_trains_on_the_same_thing(monkeypatch):
    # The same point of the ball to start from, no update: the gradients of both objectives agree up to the finite difference.
    case = benchmark.Case("test_resnet", 32, 4, batch_norm="frozen", device=torch.device("cpu"))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.zero_())
    train_recipe = benchmark.RECIPE.model_copy(update={"attack": benchmark.RECIPE.attack.model_copy(update={"random_start": False})})
    monkeypatch.setattr(benchmark, "RECIPE", train_recipe)
    case.plain.load_state_dict(case.training.network.state_dict())
    passes = case.passes()
    passes["ours"]()
    passes["plain"]()
    ours, plain = (torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
                   for network in (case.training.network, case.plain))
    assert float((ours - plain).norm() / plain.norm()) < 0.02
