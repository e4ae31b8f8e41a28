"""jobs.evaluate where extract.people=all kept several people: a video is judged as jobs.detect judges it."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from test_evaluate import RUN, config_of, crop, gates_one_by_one, one_by_one, write_crops
from test_universal_tasks import write_validation
from test_whole_video_tasks import write_untrained

import jobs.evaluate as job
from robust.config_file import parse
from robust.data.face_table import read_shard
from robust.data.images import decode_image, encode_image
from robust.data.inputs import to_input
from robust.data.shards import FACE_SCHEMA, read_status, replace_shard
from robust.detection import _most_fake_person
from robust.models.checkpoint import load_checkpoint
from robust.storage import Storage

SETTINGS = {"epsilons": [0.5, 4], "bootstrap": 10, "frames_per_video": 2,
            "corruptions": {"severities": [3], "frames_per_video": 1},
            "whole_video": {"enabled": True, "steps": 2, "epsilons": [4]},
            "universal": {"enabled": True, "images": 8, "steps": 2, "epsilons": [4]},
            "export": {"crops": 4, "epsilon": 4},
            "smoothing": {"enabled": True, "sigmas": [16], "n0": 5, "n": 20, "frames_per_video": 1}}
FRAMES_OF_BYSTANDERS = (0, 2, 7, 9, 11)
"""Frame 2 they share with the subject, who has 0, 1 and 2: the frames are chosen for each person."""


def config_with(folder, people):
    config = config_of(folder, **SETTINGS)
    return parse({**config.model_dump(), "extract": {"people": people}})


def add_bystanders(storage):
    """To every second video somebody else; of both labels, and looking like either."""
    rng = np.random.default_rng(9)
    status = read_status(storage, RUN)
    for shard in sorted(set(status.column("shard").to_pylist())):
        rows = [row for row in status.to_pylist() if row["shard"] == shard]
        faces = read_shard(storage, RUN, shard, [row["video_id"] for row in rows]).to_pylist()
        for number, row in enumerate(rows):
            row["people"] = 1
            if number % 2 or row["frames_found"] == 0:
                continue
            row["people"] = 2
            like = next(face for face in faces if face["video_id"] == row["video_id"])
            faces += [{**like, "frame_index": frame, "track": 1, "image": encode_image(crop(rng, number // 2 % 2))}
                      for frame in FRAMES_OF_BYSTANDERS]
        replace_shard(storage, RUN, shard, pa.Table.from_pylist(faces, schema=FACE_SCHEMA),
                      pa.Table.from_pylist(rows, schema=status.schema))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """{people: (storage, summary, tables)} of the same crops and models, evaluated by subjects and by everybody."""
    folder, found = tmp_path_factory.mktemp("people"), {}
    storage = Storage.from_config(config_of(folder).storage)
    images, _ = write_crops(storage)
    write_untrained(storage, images)
    write_validation(storage)
    add_bystanders(storage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "run_tasks", one_by_one)
        patch.setattr(job, "run_gate_tasks", gates_one_by_one)
        patch.setattr(job, "make_gallery", lambda *_: [])
        for people in ("subject", "all"):
            job.evaluate(config_with(folder, people), storage)
            summary = json.loads(storage.read_bytes(f"{RUN}/report/summary.json"))
            tables = {name: storage.read_table(f"{RUN}/evaluate/{name}.parquet").to_pylist()
                      for name in ("predictions", "whole_video", "universal", "corruptions", "certificates")}
            page = storage.read_bytes(f"{RUN}/report/index.html").decode()
            found[people] = storage, summary, tables, page
    return found


def scores(rows, column, **where):
    """{video_id: the highest of its people's mean logits}, in plain Python."""
    people: dict[tuple, list[float]] = {}
    for row in rows:
        if where.items() <= row.items():
            people.setdefault((row["video_id"], row["track"]), []).append(row[column])
    videos: dict[str, float] = {}
    for (video_id, _), logits in people.items():
        videos[video_id] = max(videos.get(video_id, -np.inf), sum(logits) / len(logits))
    return videos


def record(records, **where):
    (found,) = [one for one in records if where.items() <= one.items()]
    return found


def test_a_videos_score_is_the_one_of_jobs_detect(evaluated):
    storage, _, tables, _ = evaluated["all"]
    cell = {"model": "baseline", "attack": "pgd", "epsilon": 0.5}
    rows = [row for row in tables["predictions"] if cell.items() <= row.items()]
    model, _ = load_checkpoint(storage, f"{RUN}/train/baseline")
    status = {row["video_id"]: row for row in read_status(storage, RUN).to_pylist()}
    wanted = {row["video_id"] for row in rows}
    assert sum(status[video_id]["people"] == 2 for video_id in wanted) == 8 and len(wanted) == 16
    judged = {}
    for video_id in wanted:
        table = read_shard(storage, RUN, status[video_id]["shard"], [video_id]).to_pylist()
        shown = {(row["frame_index"], row["track"]) for row in rows if row["video_id"] == video_id}
        crops = [face for face in table if (face["frame_index"], face["track"]) in shown]
        assert len(crops) == 2 * status[video_id]["people"]
        with torch.no_grad():
            logits = model(to_input([decode_image(face["image"]) for face in crops], model.input_size)).double().numpy()
        judged[video_id] = float(np.mean(_most_fake_person(crops, logits)[1]))
    assert scores(rows, "clean") == pytest.approx(judged, abs=1e-4)


@pytest.mark.parametrize("model", ["baseline", "defended"])
def test_attack_success_and_false_alarms_are_of_everybody(evaluated, model):
    _, summary, tables, _ = evaluated["all"]
    label = {row["video_id"]: row["label"] for row in tables["predictions"]}
    clean = scores(tables["predictions"], "clean", model=model, attack="pgd", epsilon=4.0)
    false_alarms = [video_id for video_id, score in clean.items() if not label[video_id] and score > 0]
    at = record(summary["clean"], model=model, level="video", group="all")["at"]["zero"]
    assert (at["fpr"]["hits"], at["fpr"]["among"]) == (len(false_alarms), 8)
    for attack, name in (("pgd", "predictions"), ("whole_video", "whole_video")):
        after = scores(tables[name], "adversarial", model=model, attack=attack, epsilon=4.0)
        turned = [video_id for video_id in after if label[video_id] and clean[video_id] > 0 and after[video_id] <= 0]
        caught = [video_id for video_id in after if label[video_id] and clean[video_id] > 0]
        if name == "predictions":
            where = {"model": model, "level": "video", "group": "all", "attack": "pgd", "epsilon": 4.0}
            told = record(summary["under_attack"], **where)["at"]["zero"]
        else:
            told = record(summary["whole_video"]["records"], model=model, epsilon=4.0)["joint"]
        assert (told["fake_to_real"]["hits"], told["fake_to_real"]["among"]) == (len(turned), len(caught))
    by_subjects = record(evaluated["subject"][1]["clean"], model=model, level="video", group="all")
    assert by_subjects != record(summary["clean"], model=model, level="video", group="all")


def test_frames_are_the_subjects_and_as_without_the_others(evaluated):
    subject, everybody = evaluated["subject"], evaluated["all"]
    for part in ("clean", "under_attack", "over_epsilon"):
        pairs = [[one for one in summary[part] if one["level"] == "frame"] for _, summary, _, _ in (subject, everybody)]
        alone, together = (
            json.loads(json.dumps(pair), parse_float=lambda text: round(float(text), 3)) for pair in pairs)
        assert alone and alone == together
    assert subject[1]["counts"] == everybody[1]["counts"]
    for name in ("predictions", "whole_video"):
        own = [row for row in everybody[2][name] if row["track"] == 0]
        assert len(own) == len(subject[2][name]) < len(everybody[2][name])
        assert {row["track"] for row in subject[2][name]} == {0}
        logits = ([row["adversarial"] for row in rows] for rows in (own, subject[2][name]))
        np.testing.assert_allclose(*logits, atol=1e-4)
    assert subject[2]["certificates"] == everybody[2]["certificates"]
    assert all(subject[1][part] == everybody[1][part] for part in ("export", "gates", "smoothing"))


def test_patterns_and_corruptions_meet_everybody_too(evaluated):
    _, summary, tables, _ = evaluated["all"]
    assert {row["track"] for row in tables["universal"]} == {row["track"] for row in tables["corruptions"]} == {0, 1}
    after = scores(tables["universal"], "adversarial", model="baseline", attack="universal")
    clean = scores(tables["universal"], "clean", model="baseline", attack="universal")
    fakes = {row["video_id"] for row in tables["universal"] if row["label"]}
    told = record(summary["universal"]["records"], model="baseline", level="video")["universal"]["fake_to_real"]
    assert told["among"] == sum(clean[video] > 0 for video in fakes)
    assert told["hits"] == sum(clean[video] > 0 >= after[video] for video in fakes)
    plain = scores(tables["corruptions"], "logit", model="baseline", corruption="clean")
    real = [score for video, score in plain.items() if video not in fakes]
    wins = [(plain[fake] > score) + 0.5 * (plain[fake] == score) for fake in fakes for score in real]
    assert summary["corruptions"]["models"][0]["clean_auc"]["value"] == pytest.approx(np.mean(wins))


def test_report_and_summary_say_who_is_judged(evaluated):
    for people, several in (("subject", 0), ("all", 8)):
        _, summary, _, page = evaluated[people]
        assert summary["data"]["people"] == {"judged": people, "videos_with_several": several}
        assert ("that of the person who looks most fake" in page) == (people == "all")
    assert "8 of 16 videos show several people" in " ".join(evaluated["all"][3].split())
