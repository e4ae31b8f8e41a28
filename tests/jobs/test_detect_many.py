"""jobs.detect_many: the verdicts of jobs.detect, each once, whatever changes and whoever else writes.

Without Ray but for one test: the real stages one after another, faces planted, the model untrained.
"""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from small_cluster import small_cluster

import jobs.detect as single
import jobs.detect_many as job
from jobs.detect_stages import DecodeAndJudge, DecodeVideos, JudgeVideos, WriteVerdicts, plan_tasks
from robust.config_file import parse
from robust.data import faces
from robust.errors import ConfigError, UserError
from robust.storage import Storage
from robust.verdict_shards import list_shards, read_current, read_verdicts
from tests import clips
from tests.jobs.test_detect import Middle, save_model


def batches(tasks):
    return [pa.table({"plan": pa.array([task["plan"]], pa.binary())}) for task in tasks]


@pytest.fixture
def in_process(monkeypatch):
    """The real stages in this process; returns the paths that each run has judged."""
    monkeypatch.setitem(faces.DETECTORS, "mtcnn", Middle)
    judged = []

    def run_pipeline(missing, detection, taken, config, storage, folder):
        judged.append(missing["path"].to_pylist())
        size = config.detect.videos_per_shard
        stage, write = DecodeAndJudge(detection, "cpu", 1), WriteVerdicts(storage, folder, config.run.name)
        tasks = plan_tasks(missing, videos_per_shard=size, most=size, settings=detection.settings,
                           taken=taken)
        for task in batches(tasks):
            write(pa.concat_tables(stage(task)))

    monkeypatch.setattr(job, "run_pipeline", run_pipeline)
    return judged


@pytest.fixture(scope="module")
def noisy_clips():
    rng = np.random.default_rng(0)
    return [clips.clip(rng.integers(0, 255, (5 + number, 64, 80, 3), np.uint8)) for number in range(5)]


@pytest.fixture
def videos(tmp_path, noisy_clips) -> Path:
    """Five videos with a face, one without, one that is none, and what is not judged."""
    folder = tmp_path / "videos"
    (folder / "deep" / "er").mkdir(parents=True)
    for number, content in enumerate(noisy_clips):
        (folder / ("deep/er" if number % 2 else ".") / f"{number} ä.mp4").write_bytes(content)
    (folder / "dark.mp4").write_bytes(clips.clip([np.zeros((64, 80, 3), np.uint8)] * 4))
    (folder / "damaged.mp4").write_bytes(b"\0" * 500)
    (folder / "list.txt").write_text("not for us")
    (folder / ".hidden.mp4").write_bytes(b"x")
    (folder / "nowhere.mp4").symlink_to("gone.mp4")
    return folder


def config_of(videos, storage, **detect):
    return parse({
        "run": {"name": "r"}, "storage": {"uri": str(storage)},
        "cluster": {"address": "local", "num_cpus": 2, "object_store_memory_mb": 100, "outputs": f"{storage}-out"},
        "extract": {"min_score": 0.5, "detect_size": 320},
        "detect": {"input": str(videos), "frames": 3, "videos_per_shard": 2, **detect}})


@pytest.fixture
def setting(in_process, videos, local_storage):
    """(run(**detect settings) -> result, storage, judged): the job on the folder of videos with a model of the run."""
    def run(**detect):
        return job.detect_many(config_of(videos, local_storage.uri(), **detect), local_storage)

    save_model(local_storage, "r/train/baseline")
    return run, local_storage, in_process


def folder_of(result, storage):
    return result["folder"].removeprefix(f"{storage.uri()}/")


def objects(storage) -> dict[str, bytes]:
    return {key: storage.read_bytes(key) for key in storage.list("r/detect") if "/verdicts/" in key}


