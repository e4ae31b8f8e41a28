"""What is written is what is read; what is not committed is not there."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robust.data import shards
from robust.data.face_table import read_faces, videos_by_shard
from robust.data.images import decode_image, encode_image
from robust.data.shards import FACE_SCHEMA, STATUS_SCHEMA, face_key, read_status, shard_key, status_key, write_shard
from robust.errors import UserError


def image(seed, height=12, width=10):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def face(video_id, frame, split):
    return {
        "video_id": video_id, "dataset": "d", "frame_index": frame, "timestamp_s": frame / 20, "box": [1, 2, 3, 4.5],
        "landmarks": list(range(10)), "window": [1, 2, 11, 14], "matrix": None,
        "score": 0.5, "sharpness": 100.0, "yaw": -5.0, "track": 0, "label": 1, "method": "m", "identities": ["d:a", "d:b"],
        "split": split, "image": encode_image(image(frame)), "height": 12, "width": 10,
    }


def status(video_id, frames, split, **changes):
    return {
        "video_id": video_id, "uri": f"file/{video_id}", "dataset": "d", "method": "m", "label": 1,
        "identities": ["d:a", "d:b"], "split": split,
        "status": "ok" if frames else "no_face", "reason": "", "frames_asked": 8, "frames_decoded": 8,
        "frames_found": frames, "source_bytes": 5, "source_etag": None, "fingerprint": "f", **changes,
    }


def write(storage, video_ids, *, split="train", frames=4, run="run"):
    shard = shard_key("d", video_ids, "f")
    faces = [face(video_id, 2 * frame, split) for video_id in video_ids for frame in range(frames)]
    return write_shard(storage, run, shard, faces[::-1], [status(video_id, frames, split) for video_id in video_ids])


def test_images_come_back():
    smooth = np.stack([np.add.outer(np.arange(40), 3 * np.arange(50)) % 200] * 3, -1).astype(np.uint8)
    for one in (smooth, image(1)):
        for lossless in ("png", "webp"):
            assert np.array_equal(decode_image(encode_image(one, image_format=lossless)), one)
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    red[:, ::2, 1] = 100  # one-pixel colour stripes survive only without chroma subsampling
    assert np.abs(decode_image(encode_image(red, image_format="jpeg", jpeg_quality=100)).astype(int) - red).max() <= 4


def test_images_that_are_none_are_refused():
    with pytest.raises(ValueError, match="not empty"):
        encode_image(np.zeros((0, 5, 3), np.uint8))
    with pytest.raises(ValueError, match="95 or more"):
        encode_image(image(0), image_format="jpeg", jpeg_quality=90)
    with pytest.raises(ValueError, match="'gif'"):
        encode_image(image(0), image_format="gif")
    for data in (b"", b"no image"):
        with pytest.raises(ValueError, match="not an image"):
            decode_image(data)


def test_the_key_depends_on_videos_and_settings_only():
    key = shard_key("d", ["b", "a"], "f")
    assert key == shard_key("d", ["a", "b"], "f") and key.startswith("d/")
    assert len({key, shard_key("d", ["a"], "f"), shard_key("d", ["a", "b"], "g"), shard_key("e", ["a", "b"], "f")}) == 4


def test_a_shard_comes_back_ordered_with_the_schema(storage):
    write(storage, ["d/m/2", "d/m/1"])
    write(storage, ["d/m/0", "d/m/3"])
    table = read_faces(storage, "run")
    assert table.schema.equals(FACE_SCHEMA)
    pairs = list(zip(table.column("video_id").to_pylist(), table.column("frame_index").to_pylist()))
    assert pairs == [(f"d/m/{i}", 2 * frame) for i in range(4) for frame in range(4)]
    row = table.slice(5, 1).to_pylist()[0]
    assert row == face("d/m/1", 2, "train")
    table = read_status(storage, "run")
    assert table.schema.equals(STATUS_SCHEMA) and table.column("video_id").to_pylist() == [f"d/m/{i}" for i in range(4)]


def test_split_columns_and_frames_are_chosen(local_storage):
    write(local_storage, ["d/m/0", "d/m/1"], split="train", frames=6)
    test_shard = write(local_storage, ["d/m/2"], split="test")
    local_storage.delete(face_key("run", test_shard))  # a shard of another split is not even opened
    table = read_faces(local_storage, "run", split="train", columns=["label", "frame_index"], max_frames_per_video=3)
    assert table.column_names == ["label", "frame_index"]
    assert table.column("frame_index").to_pylist() == [2, 6, 10] * 2
    assert read_faces(local_storage, "run", split="val").num_rows == 0
    with pytest.raises(UserError, match="run jobs.extract again"):
        read_faces(local_storage, "run", split="test")
    with pytest.raises(ValueError, match="no columns pixels"):
        read_faces(local_storage, "run", columns=["pixels"])


def test_videos_without_a_face_have_a_status_and_no_shard_to_read(local_storage):
    write(local_storage, ["d/m/0"], frames=0)
    assert read_status(local_storage, "run").num_rows == 1
    assert videos_by_shard(read_status(local_storage, "run")) == {}
    assert read_faces(local_storage, "run").schema.equals(FACE_SCHEMA)


def test_nothing_is_there_before_extraction(local_storage):
    assert read_status(local_storage, "run").num_rows == 0 and read_faces(local_storage, "run").num_rows == 0


def test_crops_are_written_before_the_status_that_commits_them(local_storage, monkeypatch):
    order = []
    write_bytes = local_storage.write_bytes

    def recorded(key, data, **options):
        order.append(key)
        return write_bytes(key, data, **options)

    monkeypatch.setattr(local_storage, "write_bytes", recorded)
    shard = write(local_storage, ["d/m/0"])
    assert order == [face_key("run", shard), status_key("run", shard)]
    local_storage.delete(status_key("run", shard))  # as if killed in between
    assert read_faces(local_storage, "run").num_rows == 0


def test_writing_again_gives_the_same_bytes(local_storage):
    shard = write(local_storage, ["d/m/0", "d/m/1"])
    first = [local_storage.read_bytes(key("run", shard)) for key in (face_key, status_key)]
    assert write(local_storage, ["d/m/0", "d/m/1"]) == shard
    assert [local_storage.read_bytes(key("run", shard)) for key in (face_key, status_key)] == first
    assert len(local_storage.list("run")) == 2


def test_a_video_in_two_shards_counts_once(local_storage):
    write(local_storage, ["d/m/0", "d/m/1"])
    write(local_storage, ["d/m/0"])
    assert read_status(local_storage, "run").column("video_id").to_pylist() == ["d/m/0", "d/m/1"]
    assert read_faces(local_storage, "run").num_rows == 8


def test_what_does_not_fit_together_is_refused(local_storage):
    for faces, statuses, message in [
        ([face("d/m/1", 0, "train")], [status("d/m/0", 1, "train")], "no status row"),
        ([face("d/m/0", 0, "train")], [status("d/m/0", 2, "train")], "crops of 1 frames, 2 in the status table"),
        ([face("d/m/0", 0, "train")], [status("d/m/0", 1, "train", label=0)], "label is 1 in the crops, 0 in"),
        ([], [status("d/m/0", 0, "train")] * 2, "two status rows"),
        ([], [status("d/m/0", 0, "train", status="lost")], "unknown status"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_shard(local_storage, "run", "d/x", faces, statuses)
    assert local_storage.list("run") == []


def test_row_groups_let_a_reader_fetch_some_videos_only(local_storage, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_OF_A_GROUP", 4)
    shard = write(local_storage, [f"d/m/{i}" for i in range(5)])
    filesystem, path = local_storage.arrow(face_key("run", shard))
    metadata = pq.ParquetFile(path, filesystem=filesystem).metadata
    assert metadata.num_row_groups == 5
    column = metadata.row_group(2).column(0)
    assert column.path_in_schema == "video_id" and column.statistics.min == column.statistics.max == "d/m/2"
    assert isinstance(FACE_SCHEMA.field("image").type, type(pa.large_binary()))  # 64-bit offsets: past 2 GiB


def test_of_several_writers_of_one_plan_one_commits_and_readers_see_its_crops(storage):
    # Two kinds of processor may give crops that differ in a bit; whoever comes second leaves nothing behind.
    key = shard_key("d", ["d/m/0"], "f")
    first = write_shard(storage, "run", key, [face("d/m/0", 0, "train")], [status("d/m/0", 1, "train")])
    before = {key: storage.read_bytes(key) for key in storage.list("run")}
    other = {**face("d/m/0", 0, "train"), "image": encode_image(image(9))}
    assert write_shard(storage, "run", key, [other], [status("d/m/0", 1, "train")]) == first
    assert {key: storage.read_bytes(key) for key in storage.list("run")} == before
    assert read_faces(storage, "run").column("image").to_pylist() == [face("d/m/0", 0, "train")["image"]]


def test_a_shard_is_taken_back_whole_and_only_once(local_storage):
    shard = write(local_storage, ["d/m/0", "d/m/1"])
    kept = write(local_storage, ["d/m/2"])
    for _ in range(2):
        shards.delete_plan(local_storage, "run", shards.plan_of(shard))
    assert set(read_status(local_storage, "run").column("shard").to_pylist()) == {kept}
    assert len(local_storage.list("run")) == 2


def test_a_shard_of_an_older_version_named_by_its_plan_alone_is_read(local_storage):
    name, crops, _ = shards.encode_shard("d/0123456789abcdef", [face("d/m/0", 0, "train")], [status("d/m/0", 1, "train")])
    table = pa.Table.from_pylist([status("d/m/0", 1, "train", shard="d/0123456789abcdef")], schema=STATUS_SCHEMA)
    table = table.drop_columns("frames_decoded")  # as if that column had come later
    local_storage.write_bytes(face_key("run", "d/0123456789abcdef"), crops)
    local_storage.write_table("run/faces/d/0123456789abcdef.status.parquet", table)
    assert read_faces(local_storage, "run").num_rows == 1
    assert read_status(local_storage, "run").column("frames_decoded").to_pylist() == [None]
    assert shards.plan_of(name) == shards.plan_of("d/0123456789abcdef") == "d/0123456789abcdef"
