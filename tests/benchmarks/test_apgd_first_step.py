"""benchmarks/apgd_first_step.py: its rows are what is printed and what the attack does with that first step."""

import json

import torch

from benchmarks import apgd_first_step
from benchmarks.small_detector import make_images, train_small_detector
from robust.attacks.apgd import apgd
from robust.attacks.threat import Linf


def test_rows_are_counted_by_hand(tmp_path, capsys):
    path = tmp_path / "figures.json"
    rows = apgd_first_step.main([
        "--detectors", "1", "--images", "24", "--seeds", "2", "--steps", "4", "--training-steps", "12", "--json", str(path)])
    assert [row["left"] for row in json.loads(path.read_text())["rows"]] == [row.left for row in rows]
    assert [(row.epsilon, row.first_step) for row in rows] == [(e, f) for e in (1, 2, 4, 8) for f in (1, 2)]
    model, (x, y) = train_small_detector(steps=12), make_images(24, generator=torch.Generator().manual_seed(99))
    (row,) = (row for row in rows if (row.epsilon, row.first_step) == (4, 2))
    with torch.no_grad():
        right = (model(x) > 0) == (y > 0)
        assert row.images == right.sum() > 0
        for seed, left in enumerate(row.left):
            generator = torch.Generator().manual_seed(seed)
            x_adv = apgd(model, x[right], y[right], Linf.from_255(4), steps=4, first_step=2, generator=generator)
            assert left == ((model(x_adv) > 0) == (y[right] > 0)).sum()
    assert "first steps of 2 epsilon: " in capsys.readouterr().out
