"""The whole-video attack as part of jobs.evaluate: videos stay whole; resumed, and the same however they are cut."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from test_evaluate import RUN, SIZE, config_of, crop, summary_of, write_crops
from torch import nn

import jobs.evaluate as job
from jobs import block_tasks, whole_video_tasks
from robust.attacks.threat import Linf
from robust.attacks.whole_video import whole_video
from robust.data.face_table import read_faces
from robust.data.images import decode_image
from robust.data.inputs import to_input, to_tensor
from robust.data.shards import read_status
from robust.errors import ConfigError
from robust.evaluation.attack_block import Cell
from robust.evaluation.whole_video_table import JOINT
from robust.models.checkpoint import load_checkpoint, save_checkpoint
from robust.models.detector import Architecture, empty_detector
from robust.storage import Storage


def write_untrained(storage, images):
    """Two detectors with random weights, whose logits lie on both sides of 0."""
    x = to_input(images, SIZE)
    for seed, name in enumerate(("baseline", "defended")):
        torch.manual_seed(seed)
        model = empty_detector(Architecture("meso_inception4", SIZE, (0.5,) * 3, (0.5,) * 3, None))
        with torch.no_grad():
            for _ in range(8):
                model.train()(x)  # statistics of these crops for batch normalisation
            last = [parameter for parameter in model.parameters() if parameter.ndim == 1][-1]
            last.sub_(model.eval()(x).median())
        save_checkpoint(
            storage, f"{RUN}/train/{name}", model, {"threshold": 0.0, "frame_threshold": 0.0, "recipe": name}
        )


class Linear(nn.Module):
    """A detector whose logit is w.x - b, so that every optimum is known."""

    input_size = SIZE

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) / 10)

    def forward(self, x):
        return ((x - 0.5) * self.weight).sum(dim=(1, 2, 3))


def some_crops():
    """(crops, pixels) of a fake of three frames, a real of two and a fake of one, away from black and white."""
    rng, videos = np.random.default_rng(0), ["d/fine/a"] * 3 + ["d/real/b"] * 2 + ["d/fine/c"]
    labels = [int("fine" in video) for video in videos]
    table = pa.table(
        {
            "video_id": videos,
            "frame_index": pa.array([0, 1, 2, 0, 1, 0], pa.int32()),
            "label": pa.array(labels, pa.int8()),
        }
    )
    return table, np.stack([crop(rng, 0)[:SIZE, :SIZE].clip(40, 215) for _ in videos])


class Curved(Linear):
    """A detector of ups and downs: how far one face is pushed changes which iterate is the best of all together."""

    def forward(self, x):
        return torch.sin(3 * super().forward(x))


def test_each_person_of_a_video_is_attacked_by_themselves():
    model, (crops, pixels) = Curved().eval(), some_crops()
    item, settings = Cell(JOINT, 4.0, 8), config_of(Path("."), batch_size=6)
    tracks = crops.append_column("track", pa.array([0, 1, 1, 0, 0, 0], pa.int32()))
    names = ["d/fine/a", "d/fine/a2", "d/fine/a2", "d/real/b", "d/real/b", "d/fine/c"]
    apart = crops.set_column(0, "video_id", pa.array(names))
    people, own, together = (
        whole_video_tasks.attack_videos(model, one, pixels, item, settings, "cpu").column("adversarial").to_numpy()
        for one in (tracks, apart, crops)
    )
    np.testing.assert_array_equal(people, own)
    assert not np.allclose(people[:3], together[:3], atol=1e-3)


def test_of_a_linear_logit_the_score_moves_by_epsilon_times_the_one_norm():
    model, (crops, pixels) = Linear().eval(), some_crops()
    settings = config_of(Path("."), batch_size=2)
    result = whole_video_tasks.attack_videos(model, crops, pixels, Cell(JOINT, 4.0, 8), settings, "cpu")
    moved = 4 / 255 * model.weight.abs().sum().item()
    with torch.no_grad():
        clean = model(to_tensor(pixels))
    np.testing.assert_allclose(result.column("clean").to_numpy(), clean, atol=1e-4)
    signed = np.where(crops.column("label").to_numpy() == 1, -moved, moved)
    np.testing.assert_allclose(result.column("adversarial").to_numpy(), clean.numpy() + signed, atol=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole_video")
    storage = Storage.from_config(config_of(folder).storage)
    write_untrained(storage, write_crops(storage)[0])
    return folder


def config(folder, *, whole_video=None, **evaluate):
    settings = {"enabled": True, "epsilons": [4], "steps": 4, **(whole_video or {})}
    return config_of(
        folder,
        **{
            "epsilons": [4],
            "headline": ["worst", 4],
            "bootstrap": 10,
            "gates": {"enabled": False},
            "whole_video": settings,
            **evaluate,
        },
    )


@pytest.fixture
def by_hand(monkeypatch):
    """No Ray: tasks run in this process, the last first; returns the videos that each joint attack was given."""
    given = []

    def one_by_one(config, storage, tasks, **_):
        given.extend(task.block.video_ids for task in tasks if task.measure is whole_video_tasks.attack_videos)
        return sum(block_tasks.run_task(config, storage, task) for task in reversed(tasks))

    monkeypatch.setattr(job, "run_tasks", one_by_one)
    monkeypatch.setattr(job, "make_gallery", lambda *_: [])
    return given


def kept(storage):
    return storage.read_table(f"{RUN}/evaluate/whole_video.parquet")


def test_videos_are_attacked_whole_resumed_and_alike_however_they_are_cut(folder, by_hand):
    storage = Storage.from_config(config(folder).storage)
    job.evaluate(config(folder), storage)
    first, rows = summary_of(folder)["whole_video"], kept(storage)
    assert (first["videos"], first["frames"], first["frame_wise"]) == (16, 48, "worst") and len(rows) == 2 * 48
    assert [(record["model"], record["epsilon"]) for record in first["records"]] == [("baseline", 4), ("defended", 4)]
    done = len(by_hand)

    def measure_again(settings, models=2):
        chosen = job.find_candidates(settings, storage)[:models]
        predictions = storage.read_table(f"{RUN}/evaluate/predictions.parquet")
        predictions = predictions.filter(pc.field("model").isin([candidate.name for candidate in chosen]))
        return whole_video_tasks.measure_whole_videos(
            settings,
            storage,
            chosen,
            read_status(storage, RUN),
            predictions,
            run=job.run_tasks,
        )

    for key in storage.list(f"{RUN}/evaluate/blocks")[::2]:
        storage.delete(key)
    assert json.loads(json.dumps(measure_again(config(folder)))) == first
    assert 0 < len(by_hand) - done < done and kept(storage).equals(rows)

    by_hand.clear()
    measure_again(config(folder, block_size=1, batch_size=2), models=1)  # a video has three frames
    videos = [video for block in by_hand[:16] for video in block]
    assert len(videos) == len(set(videos)) == 16
    other, rows = kept(storage), rows.filter(pc.field("model") == "baseline")
    np.testing.assert_allclose(other.column("adversarial").to_numpy(), rows.column("adversarial").to_numpy(), atol=2e-2)
    assert other.drop_columns(["clean", "adversarial"]).equals(rows.drop_columns(["clean", "adversarial"]))


def test_what_is_climbed_is_the_videos_score_of_the_very_model(folder, by_hand):
    settings = config(folder)
    storage = Storage.from_config(settings.storage)
    job.evaluate(settings, storage)
    crops = {(row["video_id"], row["frame_index"]): row for row in read_faces(storage, RUN, split="test").to_pylist()}
    model, _ = load_checkpoint(storage, f"{RUN}/train/baseline")
    rows = [row for row in kept(storage).to_pylist() if row["model"] == "baseline"]
    for row in rows[::5]:
        x = to_input([decode_image(crops[row["video_id"], row["frame_index"]]["image"])], SIZE)
        with torch.no_grad():
            assert row["clean"] == pytest.approx(model.eval()(x).item(), abs=1e-3)
    assert {row["attack"] for row in rows} == {JOINT}
    for video in {row["video_id"] for row in rows}:
        of_video = [row for row in rows if row["video_id"] == video]
        fall = np.mean([row["adversarial"] - row["clean"] for row in of_video])
        assert fall < 0 if of_video[0]["label"] else fall > 0
    # One video by hand: all its frames in one attack, which is another path than each frame's own.
    video = [row for row in rows if row["video_id"] == rows[0]["video_id"]]
    x = to_input([decode_image(crops[row["video_id"], row["frame_index"]]["image"]) for row in video], SIZE)
    y, seeded = torch.tensor([row["label"] for row in video]), torch.Generator().manual_seed(settings.run.seed)
    together, apart = (
        whole_video(
            model, x, y, Linf.from_255(4), steps=4, videos=videos, generator=seeded.manual_seed(settings.run.seed)
        )
        for videos in (torch.zeros(len(y)), torch.arange(len(y)))
    )
    with torch.no_grad():
        expected, other = model(together).numpy(), model(apart).numpy()
    kept_logits = np.array([row["adversarial"] for row in video])
    assert np.abs(kept_logits - expected).max() < 0.1 * np.abs(expected - other).max()
    # With more steps than the frame-wise attacks it reaches further on the score: the worst frames are the worst video.
    record = summary_of(folder)["whole_video"]["records"][0]
    assert record["joint"]["robust_auc"]["value"] <= record["frame_wise"]["robust_auc"]["value"]


def test_switched_off_by_default_and_only_at_evaluated_epsilons(folder):
    assert whole_video_tasks.measure_whole_videos(config_of(folder), None, [], None, None, run=None) is None
    with pytest.raises(ConfigError, match="evaluate.whole_video.epsilons: 3 is not among evaluate.epsilons"):
        config(folder, whole_video={"epsilons": [4, 3]})
