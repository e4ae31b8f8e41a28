"""jobs.extract on a local Ray: every file has its row, nothing is done twice, a kill loses nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from cluster.local import LocalCluster
from jobs import extract as job
from jobs import extract_sheet, extract_verify
from jobs.actor_pool import Pool
from jobs.extract import extract, extract_and_remove_stale, pool_of
from jobs.extract_stages import CROPS_SCHEMA, Decode, DecodeAndDetect, Detect, Write, plan_table, rows_of_a_shard
from jobs.extract_tally import STAGES, Watch
from jobs.run_folder import RunFolder
from jobs.video_tasks import tasks_of
from robust.config import Config, ExtractConfig, StorageConfig
from robust.config_file import parse
from robust.config_identity import dump_yaml
from robust.data.face_table import read_faces
from robust.data.rows import VideoRow
from robust.data.shard_plan import plan_shards, videos_of_a_shard
from robust.data.shards import read_committed, read_status
from robust.data.video import read_frames
from robust.errors import UserError
from robust.storage import Storage
from tests import clips

ROOT = Path(__file__).resolve().parents[2]
GOOD = 8  # of each label


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder data set: good clips of a real face, and one of everything that goes wrong."""
    root = tmp_path_factory.mktemp("videos")
    frames = read_frames(clips.real_face(), count=36, name="face").frames[:, :, 120:480]
    for label in ("real", "fake"):
        (root / label).mkdir()
        for number in range(GOOD):
            start = 2 * number + (label == "fake")
            (root / label / f"good{number}.mp4").write_bytes(clips.clip(frames[start:start + 16], gop=4))
    good = clips.clip(frames[:30], gop=4)
    (root / "real" / "truncated.mp4").write_bytes(good[: int(0.7 * len(good))])
    (root / "real" / "empty.mp4").write_bytes(b"")
    (root / "fake" / "audio.mp4").write_bytes(clips.audio_only())
    (root / "fake" / "no_face.mp4").write_bytes(clips.counting(30))
    return root


def config_of(videos: Path, storage: Path, **extract_settings):
    return parse({
        "run": {"name": "r"},
        "storage": {"uri": str(storage)},
        "cluster": {"address": "local", "num_cpus": 2, "object_store_memory_mb": 100,
                    "outputs": str(storage.parent / "out")},
        "data": {"datasets": [{"layout": "folder", "uri": str(videos), "name": "own"}]},
        "extract": {"frames_train": 3, "frames_test": 2, "min_face": 60, "detect_cpus": 1, "detect_actors": 1,
                    "videos_per_shard": 4, **extract_settings},
    })


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    config = config_of(Path("unused"), tmp_path_factory.mktemp("cluster") / "storage")
    with LocalCluster(config):
        yield


def objects(storage: Storage) -> dict[str, bytes]:
    """Shards and tables; the contact sheet follows them."""
    return {key: storage.read_bytes(key) for key in storage.list("r/faces") if not key.endswith(".html")}


@pytest.mark.cluster
def test_every_file_ends_in_the_status_table_and_a_second_run_does_nothing(cluster, videos, tmp_path, monkeypatch):
    config = config_of(videos, tmp_path / "storage")
    storage = Storage.from_config(config.storage)
    watches = []
    monkeypatch.setattr(job, "Watch", lambda *arguments: watches.append(Watch(*arguments)) or watches[0])
    result = extract(config, storage)
    require_watched(watches[0], result)

    status = {row["video_id"]: row for row in read_status(storage, "r").to_pylist()}
    assert len(status) == 2 * GOOD + 4 == result["videos"] == result["extracted_now"]
    for label in ("real", "fake"):
        for number in range(GOOD):
            row = status[f"own/{label}/good{number}"]
            asked = 2 if row["split"] == "test" else 3
            assert row["status"] == "ok" and row["frames_found"] == row["frames_asked"] == asked
    bad = {key.rpartition("/")[2]: (row["status"], row["reason"]) for key, row in status.items() if "good" not in key}
    assert bad["empty"] == ("unreadable", "empty file (0 bytes)")
    assert bad["audio"] == ("unreadable", "no video stream: audio only")
    assert bad["truncated"][0] == "partial" and "of about 30 frames are good" in bad["truncated"][1]
    assert bad["no_face"][0] == "no_face" and bad["no_face"][1].startswith("no face in any of")
    assert sorted(tuple(entry[1:]) for entry in result["not_ok"]) == sorted(bad.values())
    assert result["by_status"] == {"ok": 2 * GOOD, "partial": 1, "no_face": 1, "unreadable": 2}

    faces = read_faces(storage, "r", columns=["video_id", "label", "split"]).to_pylist()
    assert len(faces) == result["faces"] == sum(row["frames_found"] for row in status.values())
    assert all(face["split"] == status[face["video_id"]]["split"] for face in faces)

    before = objects(storage)
    monkeypatch.setattr(job, "run_pipeline", lambda *_: pytest.fail("the second run had nothing to do"))
    again = extract(config, storage)
    assert again["extracted_now"] == 0 and objects(storage) == before
    assert {**again, "extracted_now": 0, "summary": ""} == {**result, "extracted_now": 0, "summary": ""}