def test_every_verdict_is_that_of_detect_to_the_last_bit(setting, videos, tmp_path):
    run, storage, _ = setting
    result = run()
    rows = {row["path"]: row for row in read_current(storage, folder_of(result, storage)).to_pylist()}
    alone = single.detect(config_of(videos, storage.uri(), output=str(tmp_path / "out")), storage)
    expected = {one["name"]: one for one in alone["verdicts"] if one["name"] != "nowhere.mp4"}
    assert set(rows) == set(expected) and len(rows) == 7
    for path, one in expected.items():
        row = rows[path]
        same = ("uri", "status", "reason", "verdict", "score", "threshold", "frames_decoded", "frames_with_face",
                "people", "other_faces")
        assert [row[name] for name in same] == [one[name] for name in same]
        frames = [(frame["frame_index"], frame["timestamp_s"], frame["logit"]) for frame in one["frames"]]
        assert list(zip(row["frame_index"], row["frame_time_s"], row["frame_score"])) == frames
        assert row["model"] == alone["checkpoint"]["sha256"] and result["folder"].endswith(f"/{row['settings']}")
        assert row["size"] == (videos / path).stat().st_size
    assert len({row["score"] for row in rows.values() if row["score"] is not None}) == 5
    assert rows["damaged.mp4"]["status"] == "unreadable" and rows["dark.mp4"]["status"] == "no_face"


def test_the_summary_counts_everything_that_was_found(setting):
    run, storage, _ = setting
    result = run(threshold=-100)
    assert result["counts"] == {"fake": 5, "real": 0, "undecided": 2} and result["videos"] == result["judged_now"] == 7
    assert result["by_status"] == {"ok": 5, "partial": 0, "no_face": 1, "unreadable": 1}
    assert result["skipped"] == dict.fromkeys(
        ("a link to nothing, or no file", "hidden, or left by an archive", "not a video by its name"), 1)
    skipped = storage.read_table(f"{folder_of(result, storage)}/skipped.parquet").to_pylist()
    assert [one["path"] for one in skipped] == [".hidden.mp4", "list.txt", "nowhere.mp4"]
    scores = [one["score"] for one in result["most_suspicious"]]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    assert {one["reason"]: one["videos"] for one in result["reasons"]}["no face in any of N frames"] == 1
    about = storage.read_json(f"{folder_of(result, storage)}/about.json")
    assert about["threshold"]["logit"] == -100 and about["checkpoint"]["sha256"] == result["checkpoint"]["sha256"]
    json.dumps(result, allow_nan=False)


def test_a_second_run_judges_only_what_is_new_or_has_changed(setting, videos, noisy_clips):
    run, storage, judged = setting
    first = run()
    before, folder = objects(storage), folder_of(first, storage)
    assert run()["judged_now"] == 0 and objects(storage) == before and len(judged) == 1

    (videos / "0 ä.mp4").write_bytes(noisy_clips[4])
    os.utime(videos / "2 ä.mp4", ns=(0, 0))
    (videos / "new.mp4").write_bytes(noisy_clips[1])
    (videos / "dark.mp4").unlink()
    result = run()
    assert judged[1] == ["0 ä.mp4", "2 ä.mp4", "new.mp4"] and result["judged_now"] == 3
    assert before.items() <= objects(storage).items()  # no shard was rewritten
    current = {row["path"]: row for row in read_current(storage, folder).to_pylist()}
    assert len(current) == 7 and current["0 ä.mp4"]["score"] == current["4 ä.mp4"]["score"]
    assert current["new.mp4"]["score"] == current["deep/er/1 ä.mp4"]["score"]
    stale = {one["path"]: one["reason"] for one in storage.read_table(f"{folder}/stale.parquet").to_pylist()}
    assert result["stale"] == 3 and stale["dark.mp4"] == "no longer in the input"
    assert stale["0 ä.mp4"].startswith("the file was changed")
    assert run()["judged_now"] == 0

    (videos / "0 ä.mp4").unlink()
    os.link(videos / "4 ä.mp4", videos / "0 ä.mp4")  # another time of change again
    assert run()["judged_now"] == 1 and judged[2] == ["0 ä.mp4"]


