"""Which crops the gates see, what their outcome is kept under, and the verdict."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from robust.evaluation.attack_block import Cell
from robust.evaluation.credibility import choose_crops, choose_sample, gates_name, gates_on_crops, judge

CELL = Cell("pgd", 0.5, 20)


def status(*, reals=30, fakes=60, frames=3):
    rows = [{"video_id": f"d/{'fake' if label else 'real'}/{i}", "label": label, "shard": f"s{i % 3}", "split": "test",
             "frames_found": frames, "source_bytes": 1, "source_etag": None, "fingerprint": "f"}
            for label, count in ((0, reals), (1, fakes)) for i in range(count)]
    rows += [{**rows[0], "video_id": "d/real/other", "split": "train"}, {**rows[0], "video_id": "d/real/none", "frames_found": 0}]
    return pa.Table.from_pylist(rows)


def videos_of(sample):
    return [video for block in sample.blocks for video in block.video_ids]


def test_half_real_half_fake_of_as_many_videos_as_there_is_room_for():
    sample = choose_sample(status(), split="test", images=32)
    videos = videos_of(sample)
    assert len(videos) == len(set(videos)) == 32 and sample.frames == 1
    assert sum("/fake/" in video for video in videos) == 16
    assert not {"d/real/other", "d/real/none"} & set(videos)
    shuffled = status().take(np.random.default_rng(0).permutation(92))
    assert choose_sample(shuffled, split="test", images=32) == sample


def test_few_videos_give_more_frames_of_each():
    sample = choose_sample(status(reals=4, fakes=4), split="test", images=32)
    assert len(videos_of(sample)) == 8 and sample.frames == 4
    assert choose_sample(status(reals=4, fakes=4), split="test", images=32, max_frames=2).frames == 2


def test_crops_are_balanced_and_first_frames_come_first():
    videos = ["a"] * 4 + ["b"] * 4 + ["c"] * 4 + ["d"] * 2
    crops = pa.table({"video_id": videos, "label": [0] * 8 + [1] * 6})
    assert choose_crops(crops, 8).tolist() == [0, 1, 4, 5, 8, 9, 12, 13]
    assert choose_crops(crops.slice(0, 8), 8).tolist() == [0, 1, 4, 5]  # no fakes


def test_an_outcome_belongs_to_model_crops_attack_and_seed():
    sample = choose_sample(status(), split="test", images=32)
    name = gates_name(sample, CELL, model="a", seed=1)
    assert name == gates_name(sample, CELL, model="a", seed=1)
    others = {
        gates_name(sample, CELL, model="b", seed=1),
        gates_name(sample, CELL, model="a", seed=2),
        gates_name(sample, Cell("pgd", 0.5, 40), model="a", seed=1),
        gates_name(choose_sample(status(), split="test", images=30), CELL, model="a", seed=1),
        gates_name(choose_sample(status(frames=2), split="test", images=32), CELL, model="a", seed=1),
    }
    assert len(others | {name}) == 6


@pytest.mark.parametrize(("inputs", "passed"), [(None, True), ({"mean": 0.5, "std": 0.2}, True), ({"mean": 0.9, "std": 0.2}, False)])
def test_the_cards_inputs_are_compared_with_the_crops(inputs, passed):
    rng = np.random.default_rng(0)
    pixels = rng.integers(40, 215, (8, 4, 4, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 1), nn.Flatten(0)).eval()
    with torch.no_grad():
        model[1].weight.normal_(generator=torch.Generator().manual_seed(0))
    gates = gates_on_crops(model, pixels, np.arange(8) % 2, CELL, seed=0, card={"inputs": inputs})
    assert gates[0]["name"] == "input_statistics" and gates[0]["passed"] is passed
    assert set(gates[0]) == {"name", "passed", "measured", "remedy"}


def test_verdicts():
    gates = [{"model": model, "name": name, "passed": True} for model in ("a", "b") for name in ("x", "y")]
    assert judge(gates)["text"] == "CREDIBLE: 2 gates passed for each of 2 models"
    assert judge(gates[:2])["text"] == "CREDIBLE: 2 gates passed"
    gates[3] = {**gates[3], "passed": False}
    assert judge(gates) == {"credible": False, "text": "NOT CREDIBLE: y (b)", "failed": [{"model": "b", "gate": "y"}]}
    assert judge([])["credible"] is None
