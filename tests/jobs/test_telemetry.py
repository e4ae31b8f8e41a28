"""jobs/telemetry.py: which figures are told under which names; that they reach Prometheus is in test_train.py."""

import pytest

from jobs import telemetry
from jobs.errors import reason_of
from jobs.progress import Progress
from robust.config import StorageConfig
from robust.config_file import parse
from robust.errors import NonFiniteLoss, StorageError, UserError
from robust.object_stores import failures
from robust.storage import Storage
from robust.training.loop import EpochFigures


class Told(dict):
    """What was counted and shown, by name and the labels' values."""

    def add(self, name, amount=1, **labels):
        key = name, *labels.values()
        self[key] = self.get(key, 0) + amount

    def show(self, name, value, **labels):
        self[name, *labels.values()] = value


@pytest.fixture
def told(monkeypatch):
    told = Told()
    monkeypatch.setattr(telemetry, "add", told.add)
    monkeypatch.setattr(telemetry, "show", told.show)
    monkeypatch.setattr(failures, "listener", None)
    return told


def figures(**changes) -> EpochFigures:
    return EpochFigures(**{**dict(epoch=2, steps=4, losses={"total": 0.5}, learning_rate=0.1, epsilon=1.5, seconds=2.0,
                                  images_per_second=16.0, data_wait_share=0.25), **changes})


def test_without_ray_nothing_is_made_and_no_thread_runs():
    telemetry.add("train_images", 8, run="a", model="m")
    telemetry.show("train_epoch", 1, run="a", model="m")
    assert telemetry._made.cache_info().currsize == 0 and telemetry._shown._thread is None


def test_an_epoch_and_its_scores(told):
    scores = {"auc": 0.9, "robust_auc": 0.6, "attack_success": 0.4, "threshold": 1.0}
    telemetry.epoch_ended("a", "m", figures(), scores)
    assert told == {
        ("train_epoch", "a", "m"): 3, ("train_images_per_second", "a", "m"): 16.0, ("train_data_wait_share", "a", "m"): 0.25,
        ("train_loss", "a", "m"): 0.5, ("train_epsilon", "a", "m"): 1.5, ("train_collapses", "a", "m"): 0,
        ("validation_auc", "a", "m"): 0.9, ("validation_robust_auc", "a", "m"): 0.6, ("validation_attack_success", "a", "m"): 0.4}
    telemetry.epoch_ended("a", "m", figures(probe={"collapsed": 1.0}), None)
    assert told["train_collapses", "a", "m"] == 1


def test_a_training_that_stops_on_no_number_is_counted_and_any_other_error_is_not(told):
    with pytest.raises(NonFiniteLoss), telemetry.training_watched("a", "m"):
        raise NonFiniteLoss("epoch 3")
    with pytest.raises(UserError), telemetry.training_watched("a", "m"):
        raise UserError("no crops")
    assert told == {("train_nonfinite", "a", "m"): 1}


def test_a_trial_counts_itself_once_and_its_time(told, monkeypatch):
    clock = iter([10.0, 13.0, 17.0])
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: next(clock))
    with telemetry.trial_watched("a", begins=True) as epoch:
        epoch(figures())
        epoch(figures(probe={"collapsed": 1.0}))
    assert told == {("tune_trials", "a"): 1, ("tune_seconds", "a"): 7.0, ("train_collapses", "a", "trials"): 1}
    clock = iter([0.0])
    with pytest.raises(NonFiniteLoss), telemetry.trial_watched("a", begins=False):
        raise NonFiniteLoss("x")
    assert told["tune_trials", "a"] == 1 and told["failures", "a", "trial", "NonFiniteLoss"] == 1
    assert told["train_nonfinite", "a", "trials"] == 1


def test_a_stage_runs_and_how_it_fails(told):
    with telemetry.stage_watched("a", "extract"):
        assert told == {("running", "a", "extract"): 1}
    with pytest.raises(KeyboardInterrupt), telemetry.stage_watched("a", "extract"):
        raise KeyboardInterrupt  # somebody stopped it: no failure
    with pytest.raises(RuntimeError), telemetry.stage_watched("a", "extract"):
        raise RuntimeError("of Ray") from StorageError("the bucket is gone")
    failed = {key: value for key, value in told.items() if key[0] == "failures"}
    assert failed == {("failures", "a", "extract", "StorageError"): 1}
    assert reason_of(KeyError("x")) == "KeyError"


def test_a_failure_inside_a_stage_inside_another_is_counted_once(told):
    with pytest.raises(UserError), telemetry.stage_watched("a", "pipeline"):
        with telemetry.stage_watched("a", "extract"):
            pass
        with telemetry.stage_watched("a", "train"):
            raise UserError("no crops")
    assert {key: value for key, value in told.items() if key[0] == "failures"} == {("failures", "a", "train", "UserError"): 1}


def test_what_a_stage_shows_stays_when_one_inside_it_ends(monkeypatch):
    monkeypatch.setattr(telemetry, "_ray_runs", lambda: True)
    monkeypatch.setattr(telemetry, "_made", lambda name: type("Gauge", (), {"set": lambda self, value, tags: None})())
    monkeypatch.setattr(telemetry, "_shown", telemetry._Shown())

    def shown():
        return [(name, labels["stage"]) for name, _, labels in telemetry._shown.all().values()]

    with telemetry.stage_watched("a", "pipeline"):
        with telemetry.stage_watched("a", "extract"):
            telemetry.show("progress", 3, run="a", stage="extract")
            assert shown() == [("running", "pipeline"), ("running", "extract"), ("progress", "extract")]
        assert shown() == [("running", "pipeline")]
    assert shown() == []


def test_progress_and_videos(told):
    config = parse({"run": {"name": "a"}})
    with Progress("extract", total=3, unit="videos", observe=telemetry.progress_of(config, "extract"), interval_s=60) as progress:
        progress.advance(2)
        assert told == {("progress", "a", "extract"): 2, ("progress_asked", "a", "extract"): 3}
    told.clear()
    telemetry.videos_written("a", ["ok", "no_face", "ok"], 7)
    assert told == {("extract_videos", "a", "ok"): 2, ("extract_videos", "a", "no_face"): 1, ("extract_faces", "a"): 7}
    told.clear()
    telemetry.stages_worked("a", {"decode": 1.5, "detect": 2.0})
    assert told == {("extract_seconds", "a", "decode"): 1.5, ("extract_seconds", "a", "detect"): 2.0}
    told.clear()
    counts = telemetry.videos_judged("a", ["fake", "undecided", "fake"])
    assert told == {("detect_videos", "a", "fake"): 2, ("detect_videos", "a", "undecided"): 1} and (counts["fake"], counts["real"]) == (2, 0)


def test_requests_that_the_bucket_does_not_answer_are_counted_each(told, monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    nowhere = StorageConfig(uri="s3://bucket/prefix", endpoint_url="http://127.0.0.1:9", max_attempts=2)
    telemetry.hear_storage("a")
    with pytest.raises(StorageError, match="cannot reach"):
        Storage.from_config(nowhere).read_bytes("key")
    assert told == {("storage_retries", "a", "EndpointConnectionError"): 2}


@pytest.mark.parametrize("status, counted", [(200, []), (404, []), (412, []), (429, ["429"]), (500, ["500"]), (503, ["503"])])
def test_answers_that_mean_an_outage_or_throttling_are_counted(told, status, counted):
    heard = []
    failures.listener = heard.append
    failures.tell(response=(type("Response", (), {"status_code": status})(), {}))
    assert heard == counted
