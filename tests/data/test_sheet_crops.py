"""Which crops the contact sheet shows: the worst are the worst, the sample is fair and repeatable, reading is bounded."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robust.data import shards as shard_module
from robust.data.images import decode_image, encode_image
from robust.data.shard_file import ShardFile
from robust.data.shards import face_key, shard_key, write_shard
from robust.data.sheet_crops import Bounds, Group, sample_crops
from robust.data.sheet_pictures import PICTURE_BYTES, PICTURE_SIDE, small_webp
from robust.errors import UserError
from tests.data.test_shards import face, status

REAL, FAKE = Group("train", 0, "d", "m"), Group("train", 1, "d", "f")
FRAMES = 4


def write(storage, number: int, videos: dict[str, Group], **changes) -> tuple[str, dict[str, Group]]:
    """A shard with FRAMES crops a video; `changes` of a crop are functions of its video's and its frame's number."""
    faces, statuses = [], []
    for place, (video_id, group) in enumerate(videos.items()):
        facts = {"label": group.label, "method": group.method, "split": group.split}
        for frame in range(FRAMES):
            faces.append({**face(video_id, frame, group.split), **facts,
                          **{name: change(100 * number + place, frame) for name, change in changes.items()}})
        statuses.append({**status(video_id, FRAMES, group.split), **facts})
    return write_shard(storage, "r", shard_key("d", list(videos), str(number)), faces, statuses), videos


def some(storage, count: int = 3, **changes) -> dict[str, dict[str, Group]]:
    """Shards of four videos each, two real and two fake."""
    return dict(write(storage, number, {f"d/{group.method}/{number}{letter}": group for letter, group in
                                        (("a", REAL), ("b", REAL), ("c", FAKE), ("d", FAKE))}, **changes)
                for number in range(count))


def sample(storage, written, *, seed=0, groups=(REAL, FAKE), **bounds):
    return sample_crops(storage, "r", written, groups, seed=seed, bounds=Bounds(**bounds))


def test_the_worst_detections_are_the_worst_one_a_video(local_storage):
    # Video v of shard s has the number 100 s + v; frame 2 is its worst.
    shards = some(local_storage,
                  score=lambda video, frame: 0.9 + 0.0001 * video - 0.01 * (frame == 2),
                  box=lambda video, frame: [10, 20, 10 + 40 + video, 20 + 90 + video * 10 - 30 * (frame == 2)],
                  sharpness=lambda video, frame: None if video == 0 else 500.0 - video,
                  yaw=lambda video, frame: 90.0 if video == 0 else -0.1 * video)
    worst = sample(local_storage, shards, worst=3).worst
    names = {name: [(one.crop.video_id, one.crop.frame_index) for one in shown] for name, shown in worst.items()}
    assert names["score"] == [("d/m/0a", 2), ("d/m/0b", 2), ("d/f/0c", 2)]
    assert names["size"] == names["score"] and worst["size"][0].crop.size == pytest.approx((40 * 60) ** 0.5)
    assert [video_id for video_id, _ in names["sharpness"]] == ["d/f/2d", "d/f/2c", "d/m/2b"]
    assert [one.crop.yaw for one in worst["yaw"]] == pytest.approx([90, -20.3, -20.2])


def test_pictures_are_those_of_the_chosen_crops_with_their_landmarks(local_storage):
    def grey(video, frame):
        return encode_image(np.full((60, 40, 3), 20 * (video % 100) + 40 * (video // 100) + 3 * frame, np.uint8))

    size = {"height": lambda *_: 60, "width": lambda *_: 40}
    shards = some(local_storage, image=grey, landmarks=lambda *_: [10.5, 20] * 5, window=lambda *_: [0, 10, 40, 70], **size)
    result = sample(local_storage, shards)
    shown = [one for crops in [*result.groups.values(), *result.worst.values()] for one in crops]
    assert len(shown) >= 24 + 12
    for one in shown:
        shard = int(one.crop.video_id[-2])
        wanted = 20 * "abcd".index(one.crop.video_id[-1]) + 40 * shard + 3 * one.crop.frame_index
        assert abs(decode_image(one.picture.webp).mean() - wanted) < 1.5
        assert np.allclose(one.picture.points, [(11 / 40, 10.5 / 60)] * 5)
        assert one.crop.group == (FAKE if one.crop.video_id.startswith("d/f/") else REAL)


def test_a_sample_takes_each_video_before_a_second_frame_and_depends_on_the_seed_alone(local_storage):
    shards = some(local_storage, 4)

    def chosen(seed, **bounds):
        groups = sample(local_storage, shards, seed=seed, **bounds).groups
        return {group: [(one.crop.video_id, one.crop.frame_index) for one in shown] for group, shown in groups.items()}

    first = chosen(0, crops_of_group=8)
    assert [len({video for video, _ in pairs}) for pairs in first.values()] == [8, 8]  # all eight videos of a group
    assert chosen(0, crops_of_group=8) == first and chosen(1, crops_of_group=8) != first
    assert {frame for seed in range(8) for _, frame in chosen(seed, crops_of_group=8)[REAL]} == set(range(FRAMES))
    more = chosen(0, crops_of_group=12)
    assert [len(set(pairs)) for pairs in more.values()] == [12, 12]
    assert [len(pairs) for pairs in chosen(0, crops=6).values()] == [3, 3]


def test_what_is_read_is_bounded_however_many_shards_there_are(local_storage, monkeypatch):
    monkeypatch.setattr(shard_module, "ROWS_OF_A_GROUP", 4)
    shards = some(local_storage, 30)
    opened, looked_at, fetched = set(), [], []
    read, init = ShardFile.read, ShardFile.__init__

    def counted_init(self, storage, run, shard):
        opened.add(shard)
        init(self, storage, run, shard)

    def counted_read(self, groups, columns):
        (fetched if "image" in columns else looked_at).extend((self.shard, number) for number in groups)
        return read(self, groups, columns)

    monkeypatch.setattr(ShardFile, "__init__", counted_init)
    monkeypatch.setattr(ShardFile, "read", counted_read)
    result = sample(local_storage, shards, shards=5, crops_seen=40, row_groups=4, worst=2)
    assert len(opened) == result.shards == 5
    assert len(looked_at) == len(set(looked_at)) == 10 and result.seen == 40  # of 120 row groups, and both groups in each shard
    assert len(fetched) == len(set(fetched)) <= 4 + 4 * 2
    assert all(result.groups.values()) and all(result.worst.values()) and result.left_out == 0
    fetched.clear()
    sample(local_storage, shards, shards=5, crops_seen=400, row_groups=4, worst=1)
    assert len(set(fetched)) <= 4 + 4 < len(looked_at)
    fetched.clear()
    dear = sample(local_storage, shards, shards=5, crops_seen=40, row_groups=4, worst=2, image_bytes=1)
    assert len(fetched) == 1 and dear.left_out > 0
    assert sample(local_storage, shards, groups=(FAKE,), shards=5).groups.keys() == {FAKE}


def test_older_shards_and_damaged_crops_have_a_place_and_lost_shards_are_told(local_storage):
    shards = some(local_storage, 1)
    (shard,) = shards
    table = pq.read_table(io.BytesIO(local_storage.read_bytes(face_key("r", shard)))).drop_columns(["sharpness", "yaw"])
    images = [b"no image" if place == 0 else image for place, image in enumerate(table.column("image").to_pylist())]
    table = table.set_column(table.schema.get_field_index("image"), "image", pa.array(images, pa.large_binary()))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    local_storage.write_bytes(face_key("r", shard), sink.getvalue())
    result = sample(local_storage, shards)
    assert result.worst["yaw"] == result.worst["sharpness"] == [] and len(result.worst["score"]) == 4
    assert [one.picture.webp is None for one in result.groups[FAKE]].count(True) == 1
    local_storage.delete(face_key("r", shard))
    with pytest.raises(UserError, match=shard):
        sample(local_storage, shards)


def test_no_group_and_no_face_give_an_empty_sample(local_storage):
    result = sample(local_storage, {}, groups=(REAL,))
    assert result.groups == {REAL: []} and result.shards == result.seen == 0


def test_pictures_are_small_whatever_they_show():
    noise = np.random.default_rng(0).integers(0, 255, (700, 500, 3)).astype(np.uint8)
    data = small_webp(noise, side=PICTURE_SIDE, most_bytes=PICTURE_BYTES)
    assert len(data) <= PICTURE_BYTES and max(decode_image(data).shape) <= PICTURE_SIDE
    assert decode_image(small_webp(noise[:10, :8], side=128, most_bytes=6000)).shape == (10, 8, 3)
