"""jobs/pipeline.py apart from its stages; the whole of it is in tests/cluster/test_submit_jobs.py."""

import pytest

import jobs.evaluate
import jobs.extract
import jobs.train
import jobs.tune
from jobs.pipeline import local_copies, pipeline
from robust.config_file import parse


def test_event_files_of_all_stages_are_copied_as_they_are_now(local_storage, tmp_path):
    config = parse({"run": {"name": "run"}, "cluster": {"outputs": str(tmp_path / "outputs")}})
    name = "events.out.tfevents.1.host"

    def copied():
        folder = local_copies(config, local_storage) / "tensorboard"
        return {path.relative_to(folder).parent.as_posix(): path.read_bytes() for path in folder.rglob("*.host")}

    for place in ("tensorboard/train/defended", "tensorboard/evaluate", "tune/trials/t1"):
        local_storage.write_bytes(f"run/{place}/{name}", place.encode())
    local_storage.write_bytes("run/faces/shard.parquet", b"no event file")
    trained = {"train/defended": b"tensorboard/train/defended"}
    assert copied() == {**trained, "evaluate": b"tensorboard/evaluate", "tune/t1": b"tune/trials/t1"}
    local_storage.delete_prefix("run/tune")
    local_storage.write_bytes(f"run/tensorboard/evaluate/{name}", b"tensorboard/evaluate and more")
    assert copied() == {**trained, "evaluate": b"tensorboard/evaluate and more"}
    assert not (tmp_path / "outputs/run/sheet.html").exists()
    local_storage.write_bytes("run/faces/sheet.html", b"<!doctype html>")
    assert copied() and (tmp_path / "outputs/run/sheet.html").read_bytes() == b"<!doctype html>"


@pytest.mark.parametrize("samples, stages", [(2, ["extract", "train", "search", "train", "evaluate"]), (0, ["extract", "train", "train", "evaluate"])])
def test_without_trials_there_is_no_search_and_it_is_said(local_storage, tmp_path, monkeypatch, capsys, samples, stages):
    ran = []
    for module, name in ((jobs.extract, "extract"), (jobs.train, "train"), (jobs.tune, "search"), (jobs.evaluate, "evaluate")):
        monkeypatch.setattr(module, name, lambda config, storage, name=name: ran.append(name) or {})
    config = parse({"run": {"name": "run"}, "cluster": {"outputs": str(tmp_path / "outputs")}, "tune": {"samples": samples}})
    result = pipeline(config, local_storage)
    assert ran == stages and "tune" in result["stages"]
    assert ("pipeline: tune: no search (tune.samples=0)" in capsys.readouterr().out) == (samples == 0)