def require_watched(watch, result):
    """The figures of the progress line came from all stages, and outlive the actor that counts them."""
    deadline = time.monotonic() + 60
    while (watch.last.videos, watch.last.seconds.keys()) != (result["videos"], set(STAGES)) and time.monotonic() < deadline:
        watch.poll()
    assert watch.last.videos == result["videos"] and watch.last.faces == result["faces"]
    assert sum(watch.last.not_ok.values()) == len(result["not_ok"]) and min(watch.last.seconds.values()) > 0
    before = watch.last
    ray.kill(watch.actor, no_restart=True)
    assert watch.poll()[0] == result["videos"] and watch.last == before


@pytest.mark.cluster
def test_what_is_missing_is_done_anew_and_comes_out_the_same(cluster, videos, tmp_path):
    # The state after a kill: some shards there, one without its commit. The second job decodes on CPU tasks and
    # detects in actors apart from them, as with a GPU; the shards must be the very same.
    config = config_of(videos, tmp_path / "storage")
    storage = Storage.from_config(config.storage)
    extract(config, storage)
    whole = objects(storage)
    commits = [key for key in whole if key.endswith(".status.parquet")]
    storage.delete(commits[0])
    for key in commits[1], commits[1].replace(".status", ""):
        storage.delete(key)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(Pool, "work", separate_stages)
        result = extract(config, storage)
    assert 1 <= result["extracted_now"] <= 8
    assert objects(storage) == whole


def separate_stages(pool, videos, actors, *, whole, decode, rest):
    options = dict(batch_size=None, batch_format="pyarrow", num_cpus=0.5)
    kind, arguments = rest
    return videos.map_batches(decode, **options).map_batches(
        kind, fn_constructor_args=arguments, compute=ray.data.ActorPoolStrategy(size=1), **options)


@pytest.mark.cluster
@pytest.mark.fault
def test_a_job_killed_on_the_way_is_finished_by_the_next_with_each_video_once(videos, tmp_path):
    config = config_of(videos, tmp_path / "storage", videos_per_shard=2)
    storage = Storage.from_config(config.storage)
    settings = tmp_path / "config.yaml"
    settings.write_text(dump_yaml(config))
    command = [sys.executable, "-m", "jobs.extract", "--config", str(settings)]
    job_process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while read_status(storage, "r").num_rows == 0:  # until the first shard is committed
            assert job_process.poll() is None, "the job ended before it could be killed"
            time.sleep(0.05)
    finally:
        os.killpg(job_process.pid, signal.SIGKILL)
        job_process.wait()
    done = read_status(storage, "r").num_rows
    assert done < 2 * GOOD + 4

    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    result = storage.read_json("r/faces/result.json")
    assert result["videos"] == 2 * GOOD + 4 and 0 < result["extracted_now"] <= result["videos"] - done
    shards = [key for key in storage.list("r/faces") if key.endswith(".status.parquet")]
    committed = [row["video_id"] for key in shards for row in storage.read_table(key).to_pylist()]
    assert len(committed) == len(set(committed)) == result["videos"]


# ---------------------------------------------------------------------------------------------------- without Ray


def planned(tmp_path, names, size):
    rows = [VideoRow(f"d/m/{name}", str(tmp_path / f"{name}.mp4"), 0, "d", "m", (f"d:{name}",), "train")
            for name in names]
    return plan_shards(rows, videos_per_shard=size, fingerprint="f")