def test_another_model_threshold_or_input_judges_again_and_keeps_what_was(setting, videos, tmp_path):
    run, storage, judged = setting
    first = run()
    save_model(storage, "mine/other", seed=1)
    results = [first, run(checkpoint=storage.uri("mine/other")), run(threshold=1), run(frames=2),
               run(input=str(videos / "deep"))]
    assert len({one["folder"] for one in results}) == 5
    assert [len(paths) for paths in judged] == [7, 7, 7, 7, 2]
    scores = [pc.drop_null(read_current(storage, folder_of(one, storage))["score"]).to_pylist() for one in results]
    assert scores[0] == scores[2] != scores[1] and scores[3] != scores[0]
    # The same weights from elsewhere are the same model, however many actors and videos a shard.
    save_model(storage, "mine/copy")
    again = run(checkpoint=storage.uri("mine/copy"), videos_per_shard=5, actors=1)
    assert again["folder"] == first["folder"] and again["judged_now"] == 0


def test_after_a_kill_the_same_shards_are_written_and_of_two_writers_one_counts(setting):
    run, storage, judged = setting
    folder = folder_of(run(), storage)
    whole = objects(storage)
    assert len(whole) == 4
    storage.delete(f"{folder}/{list_shards(storage, folder)[2]}.parquet")
    storage.delete(sorted(whole)[0])
    assert run()["judged_now"] in (3, 4) and objects(storage) == whole
    # A second job that planned the same and is late changes nothing; one that planned otherwise leaves one row a video.
    other = read_verdicts(storage, folder).slice(0, 3)
    late = WriteVerdicts(storage, folder, "r")
    (shard,) = set(other.slice(0, 1)["shard"].to_pylist())
    mine = other.filter(pc.equal(other["shard"], shard))
    forged = mine.set_column(mine.schema.get_field_index("score"), "score", pa.array([9.0] * len(mine)))
    late(forged.append_column("shard_videos", pa.array([len(mine)] * len(mine), pa.int32())))
    assert objects(storage) == whole
    alike = other.set_column(other.schema.get_field_index("shard"), "shard", pa.array(["verdicts/ffff"] * 3))
    late(alike.append_column("shard_videos", pa.array([3] * 3, pa.int32())))
    result = run()
    assert result["judged_now"] == 0 and result["stale"] == 3 and result["videos"] == 7
    paths = read_current(storage, folder)["path"].to_pylist()
    assert len(paths) == len(set(paths)) == 7


def test_a_video_that_is_gone_when_it_is_read_is_looked_for_again(setting, videos, monkeypatch):
    run, storage, judged = setting
    video, real = videos / "0 ä.mp4", job.run_pipeline
    content, times = video.read_bytes(), (video.stat().st_atime_ns, video.stat().st_mtime_ns)

    def without(*arguments):
        video.unlink()
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(job, "run_pipeline", without)
        result = run()
    assert result["videos"] == 7 and result["by_status"]["unreadable"] == 2
    assert run()["videos"] == 6 and len(judged) == 1
    video.write_bytes(content)  # the very file, as of a disk that was away for a moment
    os.utime(video, ns=times)
    result = run()
    assert judged[1] == ["0 ä.mp4"] and result["by_status"]["unreadable"] == 1 and result["videos"] == 7


def test_decoding_apart_from_judging_gives_the_same_rows(setting, videos, local_storage):
    run, storage, _ = setting
    run()
    config = config_of(videos, local_storage.uri())
    listing = job.list_input(config, job.require_input(config), storage)
    place, key = job.find_checkpoint(config, storage)
    card = job.read_card(place, key)
    detection = job.with_fingerprint(job.Detection(
        str(videos), place, key, job.weights_sha256(place, key), job.thresholds_of(card, None), 3, config.extract,
        config.storage, ""), card)
    tasks = batches(plan_tasks(listing.videos, videos_per_shard=4, most=3, settings="s", taken=set()))
    assert len(tasks) == 4  # 2 videos a task: 3 would not divide a shard of 4
    judge = JudgeVideos(detection, "cpu", 1)
    apart = [row for task in tasks for video in DecodeVideos(detection)(task) for row in judge(video)]
    together = [row for task in tasks for row in DecodeAndJudge(detection, "cpu", 1)(task)]
    assert pa.concat_tables(apart).equals(pa.concat_tables(together)) and len(apart) == 7
    with pytest.raises(RuntimeError, match="written as a whole"):
        WriteVerdicts(storage, "r/detect/x", "r")(pa.concat_tables(apart[:3]))
    save_model(storage, key, seed=2)
    changed = JudgeVideos(detection, "cpu", 1)  # Ray would keep only the text of an error from here
    with pytest.raises(UserError, match="was changed while the job ran"):
        [row for video in DecodeVideos(detection)(tasks[0]) for row in changed(video)]


