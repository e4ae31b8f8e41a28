"""jobs/extract_tally.py: what people see of an extraction while its shards are not yet written."""

from types import SimpleNamespace

import pyarrow as pa

from jobs.extract_stages import Decode, DecodeAndDetect, Detect, Write, plan_table
from jobs.extract_tally import TELL_EVERY_S, Tally, Teller, Told
from jobs.video_tasks import tasks_of
from robust.config import ExtractConfig, StorageConfig
from robust.data.rows import VideoRow
from robust.data.shard_plan import plan_shards
from tests import clips


def listening() -> tuple[Tally, SimpleNamespace]:
    """A Tally, and a stand-in for its actor's handle."""
    tally = Tally()
    return tally, SimpleNamespace(add=SimpleNamespace(remote=tally.add))


def status(name: str, *, found: int = 2, state: str = "ok", reason: str = "") -> dict:
    return {"video_id": name, "status": state, "reason": reason, "frames_found": found, "people": 1}


def test_a_video_that_is_done_again_counts_once_and_reasons_that_differ_in_numbers_count_together():
    tally, handle = listening()
    for name, seconds in (("a", 1.0), ("a", 1.0), ("b", 0.5)):
        teller = Teller(handle)
        teller.video(status(name))
        teller.seconds["detect"] += seconds
        teller.tell()
    for name, frames in (("c", 3), ("d", 25)):
        Teller(handle).video(status(name, found=0, state="no_face", reason=f"no face in any of {frames} frames"))
    told = tally.told()
    assert (told.videos, told.faces, told.seconds) == (4, 4, {"detect": 2.5})
    assert told.not_ok == {"no face in any of N frames": 2}


def test_the_note_has_rates_what_works_and_the_most_common_reasons():
    told = Told(120, 2800, {"e": 1, "b": 4, "a": 9, "c": 2}, {"decode": 30.0, "detect": 84.0, "write": 3.0})
    assert told.note(60.0, 2) == ("2 videos/s, 2800 faces, 46.7/s, at work: decode 0.5 + detect 1.4 + write 0.1 of 2 CPUs, "
                                  "16 not ok: 9 a; 4 b; 2 c; 1 other reasons")
    assert Told().note(0.0, 2) == "0 videos/s, 0 faces, 0/s, at work: decode 0.0 + detect 0.0 + write 0.0 of 2 CPUs"


def test_many_small_videos_are_told_together():
    calls = []
    teller = Teller(SimpleNamespace(add=SimpleNamespace(remote=lambda statuses, seconds: calls.append(list(statuses)))))
    for number in range(100):
        teller.video(status(str(number)))
    teller.tell()
    assert sum(map(len, calls)) == 100 and len(calls) <= 2 + 60 / TELL_EVERY_S


def test_videos_count_as_they_are_detected_and_not_when_their_shard_is_written(tmp_path, local_storage):
    rows = []
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(clips.counting(4) if name != "b" else b"")
        rows.append(VideoRow(f"d/m/{name}", str(tmp_path / f"{name}.mp4"), 0, "d", "m", (f"d:{name}",), "train"))
    table = plan_table(plan_shards(rows, videos_per_shard=4, fingerprint="f"), 4)
    (task,) = tasks_of(table, videos_per_shard=4, most=4)
    task = pa.table({"plan": pa.array([task["plan"]], pa.binary())})
    config = ExtractConfig(frames_train=2)

    tally, handle = listening()
    crops = []
    for number, crop in enumerate(DecodeAndDetect(config, StorageConfig(), "f", tell=Teller(handle))(task)):
        crops.append(crop)
        assert number or tally.told().videos == 1
    told = tally.told()
    assert told.videos == 3 and told.not_ok == {"no face in any of N frames": 2, "empty file (N bytes)": 1}
    assert set(told.seconds) == {"decode", "detect"} and min(told.seconds.values()) > 0
    assert local_storage.list("r") == []
    Write(local_storage, "r", Teller(handle))(pa.concat_tables(crops))
    assert tally.told().videos == 3 and tally.told().seconds["write"] > 0

    apart, handle = listening()  # as with a GPU
    decode, detect = Decode(config, StorageConfig(), Teller(handle)), Detect(config, "f", tell=Teller(handle))
    for video in decode(task):
        list(detect(video))
    assert apart.videos == tally.videos and set(apart.seconds) == {"decode", "detect"}
