"""Every kind of damage to a shard or the table is found and named, and sound ones are not."""

import pyarrow as pa
import pytest

from robust.data.rows import VideoRow
from robust.data.shard_check import check_shard, check_table
from robust.data.shards import (
    STATUS_SCHEMA,
    encode_shard,
    face_key,
    plan_of,
    read_committed,
    status_key,
    write_stale,
)
from robust.data.tree import FoundFile
from tests.data.test_shards import face, status, write

VIDEOS = ["d/m/0", "d/m/1"]
ROWS = [VideoRow(video_id, f"file/{video_id}", 1, "d", "m", ("d:a", "d:b"), "train") for video_id in VIDEOS]
FILES = {video_id: FoundFile(5, None) for video_id in VIDEOS}


@pytest.fixture
def shard(local_storage):
    return write(local_storage, VIDEOS)


def test_sound_shards_have_no_findings(storage):
    plans = [plan_of(write(storage, VIDEOS)), plan_of(write(storage, ["d/m/2"], frames=0))]
    assert [check_shard(storage, "run", plan) for plan in plans] == [[], []]


@pytest.mark.parametrize("of", [face_key, status_key])
def test_a_flipped_bit_anywhere_is_found(local_storage, shard, of):
    key = of("run", shard)
    data = local_storage.read_bytes(key)
    for place in range(0, len(data), max(1, len(data) // 60)):
        flipped = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        local_storage.write_bytes(key, flipped)
        found = check_shard(local_storage, "run", plan_of(shard))
        if of is face_key:
            assert found and local_storage.uri(key) in found[0]
        elif not found:  # in the table, a bit of the footer's statistics or padding, which changes no row
            assert read_back(local_storage, key, flipped).equals(read_back(local_storage, key, data))
    local_storage.write_bytes(key, data[:-20])
    assert local_storage.uri(key) in check_shard(local_storage, "run", plan_of(shard))[0]
    local_storage.delete(key)
    assert "is missing" in check_shard(local_storage, "run", plan_of(shard))[0]


def read_back(storage, key, data):
    storage.write_bytes(key, data)
    return storage.read_table(key)


@pytest.mark.parametrize(
    ("faces", "statuses", "finding"),
    [([face("d/m/0", 0, "train")], [status("d/m/0", 1, "test")], "split is train in the crops, test in the status"),
     ([face("d/m/0", 0, "train")], [status("d/m/0", 1, "train", label=0)], "label is 1 in the crops, 0"),
     ([face("d/m/0", 0, "train")], [status("d/m/0", 1, "train", identities=["d:x"])], "identities is")],
)
def test_crops_that_contradict_their_table_are_found(local_storage, faces, statuses, finding):
    right = [status(one["video_id"], one["frames_found"], "train") for one in statuses]  # no writer writes the wrong ones
    name, crops, _ = encode_shard("d/0123456789abcdef", faces, right)
    local_storage.write_bytes(face_key("run", name), crops)
    wrong = pa.Table.from_pylist([{**one, "shard": name} for one in statuses], schema=STATUS_SCHEMA)
    local_storage.write_table(status_key("run", name), wrong)
    (told,) = check_shard(local_storage, "run", plan_of(name))
    assert finding in told and "d/m/0" in told


def test_counts_and_a_table_under_another_name_are_found(local_storage, shard):
    other, crops, table = encode_shard(plan_of(shard), [face("d/m/0", 0, "train")], [status("d/m/0", 1, "train")])
    # The crops of another table, put under the name that the table of two videos tells.
    local_storage.write_bytes(face_key("run", shard), crops)
    assert "is not what was written" in check_shard(local_storage, "run", plan_of(shard))[0]
    local_storage.write_bytes(status_key("run", "d/fedcba9876543210"), table)
    assert "does not belong to its name" in check_shard(local_storage, "run", "d/fedcba9876543210")[0]


def table_findings(storage, rows=ROWS, files=FILES):
    return check_table(read_committed(storage, "run"), rows, fingerprint="f", files=files)


def test_the_table_is_compared_with_the_data_set(local_storage, shard):
    assert table_findings(local_storage) == []
    (missing,) = table_findings(local_storage, [*ROWS, VideoRow("d/m/9", "u", 0, "d", "m", ("d:z",), "train")])
    assert missing == "1 videos have no status row, e.g. d/m/9"
    (gone,) = table_findings(local_storage, ROWS[:1])
    assert "d/m/1" in gone and "no longer in the data set" in gone
    (changed,) = table_findings(local_storage, files={**FILES, "d/m/0": FoundFile(6, None)})
    assert "had 5 bytes, has 6" in changed
    write_stale(local_storage, "run", {(shard, "d/m/1"): "no longer in the data set"})
    assert table_findings(local_storage, ROWS[:1]) == []
    both = table_findings(local_storage)
    assert len(both) == 2 and "no status row" in both[0] and "listed as stale, and agree" in both[1]
    second = write(local_storage, VIDEOS[:1])
    assert any("also in shard" in told for told in table_findings(local_storage, ROWS[:1])) and second