def test_what_is_missing_or_wrong_is_said(setting, videos, tmp_path):
    run, storage, _ = setting
    (tmp_path / "empty").mkdir()
    for detect, error, told in [
        ({"input": None}, ConfigError, "detect.input: give a folder"),
        ({"input": str(tmp_path / "nowhere")}, UserError, "does not exist"),
        ({"input": str(videos / "dark.mp4")}, UserError, "is one file; python -m jobs.detect"),
        ({"input": str(tmp_path / "empty")}, UserError, "no video in .* .0 other files"),
        ({"checkpoint": str(tmp_path / "none")}, UserError, "A checkpoint is a folder with model.safetensors"),
    ]:
        with pytest.raises(error, match=told):
            run(**detect)
    result = run()
    key = f"{folder_of(result, storage)}/{list_shards(storage, folder_of(result, storage))[0]}.parquet"
    storage.write_bytes(key, b"no parquet")
    with pytest.raises(UserError, match="is not a readable shard of verdicts .* delete it and run"):
        run()
    storage.delete(key)
    assert 1 <= run()["judged_now"] <= 2


def test_what_the_run_itself_writes_below_the_input_is_left_out(setting, videos):
    run, storage, _ = setting
    storage.write_bytes("r/export/clip.mp4", b"ours")
    storage.write_bytes("other/clip.mp4", b"somebody's")
    result = run(input=storage.uri())
    assert result["videos"] == 1 and result["skipped"]["written by this run"] > 1


def test_without_a_number_there_are_as_many_actors_as_the_nodes_hold(videos, tmp_path):
    def size(nodes, **detect):
        return job.pool_of(config_of(videos, tmp_path, **detect)).size(nodes)

    assert size([(4, 0)]) == 4 and size([(4, 0)], actors=3) == 3
    assert size([(8, 1)], actor_gpus=0.25) == 4
    assert size([(4, 1)], actor_gpus=0.25) == 2  # the CPUs do not allow four


# ---------------------------------------------------------------------------------------------------- with Ray


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_bucket_is_judged_on_a_cluster_as_by_detect_and_once(s3, tmp_path, noisy_clips):
    # The real face detector: noise has no face, the man has.
    source, bucket = (Storage.from_config(s3.model_copy(update={"uri": s3.uri + end})) for end in ("/videos", "/runs"))
    for number in range(6):
        content = clips.real_face().read_bytes() if number in (2, 5) else noisy_clips[number % 5]
        source.write_bytes(f"day{number % 2}/{number}.mp4", content)
    source.write_bytes("empty.mp4", b"")
    save_model(bucket, "r/train/defended")
    config = parse({
        "run": {"name": "r"}, "storage": {**s3.model_dump(), "uri": bucket.uri()},
        "cluster": {"address": "local", "num_cpus": 2, "object_store_memory_mb": 100, "outputs": str(tmp_path / "out")},
        "extract": {"min_score": 0.5, "min_face": 60, "detect_size": 320},
        "detect": {"input": source.uri(), "frames": 2, "videos_per_shard": 2, "actors": 1,
                   "output": str(tmp_path / "alone")}})
    with small_cluster(config):
        result = job.detect_many(config, bucket)
        whole = objects(bucket)
        assert result["by_status"] == {"ok": 2, "partial": 0, "no_face": 4, "unreadable": 1} and len(whole) == 4
        assert job.detect_many(config, bucket)["judged_now"] == 0 and objects(bucket) == whole
    rows = {row["path"]: row for row in read_current(bucket, folder_of(result, bucket)).to_pylist()}
    torch.set_num_threads(1)  # as an actor of one CPU; another number moves faces by some 1e-5 pixels
    alone = {one["name"]: one for one in single.detect(config, bucket)["verdicts"]}
    assert set(alone) == set(rows)
    for path, one in alone.items():
        same = ("score", "verdict", "reason")
        assert [rows[path][name] for name in same] == [one[name] for name in same]
        assert rows[path]["frame_score"] == [frame["logit"] for frame in one["frames"]]
