"""Cutting crops into blocks: whole videos, every crop once, names that change with what they depend on."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from robust.data.images import encode_image
from robust.data.shards import STATUS_SCHEMA, read_status, shard_key, write_shard
from robust.errors import UserError
from robust.evaluation.attack_block import Cell
from robust.evaluation.blocks import as_predictions, block_result, plan_blocks, read_block, result_name
from robust.evaluation.predictions import PREDICTION_SCHEMA

RUN = "run"


def status_row(video_id, *, frames, split="test", shard="d/0", **more):
    dataset, method, _ = video_id.split("/")
    return {**dict.fromkeys(STATUS_SCHEMA.names), "video_id": video_id, "uri": video_id, "dataset": dataset, "method": method,
            "label": int(method != "real"), "identities": [f"{dataset}:x"], "split": split, "reason": "",
            "status": "ok" if frames else "no_face", "frames_asked": 20, "frames_decoded": 20, "frames_found": frames,
            "shard": shard, "source_bytes": 10, "fingerprint": "f", **more}


def status_table(*rows):
    return pa.Table.from_pylist(list(rows), schema=STATUS_SCHEMA)


def test_every_video_with_a_face_is_in_one_block_of_its_shard():
    rows = [status_row(f"d/fine/{i:02d}", frames=i % 4 * 5, shard=f"d/{i % 3}") for i in range(30)]
    rows.append(status_row("d/fine/99", frames=5, split="train"))
    blocks = plan_blocks(status_table(*rows), split="test", block_size=16)
    videos = [video_id for block in blocks for video_id in block.video_ids]
    assert sorted(videos) == sorted(row["video_id"] for row in rows[:-1] if row["frames_found"])
    assert sum(block.crops for block in blocks) == sum(row["frames_found"] for row in rows[:-1])
    assert all(block.crops <= 16 for block in blocks) and len(blocks) < len(videos)
    shard = {row["video_id"]: row["shard"] for row in rows}
    assert all(shard[video_id] == block.shard for block in blocks for video_id in block.video_ids)


def test_a_long_video_is_a_block_of_its_own_and_max_frames_counts():
    table = status_table(*(status_row(f"d/fine/{i}", frames=20) for i in range(4)))
    assert [block.crops for block in plan_blocks(table, split="test", block_size=8)] == [20] * 4
    assert [block.crops for block in plan_blocks(table, split="test", block_size=8, max_frames=4)] == [8, 8]
    assert plan_blocks(table, split="val", block_size=8) == []


def test_a_results_name_depends_on_crops_model_attack_and_seed():
    def content(**change):
        return plan_blocks(status_table({**status_row("d/fine/0", frames=5), **change}), split="test", block_size=8)[0]

    cell = Cell("pgd", 1.0, 20)
    names = {
        result_name(content(), cell, model="a", batch_size=8, seed=0),
        result_name(content(), cell, model="b", batch_size=8, seed=0),
        result_name(content(), cell, model="a", batch_size=8, seed=1),
        result_name(content(), dataclasses.replace(cell, steps=21), model="a", batch_size=8, seed=0),
        result_name(content(), dataclasses.replace(cell, epsilon=2.0), model="a", batch_size=8, seed=0),
        result_name(content(source_etag="newer"), cell, model="a", batch_size=8, seed=0),
        result_name(content(fingerprint="other margin"), cell, model="a", batch_size=8, seed=0),
    }
    assert len(names) == 7
    assert result_name(content(), cell, model="a", batch_size=8, seed=0) in names


@pytest.fixture
def extracted(local_storage):
    """Two videos of three crops in one shard."""
    videos = ["d/fine/0", "d/real/0"]
    shard = shard_key("d", videos, "f")
    faces = [
        {"video_id": video_id, "dataset": "d", "frame_index": frame, "timestamp_s": 0.0, "box": [0.0] * 4, "landmarks": [0.0] * 10,
         "score": 1.0, "track": 0, "label": int("fine" in video_id), "method": video_id.split("/")[1], "identities": ["d:x"],
         "split": "test", "height": 20, "width": 20,
         "image": encode_image(np.full((20, 20, 3), 10 * frame + 5, np.uint8))}
        for video_id in videos for frame in (0, 3, 6)
    ]
    write_shard(local_storage, RUN, shard, faces, [status_row(video_id, frames=3) for video_id in videos])
    return local_storage


def test_crops_come_back_in_order_and_become_predictions(extracted):
    (block,) = plan_blocks(read_status(extracted, RUN), split="test", block_size=8)
    crops, pixels = read_block(extracted, RUN, block, size=16)
    assert crops.column("video_id").to_pylist() == ["d/fine/0"] * 3 + ["d/real/0"] * 3
    assert pixels.shape == (6, 16, 16, 3) and pixels[:, 0, 0, 0].tolist() == [5, 35, 65] * 2
    logits = np.arange(6, dtype=np.float32)
    table = as_predictions(block_result(crops, logits, -logits), "baseline", Cell("pgd", 0.5, 20))
    assert table.schema.names == PREDICTION_SCHEMA.names
    assert table.cast(PREDICTION_SCHEMA).to_pylist()[4] == {
        "model": "baseline", "attack": "pgd", "epsilon": 0.5, "video_id": "d/real/0", "frame_index": 3, "label": 0,
        "method": "real", "identities": ["d:x"], "clean": 4.0, "adversarial": -4.0}


def test_max_frames_and_plan_agree(extracted):
    (block,) = plan_blocks(read_status(extracted, RUN), split="test", block_size=8, max_frames=2)
    crops, _ = read_block(extracted, RUN, block, size=16, max_frames=2)
    assert len(crops) == block.crops == 4


def test_of_everybody_each_person_has_their_frames_and_the_subject_the_same_as_alone(local_storage):
    frames = {("d/fine/0", 0): (0, 3, 6, 9), ("d/fine/0", 1): (1, 3, 12), ("d/real/0", 0): (2,)}
    faces = [
        {"video_id": video_id, "dataset": "d", "frame_index": frame, "timestamp_s": 0.0, "box": [0.0] * 4,
         "landmarks": [0.0] * 10, "score": 1.0, "track": track, "label": int("fine" in video_id),
         "method": video_id.split("/")[1], "identities": ["d:x"], "split": "test", "height": 20, "width": 20,
         "image": encode_image(np.full((20, 20, 3), 10 * frame + track, np.uint8))}
        for (video_id, track), indices in frames.items() for frame in indices]
    rows = [status_row("d/fine/0", frames=4, people=2), status_row("d/real/0", frames=1, people=1)]
    write_shard(local_storage, RUN, shard_key("d", ["d/fine/0", "d/real/0"], "f"), faces, rows)
    status = read_status(local_storage, RUN)
    (alone,), (together,) = (
        plan_blocks(status, split="test", block_size=9, max_frames=2, everybody=people) for people in (False, True))
    assert (alone.crops, together.crops) == (3, 5) and alone.content != together.content
    crops, pixels = read_block(local_storage, RUN, together, size=16, max_frames=2, everybody=True)
    keys = list(zip(*(crops.column(name).to_pylist() for name in ("video_id", "frame_index", "track"))))
    assert keys == [("d/fine/0", 1, 1), ("d/fine/0", 3, 0), ("d/fine/0", 9, 0), ("d/fine/0", 12, 1), ("d/real/0", 2, 0)]
    assert pixels[:, 0, 0, 0].tolist() == [11, 30, 90, 121, 20]
    subject, its_pixels = read_block(local_storage, RUN, alone, size=16, max_frames=2)
    chosen = [number for number, key in enumerate(keys) if key[2] == 0]
    assert subject.equals(crops.take(chosen).drop_columns("track")) and np.array_equal(its_pixels, pixels[chosen])
    assert len(plan_blocks(status, split="test", block_size=4, max_frames=2, everybody=True)) == 2


def test_a_damaged_crop_is_named(extracted, monkeypatch):
    (block,) = plan_blocks(read_status(extracted, RUN), split="test", block_size=8)

    def refuse(data):
        raise ValueError("12 bytes are not an image")

    monkeypatch.setattr("robust.evaluation.blocks.decode_image", refuse)
    with pytest.raises(UserError, match="d/fine/0 frame 0 is damaged"):
        read_block(extracted, RUN, block, size=16)