def batches(tasks):
    return [pa.table({"plan": pa.array([task["plan"]], pa.binary())}) for task in tasks]


@pytest.mark.parametrize(("size", "most", "expected"), [(64, 16, 16), (64, 15, 8), (25, 16, 5), (61, 16, 1), (4, 0, 1)])
def test_tasks_divide_shards_evenly(tmp_path, size, most, expected):
    table = plan_table(planned(tmp_path, [f"{i:03d}" for i in range(70)], size), size)
    tasks = tasks_of(table, videos_per_shard=size, most=most)
    assert len(table) % size == 0 and len(tasks) == len(table) // expected and size % expected == 0


def test_stages_together_or_apart_give_the_same_shard(tmp_path, local_storage):
    (tmp_path / "a.mp4").write_bytes(clips.real_face().read_bytes())
    (tmp_path / "b.mp4").write_bytes(b"")
    config = ExtractConfig(frames_train=2, min_face=60)
    plans = planned(tmp_path, "ab", 3)
    tasks = batches(tasks_of(plan_table(plans, 3), videos_per_shard=3, most=3))
    apart = Detect(config, "f")
    crops = [crop for task in tasks for video in Decode(config, StorageConfig())(task) for crop in apart(video)]
    together = [crop for task in tasks for crop in DecodeAndDetect(config, StorageConfig(), "f")(task)]
    assert pa.concat_tables(crops).equals(pa.concat_tables(together)) and crops[0].schema.equals(CROPS_SCHEMA)
    statuses = Write(local_storage, "r")(pa.concat_tables(crops)).to_pylist()
    assert [(row["video_id"], row["status"]) for row in statuses] == [("d/m/a", "ok"), ("d/m/b", "unreadable")]
    assert read_faces(local_storage, "r").num_rows == 2


@pytest.mark.parametrize(("count", "size", "rows"), [
    (70, 64, 64), (5, 64, 8), (64, 64, 64), (9, 25, 16), (20, 25, 25), (1, 64, 1)])
def test_a_small_set_is_not_filled_up_to_a_whole_shard(tmp_path, count, size, rows):
    plans = planned(tmp_path, [f"{i:03d}" for i in range(count)], size)
    assert rows_of_a_shard(plans, most=size) == rows
    table = plan_table(plans, rows)
    assert len(table) == rows * len(plans) and sum(map(bool, table.column("video_id").to_pylist())) == count


def test_shards_of_a_size_of_the_jobs_choice_are_the_same_after_a_kill_and_a_run_of_64_goes_on_with_it(
        in_process, small_set, tmp_path):
    config = config_of(small_set, tmp_path / "storage", videos_per_shard=64)
    chosen = config_of(small_set, tmp_path / "storage", videos_per_shard=None)
    storage = Storage.from_config(config.storage)
    RunFolder(storage, config).open("extract")
    extract(config, storage)
    whole = objects(storage)
    RunFolder(storage, chosen).open("extract")
    assert extract(chosen, storage)["extracted_now"] == 0
    lost = sorted(key for key in whole if key.endswith(".status.parquet"))[0]
    storage.delete(lost)
    assert extract(chosen, storage)["extracted_now"] == len(in_process[-1]) > 0
    assert objects(storage) == whole


def test_a_part_of_a_shard_is_never_written(tmp_path, local_storage):
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    plans = planned(tmp_path, "abc", 2)
    stage = DecodeAndDetect(ExtractConfig(), StorageConfig(), "f")
    tasks = batches(tasks_of(plan_table(plans, 2), videos_per_shard=2, most=1))
    crops = [crop for task in tasks for crop in stage(task)]
    assert len(crops) == 4  # the last of them fills the second shard
    for wrong in (crops[:1], crops[1:3], crops[:3]):
        with pytest.raises(RuntimeError, match="written as a whole"):
            Write(local_storage, "r")(pa.concat_tables(wrong))
    assert local_storage.list("r") == []
    for right in (crops[:2], crops[2:]):
        Write(local_storage, "r")(pa.concat_tables(right))
    assert read_status(local_storage, "r").num_rows == 3


