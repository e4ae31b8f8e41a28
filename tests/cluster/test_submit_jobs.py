"""Every job through `ray job submit` to a head with token authentication: real videos in, report and verdicts out, no secret left anywhere."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from head import ROOT, Head
from sweep import ProcessList, in_files, in_storage

from robust.data.video import read_frames
from robust.storage import Storage
from tests import clips

PEOPLE = 8  # of each label; the same face in fact, which is of no matter here


@pytest.fixture
def videos(tmp_path):
    """A folder data set whose fakes are bluish."""
    root = tmp_path / "videos"
    frames = read_frames(clips.real_face(), count=3 * PEOPLE + 8, name="face").frames[:, ::2, 120:480:2]
    for label in ("real", "fake"):
        (root / label).mkdir(parents=True)
        for number in range(PEOPLE):
            shown = frames[3 * number:3 * number + 8]
            if label == "fake":
                shown = (shown * np.array([0.7, 0.8, 1.0])).astype(np.uint8)
            (root / label / f"{number}.mp4").write_bytes(clips.clip(shown, gop=4))
    return root


def config_file(tmp_path, videos, uri: str):
    text = yaml.safe_dump({
        "run": {"name": "submitted"},
        "storage": {"uri": uri, "addressing_style": "path", "max_attempts": 4},
        "cluster": {"address": "auto", "outputs": str(tmp_path / "outputs")},
        "data": {"datasets": [{"layout": "folder", "uri": str(videos), "name": "own"}], "splits": {"test_fraction": 0.25, "val_fraction": 0.25}},
        "extract": {"frames_train": 2, "frames_test": 2, "min_face": 40, "min_score": 0.5, "detect_size": 180},
        "model": {"name": "test_resnet", "input_size": 32, "weights": "none"},
        "train": {"batch_size": 4, "workers": 2, "validation": {"max_images": 8, "steps": 2},
                  "baseline": {"epochs": 1}, "defended": {"epochs": 1, "attack": {"steps": 2}}},
        "tune": {"samples": 1, "epochs": 1, "grace_epochs": 1, "threat": {"max_images": 8, "steps": 2}},
        "evaluate": {"epsilons": [1], "headline": ["pgd", 1], "suite": "tiny", "suites": {"tiny": {"pgd": {"steps": 2}}}, "bootstrap": 20, "gallery": 1, "corruptions": {"severities": [3], "frames_per_video": 1}},
    })
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.cluster
@pytest.mark.head
@pytest.mark.timeout(1200)
def test_every_job_runs_through_ray_job_submit(s3_server, s3, videos, tmp_path):
    config = config_file(tmp_path, videos, s3.uri)
    head = Head(tmp_path, s3_server.environment)
    token = Path(head.environment["RAY_AUTH_TOKEN_PATH"])
    secrets = [s3_server.environment["AWS_SECRET_ACCESS_KEY"], token.read_text()]
    with ProcessList(secrets) as processes, head:
        def submit(job: str, *overrides: str) -> str:
            name = f"{job}-{len(overrides)}"
            head.submit_command(name, [sys.executable, "-m", f"jobs.{job}", "--config", config, *overrides])
            status = head.wait(name, timeout_s=600)
            log = head.client().get_job_logs(name)
            assert status == "SUCCEEDED", log[-4000:]
            return log.splitlines()[-1]

        assert submit("extract").startswith("extract: 16 videos")
        submit("tune")
        submit("train")
        with ThreadPoolExecutor(2) as pool:  # both need the models alone
            verdicts = pool.submit(submit, "detect", f"detect.input={videos / 'fake'}", f"detect.output={tmp_path / 'verdicts'}")
            submit("evaluate")
            verdicts.result()
        pipeline = subprocess.run([sys.executable, "-m", "jobs.submit", "pipeline", "--follow", "--address", head.address, "--config", config],
                                  cwd=ROOT, env=head.environment, text=True, capture_output=True, timeout=600)
        assert pipeline.returncode == 0, pipeline.stdout + pipeline.stderr
        assert f"submit: report: {s3.uri}/submitted/report/index.html" in pipeline.stdout.splitlines()

        of_ray, count_of_ray = in_files(head.temporary, secrets)
        assert str(head.process.pid) in processes.looked_at and processes.is_alive()

    storage = Storage.from_config(s3)
    for stage in ("faces", "train", "tune", "evaluate"):
        assert storage.read_json(f"submitted/{stage}/result.json")["status"] == "done"
    assert storage.read_json("submitted/train/defended/card.json")["settings_from"].startswith("tune trial")
    assert b"<html" in storage.read_bytes("submitted/report/index.html")
    verdicts = json.loads((tmp_path / "verdicts" / "verdicts.json").read_text())
    assert len(json.dumps(verdicts)) > 100
    # Logs of Ray, of its jobs and workers; configurations, reports, event files; shards (images and Parquet are
    # compressed: what is inside is not looked at), checkpoints, pickles of the search; all processes.
    of_user, count_of_user = in_files(tmp_path, secrets, besides=[token])
    stored, count_stored = in_storage(storage, secrets)
    assert (of_ray, of_user, stored, processes.hits) == ([], [], [], set())
    assert count_of_ray > 50 and count_of_user > 30 and count_stored > 30 and len(processes.looked_at) > 20
