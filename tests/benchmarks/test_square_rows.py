"""Rows of Square in benchmarks.attack_strength: stopped between two epsilons, they come out the same."""

import dataclasses

import pytest
import torch

from benchmarks.attack_reference import Row
from benchmarks.small_detector import SmallDetector, make_images
from benchmarks.square_rows import square_rows

pytestmark = pytest.mark.slow


def told(rows):
    """Without the time, and what is over the images that were attacked in one go."""
    return [dataclasses.replace(row, cpu_ms_per_image=0, mean_margin=0, largest_change=0) for row in rows]


def test_rows_are_kept_after_each_epsilon_and_gone_on_from(local_storage):
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model, (x, _) = SmallDetector().eval(), make_images(24, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        model.head.bias.sub_(model(x).median())
        y = (model(x) > 0).long()
    y[:3] = 1 - y[:3]  # wrong without an attack
    settings = {"queries": 30, "epsilons": (2.0, 6.0, 16.0), "attacks": ("ours Square",)}
    seen: list[Row] = []
    rows = square_rows(local_storage, "square", model, "a" * 64, x, y, on_row=seen.append, **settings)
    assert rows == seen and [row.epsilon for row in rows] == [2.0, 6.0, 16.0]
    with torch.no_grad():
        right = ((model(x) > 0) == (y > 0)).nonzero().flatten().tolist()
    assert set(right) >= set(rows[0].still_right) >= set(rows[1].still_right) >= set(rows[2].still_right)
    assert len(right) == 21 > len(rows[2].still_right) and rows[0].forwards > 1 and rows[0].gradients == 0
    assert [row.robust_accuracy for row in rows] == [len(row.still_right) / 24 for row in rows]

    key = "square/ours_square.json"
    document = local_storage.read_json(key)
    local_storage.write_json(key, {**document, "rows": document["rows"][:1]})  # stopped after the first epsilon
    seen.clear()
    assert told(square_rows(local_storage, "square", model, "a" * 64, x, y, on_row=seen.append, **settings)) == told(rows)
    assert [row.epsilon for row in seen] == [6.0, 16.0]
    seen.clear()
    assert told(square_rows(local_storage, "square", model, "a" * 64, x, y, on_row=seen.append, **settings)) == told(rows)
    assert seen == []