@pytest.fixture
def in_process(monkeypatch):
    """The real stages one after another in this process; returns the video ids that each extraction has decoded."""
    decoded = []

    def run_pipeline(plans, config, storage, settings):
        decoded.append([row.video_id for one in plans for row in one.rows])
        size = rows_of_a_shard(plans, most=videos_of_a_shard(config.extract))
        stage, write = DecodeAndDetect(config.extract, config.storage, settings), Write(storage, config.run.name)
        for task in batches(tasks_of(plan_table(plans, size), videos_per_shard=size, most=size)):
            write(pa.concat_tables(stage(task)))

    monkeypatch.setattr(job, "run_pipeline", run_pipeline)
    monkeypatch.setattr(extract_verify, "check_shards", lambda storage, run, plans: {
        plan: found for plan, found in extract_verify.check_some(storage, run, plans) if found})
    return decoded


@pytest.fixture
def small_set(tmp_path) -> Path:
    """Twelve videos without a face, each of a person of its own."""
    for label in ("real", "fake"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "videos" / label / f"{number}.mp4").write_bytes(clips.counting(4 + number))
    return tmp_path / "videos"


def committed_rows(storage) -> dict[str, list[str]]:
    """The shards of every video, over all status tables."""
    shards: dict[str, list[str]] = {}
    for row in read_committed(storage, "r").table.to_pylist():
        shards.setdefault(row["video_id"], []).append(row["shard"])
    return shards


def test_only_new_and_changed_videos_are_done_and_what_is_stale_stays_until_it_is_asked_for(in_process, small_set, tmp_path):
    config = config_of(small_set, tmp_path / "storage")
    storage = Storage.from_config(config.storage)
    RunFolder(storage, config).open("extract")
    extract(config, storage)
    first, before = committed_rows(storage), objects(storage)
    changed, touched, gone = (small_set / name for name in ("real/1.mp4", "real/2.mp4", "real/3.mp4"))
    changed.write_bytes(clips.counting(9))
    os.utime(touched, ns=(0, 0))
    gone.unlink()
    with pytest.raises(UserError, match="1 findings in .* run jobs.extract again"):
        extract_verify.verify(config, storage)
    result = extract(config, storage)
    redone = set(in_process[1])
    assert {"own/real/1", "own/real/2"} <= redone and "own/real/3" not in redone
    # A video that goes may move others to another split; whoever kept its split, label and file is not touched.
    assert all(first[video_id] == shards[:1] for video_id, shards in committed_rows(storage).items() if video_id not in redone)
    assert before.items() <= objects(storage).items()  # nothing was removed or rewritten
    status = {row["video_id"]: row for row in read_status(storage, "r").to_pylist()}
    assert set(status) == set(first) - {"own/real/3"}
    assert status["own/real/1"]["frames_decoded"] == min(9, status["own/real/1"]["frames_asked"])
    assert status["own/real/1"]["source_bytes"] == changed.stat().st_size
    assert result["extracted_now"] == len(redone) and result["stale"]["no longer in the data set"] == 1
    assert result["stale"]["the file was changed"] >= 1 and "--remove-stale" in result["summary"]
    assert any("own/real/3 in" in told for told in result["problems"]["extraction"])
    assert extract_verify.verify(config, storage)["stale"] == result["stale"]

    again = extract(config, storage)
    assert again["extracted_now"] == 0 and len(in_process) == 2
    kept = read_status(storage, "r").drop_columns("shard")
    removed = extract_and_remove_stale(config, storage)
    assert removed["removed"]["rows"] == sum(result["stale"].values()) and removed["stale"] == {}
    assert read_status(storage, "r").drop_columns("shard").equals(kept)
    assert all(len(shards) == 1 for shards in committed_rows(storage).values())
    assert extract(config, storage)["extracted_now"] == 0 and extract_verify.verify(config, storage)["stale"] == {}

    new = small_set / "fake" / "new.mp4"  # and a file that becomes what it was
    new.write_bytes(clips.counting(5))
    extract(config, storage)
    assert "own/fake/new" in in_process[-1]
    assert extract_verify.verify(config, storage)["videos"] == 12


