"""Rows that no longer count: marked without touching a shard, removed on request, and a removal may be killed anywhere."""

import pytest

from robust.data.face_table import read_faces
from robust.data.shards import face_key, plan_of, read_committed, read_status, stale_key, status_key
from robust.data.stale import describe_stale, mark_stale, remove_stale
from tests.data.test_shards import write


def objects(storage):
    return {key: storage.read_bytes(key) for key in storage.list("run")}


@pytest.fixture
def shards(local_storage):
    """Two shards of three videos each; all of the second's and one of the first's are stale."""
    first = write(local_storage, ["d/m/0", "d/m/1", "d/m/2"])
    second = write(local_storage, ["d/m/3", "d/m/4", "d/m/5"])
    gone = {(second, f"d/m/{number}"): "no longer in the data set" for number in (3, 4, 5)}
    stale = {(first, "d/m/1"): "its file had 5 bytes, has 6", **gone}
    return first, second, stale


def test_marking_hides_rows_and_touches_no_shard(local_storage, shards):
    _, _, stale = shards
    before = objects(local_storage)
    committed = mark_stale(local_storage, "run", read_committed(local_storage, "run"), stale)
    after = objects(local_storage)
    assert set(after) - set(before) == {stale_key("run")} and before.items() <= after.items()
    for status in (committed.current(), read_status(local_storage, "run")):
        assert status.column("video_id").to_pylist() == ["d/m/0", "d/m/2"]
    assert set(read_faces(local_storage, "run").column("video_id").to_pylist()) == {"d/m/0", "d/m/2"}
    # What counts again is seen again, and the list goes with the last row on it.
    mark_stale(local_storage, "run", read_committed(local_storage, "run"), {})
    assert objects(local_storage) == before and read_status(local_storage, "run").num_rows == 6


def test_nothing_is_written_when_the_list_is_right(local_storage, shards, monkeypatch):
    mark_stale(local_storage, "run", read_committed(local_storage, "run"), shards[2])
    monkeypatch.setattr(local_storage, "write_bytes", lambda *_, **__: pytest.fail("written"))
    mark_stale(local_storage, "run", read_committed(local_storage, "run"), shards[2])


def test_removing_leaves_what_counts_and_nothing_else(storage):
    first = write(storage, ["d/m/0", "d/m/1", "d/m/2"])
    second = write(storage, ["d/m/3"])
    storage.write_bytes(face_key("run", "d/0123456789abcdef-0123456789abcdef"), b"of a killed job")
    mark_stale(storage, "run", read_committed(storage, "run"), {(first, "d/m/1"): "r", (second, "d/m/3"): "r"})
    kept = read_faces(storage, "run")
    removed = remove_stale(storage, "run")
    assert (removed.rows, removed.shards, removed.rewritten, removed.leftovers) == (2, 1, 1, 1)
    assert read_faces(storage, "run").equals(kept)
    committed = read_committed(storage, "run")
    (shard,) = set(committed.table.column("shard").to_pylist())
    assert plan_of(shard) == plan_of(first) and shard != first
    assert sorted(committed.keys) == sorted([face_key("run", shard), status_key("run", shard)])
    assert remove_stale(storage, "run") == type(removed)(0, 0, 0, 0)


def test_a_removal_reads_each_status_table_once(local_storage, shards, monkeypatch):
    mark_stale(local_storage, "run", read_committed(local_storage, "run"), shards[2])
    read, real = [], local_storage.read_bytes
    monkeypatch.setattr(local_storage, "read_bytes", lambda key: read.append(key) or real(key))
    remove_stale(local_storage, "run")
    assert sorted(key for key in read if key.endswith(".status.parquet")) == sorted(
        status_key("run", shard) for shard in shards[:2])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", range(7))
def test_a_removal_killed_at_any_write_is_finished_by_the_next(local_storage, shards, monkeypatch, step):
    mark_stale(local_storage, "run", read_committed(local_storage, "run"), shards[2])
    kept, left = read_faces(local_storage, "run"), [step]

    def limited(action):
        def run(*arguments, **options):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return action(*arguments, **options)
        return run

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "delete"):
            patch.setattr(local_storage, name, limited(getattr(local_storage, name)))
        try:
            remove_stale(local_storage, "run")
            assert step == 6  # so many writes and deletions it takes: crops, table, old crops; table, crops; the list
        except Killed:
            pass
    assert read_faces(local_storage, "run").equals(kept)  # at every moment
    remove_stale(local_storage, "run")
    assert read_faces(local_storage, "run").equals(kept)
    assert len(read_committed(local_storage, "run").keys) == 2


def test_reasons_are_told_with_counts_and_examples(shards):
    told = describe_stale(shards[2])
    assert told[0].startswith("3 status rows no longer count, no longer in the data set: d/m/3 in ")
    assert "1 status rows no longer count, the file was changed: d/m/1" in told[1] and "has 6" in told[1]
    assert told[-1].startswith("python -m jobs.extract --remove-stale") and describe_stale({}) == []
