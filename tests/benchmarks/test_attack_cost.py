"""benchmarks/attack_cost.py: what a suite needs is counted without the suite, and gradients of parameters are noticed."""

import contextlib

import pyarrow as pa
import pytest
import torch

from benchmarks import suite_cost
from benchmarks.passes_needed import passes_needed, unsettled
from benchmarks.small_detector import SmallDetector, make_images
from robust.attacks import apgd
from robust.config import EvaluationAttack
from robust.evaluation.attack_block import Cell
from robust.evaluation.sequence import Curve

SUITE = {name: EvaluationAttack(steps=steps) for name, steps in (("apgd", 3), ("fmn", 2), ("square", 6))}


def result(adversarial, clean=(2.0, 2.0, -2.0, 1.0)):
    """Video a: two frames of a fake; b: a real that is called real, c: one that is called fake."""
    return pa.table({"video_id": ["a", "a", "b", "c"], "label": [1, 1, 0, 0], "clean": clean, "adversarial": adversarial})


def test_unsettled_crops_by_hand():
    first, second, curve = Cell("apgd", 1.0, 3), Cell("square", 1.0, 9), Curve("fmn", 2.0, 5, epsilons=(1.0, 2.0))
    alone = {
        first: result([-1.0, 0.5, -1.0, 2.0]),
        curve: result([[2.0, -3.0], [-0.1, -3.0], [0.3, 0.4], [1.0, 1.0]]),
        second: result([2.0, 2.0, -2.0, 1.0]),
    }
    order = ["apgd", "fmn", "square"]
    assert unsettled(alone, "apgd", 1.0, {}, order) == 3  # c is wrong as it is
    assert unsettled(alone, "fmn", 1.0, {}, order) == 2  # a's second frame, b
    assert unsettled(alone, "square", 1.0, {}, order) == 0  # the curve turned both at epsilon 1
    assert unsettled(alone, "square", 1.0, {"frame": 0.4}, order) == 1  # b's 0.3 is not above it
    assert unsettled(alone, "square", 1.0, {"video": -0.7}, order) == 2  # a's mean, -0.55, holds out with both frames
    assert passes_needed(second, alone, {"video": -0.7}, order) == 2 * 9
    assert passes_needed(curve, alone, {}, order) == 3 * 5


@pytest.fixture(scope="module")
def models():
    """Not trained; its logits are brought to mean 0 and deviation 1, so that attacks turn some and leave some."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model, surrogate = SmallDetector(width=6).eval(), SmallDetector(width=6).eval()
    with torch.no_grad():
        logits = model(make_images(60, generator=torch.Generator().manual_seed(5))[0])
        model.head.weight.div_(logits.std())
        model.head.bias.sub_(logits.mean()).div_(logits.std())
    return model, surrogate


def test_a_suite_runs_on_what_is_counted_from_outside(models, capsys):
    found = suite_cost.suite_cost(*models, SUITE, count=12)
    rows = {row["attack"]: row for row in found["attacks"]}
    for name in ("apgd", "square"):
        assert rows[name]["needed"] == SUITE[name].steps * rows[name]["attacked"]
    assert 0 < rows["square"]["attacked"] < rows["apgd"]["attacked"] <= rows["apgd"]["crops"] == 12 * 4
    assert rows["apgd"]["gradients"] == rows["apgd"]["needed"] and rows["square"]["gradients"] == 0
    assert found["largest_difference_of_a_rate"] == found["parameters_recorded"] == found["parameter_gradients"] == 0
    assert suite_cost.met({**found, "ratio": 1.1}) and not suite_cost.met({**found, "ratio": 1.3})
    suite_cost.print_suite(found)
    assert f"all: {found['ratio']:.3f} x the passes needed" in capsys.readouterr().out


def test_parameters_that_take_part_in_a_gradient_are_noticed(models, monkeypatch):
    monkeypatch.setattr(apgd, "attack_mode", lambda model: contextlib.nullcontext())  # freezes nothing
    found = suite_cost.suite_cost(*models, {name: SUITE[name] for name in ("apgd", "square")}, count=6)
    assert found["parameters_recorded"] == len(list(models[0].parameters()))
    assert not suite_cost.met({**found, "ratio": 1.0})