def test_the_contact_sheet_is_made_again_only_when_the_table_changed(in_process, small_set, tmp_path, monkeypatch, capsys):
    config = config_of(small_set, tmp_path / "storage", videos_per_shard=1)
    storage, made = Storage.from_config(config.storage), []
    RunFolder(storage, config).open("extract")
    with pytest.raises(UserError, match="nothing is extracted yet"):
        extract_sheet.make_sheet(config, storage)
    make = extract_sheet.contact_sheet
    monkeypatch.setattr(extract_sheet, "contact_sheet", lambda *arguments: made.append(1) or make(*arguments))
    extract(config, storage)
    page = storage.read_bytes("r/faces/sheet.html")
    assert b"own/fake/0<br>" in page and b"data:image/webp" in page  # no face, but frames
    extract(config, storage)
    assert len(made) == 1
    assert storage.uri("r/faces/sheet.html") in extract_sheet.make_sheet(config, storage)["summary"]
    assert len(made) == 2 and storage.read_bytes("r/faces/sheet.html") == page
    (small_set / "real" / "1.mp4").write_bytes(b"")
    extract(config, storage)
    assert len(made) == 3 and b"empty file" in storage.read_bytes("r/faces/sheet.html")
    assert extract_verify.verify(config, storage)["uncommitted"] == 0

    def broken(*_):
        raise ValueError("of a reason")

    monkeypatch.setattr(extract_sheet, "contact_sheet", broken)
    (small_set / "real" / "2.mp4").write_bytes(b"")
    result = extract(config, storage)
    assert result["problems"]["contact sheet"] == ["no contact sheet: ValueError: of a reason"]
    assert "warning: no contact sheet: ValueError: of a reason" in capsys.readouterr().err
    monkeypatch.setattr(extract_sheet, "contact_sheet", make)
    assert "contact sheet" not in extract(config, storage)["problems"]  # made up for
    assert b"unreadable <b>2</b>" not in page and storage.read_bytes("r/faces/sheet.html").count(b"unreadable <b>2</b>") == 1


def test_a_file_that_becomes_what_it_was_counts_again_without_being_decoded(in_process, small_set, tmp_path):
    config = config_of(small_set, tmp_path / "storage", videos_per_shard=1)
    storage = Storage.from_config(config.storage)
    extract(config, storage)
    video = small_set / "real" / "1.mp4"
    content, times = video.read_bytes(), (video.stat().st_atime_ns, video.stat().st_mtime_ns)
    first = read_status(storage, "r")
    video.write_bytes(clips.counting(9))
    assert extract(config, storage)["extracted_now"] == 1
    video.write_bytes(content)
    os.utime(video, ns=times)
    result = extract(config, storage)
    assert result["extracted_now"] == 0 and sum(result["stale"].values()) == 1
    assert read_status(storage, "r").equals(first)


def test_what_should_be_known_of_the_data_is_told_on_the_terminal_in_few_lines(in_process, small_set, tmp_path, capsys):
    for number in range(30):
        (small_set / "real" / f"{'n' * 100}{number}.txt").write_text("no video")
    config = config_of(small_set, tmp_path / "storage")
    extract(config, Storage.from_config(config.storage))
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("extract: note: ")]
    assert any(line.startswith("extract: note: own: no identities.csv: each video counts as a person of its own") for line in notes)
    assert any("own: files that are not videos, left out (30): " in line for line in notes)
    assert max(map(len, notes)) < job.NOTE_LENGTH + 30

    result = {"problems": {"own": [f"problem {number}" for number in range(50)], job.SHEET: ["no contact sheet"]}, "excluded": ["a", "b"],
              "splits": {"excluded": {"shares a person with the test split": 2}, "notes": ["the val split has no fake of x"]}}
    told = job.notes_of(result)
    assert told[:3] == ["splits: 2 videos are in no split and not extracted: shares a person with the test split (2)",
                        "splits: the val split has no fake of x", "own: problem 0"]
    assert len(told) == job.MOST_NOTES + 1 and told[-1] == "and 40 more in result.json (problems, splits)"


