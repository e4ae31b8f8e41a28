"""The comparison's choices and counts, on a linear detector and a prior of six iterations."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.deep_image_prior import as_markdown, choose_on_validation, compare, measure
from robust.attacks.threat import Linf
from robust.defenses.deep_image_prior import Prior

TINY = Prior(iterations=6, stops=(3, 6), size=32, channels=(8, 8), input_channels=8, average=0.5)


class Redness(nn.Module):
    """The logit is how much redder an image is than 0.5, times 100."""

    def forward(self, x):
        return 100 * (x[:, 0].mean(dim=(1, 2)) - 0.5)


def images(*reds):
    x = torch.rand(len(reds), 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.02 + 0.4
    x[:, 0] = x[:, 0] - 0.41 + torch.tensor(reds).view(-1, 1, 1)
    return x


def test_stop_and_threshold_come_from_validation():
    y = torch.tensor([1, 1, 0, 0])
    clean = {10: images(.7, .6, .3, .2), 20: images(.7, .6, .5, .4), 30: images(.7, .3, .6, .2)}
    attacked = {10: images(.2, .2, .3, .2), 20: images(.62, .61, .4, .4), 30: images(.7, .7, .2, .2)}
    stop, threshold, right = choose_on_validation(Redness(), clean, attacked, y)
    assert stop == 20 and 0 < threshold < 10 and right == {10: 0.75, 20: 1.0, 30: 0.75}


def test_the_table_counts_caught_fakes_and_says_what_was_chosen():
    x, y = images(.7, .52, .3, .48), torch.tensor([1, 1, 0, 0])
    rows, facts = compare(Redness(), Redness(), (x, y), (x, y), Linf(0.05), TINY, seed=0)
    plain, known, through, defended = rows
    assert (plain.accuracy, plain.success, plain.robust) == ((4, 4), (1, 2), (2, 4)) and defended.success == (1, 2)
    assert known.accuracy == through.accuracy and known.seconds > plain.seconds and facts["stop"] in TINY.stops
    table = as_markdown(rows, {**facts, "epsilon": 1.0, "published_seconds": 5.0})
    assert table.count("\n| ") == 5 and "50.0 (1 of 2) [1.3, 98.7]" in table and f"{facts['stop']} iterations" in table


def test_a_row_on_five_images_by_hand():
    y = torch.tensor([1, 1, 1, 0, 0])
    row = measure("a", "b", (np.array([1.0, 1, -1, -1, -1]), 0.5), np.array([-1.0, 1, -1, -1, 1]), y)
    assert (row.accuracy, row.success, row.robust, row.seconds) == ((4, 5), (1, 2), (2, 5), pytest.approx(0.5))