def test_two_jobs_with_different_views_of_the_data_set_leave_each_video_once(in_process, small_set, tmp_path, monkeypatch):
    # The second starts, with one video more, when the first has planned and written nothing.
    config = config_of(small_set, tmp_path / "storage")
    storage, run_pipeline = Storage.from_config(config.storage), job.run_pipeline
    RunFolder(storage, config).open("extract")

    def overtaken(*arguments):
        monkeypatch.setattr(job, "run_pipeline", run_pipeline)
        (small_set / "fake" / "0a.mp4").write_bytes(clips.counting(5))
        extract(config, storage)
        run_pipeline(*arguments)

    monkeypatch.setattr(job, "run_pipeline", overtaken)
    extract(config, storage)
    assert any(len(shards) > 1 for shards in committed_rows(storage).values())
    status = read_status(storage, "r").column("video_id").to_pylist()
    assert len(status) == len(set(status)) == 13
    result = extract(config, storage)
    assert result["extracted_now"] == 0 and result["videos"] == 13 and sum(result["stale"].values()) > 0
    extract_and_remove_stale(config, storage)
    assert all(len(shards) == 1 for shards in committed_rows(storage).values())
    assert extract_verify.verify(config, storage)["videos"] == 13


def test_verifying_names_what_is_wrong_and_changes_nothing(in_process, small_set, tmp_path, capsys):
    config = config_of(small_set, tmp_path / "storage")
    storage = Storage.from_config(config.storage)
    with pytest.raises(UserError, match="no run r"):
        extract_verify.verify(config, storage)
    RunFolder(storage, config).open("extract")
    extract(config, storage)
    assert extract_verify.verify(config, storage)["shards"] > 1
    key = next(key for key in storage.list("r/faces") if not key.endswith(".status.parquet"))
    data = storage.read_bytes(key)
    storage.write_bytes(key, data[:100] + b"\0" + data[101:])
    before = objects(storage)
    with pytest.raises(UserError, match="1 findings in .* delete the status table"):
        extract_verify.verify(config, storage)
    assert storage.uri(key) in capsys.readouterr().err and objects(storage) == before
    # What it says is what helps.
    storage.delete(f"{key.partition('-')[0]}.status.parquet")
    extract(config, storage)
    assert storage.read_bytes(key) == data and extract_verify.verify(config, storage)["uncommitted"] == 0


@pytest.mark.cluster
def test_a_shard_that_ends_its_checker_is_told_and_the_others_are_checked(cluster, local_storage, monkeypatch):
    def check(storage, run, plans):
        if "d/deadly" in plans:
            os.kill(os.getpid(), signal.SIGKILL)
        return [(plan, ["is wrong"] if plan == "d/3" else []) for plan in plans]

    monkeypatch.setattr(extract_verify, "SHARDS_OF_A_TASK", 3)
    monkeypatch.setattr(extract_verify, "RETRIES", 1)
    wrong = extract_verify.check_shards(local_storage, "r", ["d/1", "d/deadly", "d/3", "d/4"], check=check)
    assert list(wrong) == ["d/3", "d/deadly"] and wrong["d/3"] == ["is wrong"]
    assert "d/deadly.status.parquet or its crops end the process that reads them" in wrong["d/deadly"][0]


def test_without_a_number_there_are_as_many_actors_as_the_nodes_hold():
    def size(nodes, **settings):
        return pool_of(Config(extract=ExtractConfig(**settings))).size(nodes)

    assert size([(4, 0)]) == 4 and size([(4, 0)], detect_actors=3) == 3
    assert size([(8, 1)], detect_gpus=0.5) == 2
    assert size([(4, 1)], detect_gpus=0.1) == 2  # of ten by the GPU: a CPU each, and decoding needs its own
    assert size([(3, 0)] * 4 + [(0, 0)], detect_cpus=2) == 4


def test_the_demo_data_is_made_first_where_the_config_asks_for_it(tmp_path, monkeypatch):
    made = []

    def make_demo(root, *, seed, **settings):
        made.append((root, seed, settings["identities"], settings["takes"]))
        raise UserError("no network")

    monkeypatch.setattr("jobs.demo_data.make_demo", make_demo)
    config = config_of(tmp_path / "demo", tmp_path / "storage")
    demo = config.data.demo.model_copy(update={"enabled": True, "identities": 33, "takes": 2})
    config = config.model_copy(update={"data": config.data.model_copy(update={"demo": demo})})
    with pytest.raises(UserError, match="no network"):
        extract(config, Storage.from_config(config.storage))
    assert made == [(tmp_path / "demo", config.run.seed, 33, 2)]
