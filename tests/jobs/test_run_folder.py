"""jobs/run_folder.py: a run's name belongs to the settings of what it holds, and a stage is done only with its own."""

import pytest

from jobs.run_folder import FOLDERS, KEPT, SECTIONS, RunFolder
from robust.config_file import load_config, parse
from robust.errors import ConfigError


def config(**sections):
    return parse({"run": {"name": "first"}} | sections)


def opened(storage, stage, **sections):
    return RunFolder(storage, config(**sections)).open(stage)


def refused(storage, stage, **sections):
    with pytest.raises(ConfigError, match="run.name=first belongs to a run with other settings") as told:
        opened(storage, stage, **sections)
    return str(told.value)


def test_a_stage_keeps_the_settings_it_owns_and_the_same_ones_go_on(storage):
    opened(storage, "pipeline")
    kept = {key: storage.read_bytes(key) for key in storage.list("first/settings")}
    assert kept.keys() == {f"first/settings/{section}.yaml" for section in KEPT}
    opened(storage, "pipeline", cluster={"num_cpus": 7}, train={"workers": 4}, tune={"winner": "report"})
    assert {key: storage.read_bytes(key) for key in storage.list("first/settings")} == kept


def test_other_science_under_the_same_name_is_refused_by_key(local_storage):
    opened(local_storage, "pipeline")
    told = refused(local_storage, "train", train={"batch_size": 16, "workers": 2}, extract={"margin": 0.5})
    assert "train.batch_size: 32 -> 16" in told and "extract.margin: 0.3 -> 0.5" in told and "workers" not in told
    RunFolder(local_storage, parse({"run": {"name": "second"}, "train": {"batch_size": 16}})).open("train")
    for stage in ("extract", "train", "tune", "evaluate"):
        assert "extract.margin" in refused(local_storage, stage, extract={"margin": 0.5})
    assert "run.seed" in refused(local_storage, "evaluate", run={"name": "first", "seed": 1})


def test_a_setting_is_bound_by_the_first_stage_whose_results_depend_on_it(local_storage):
    data = {"datasets": [{"layout": "folder", "uri": "videos"}]}
    opened(local_storage, "extract", data=data)
    opened(local_storage, "train", data=data, train={"batch_size": 16})
    assert "train.batch_size: 16 -> 32" in refused(local_storage, "train", data=data)
    opened(local_storage, "extract", data=data)  # crops depend on no setting of train
    opened(local_storage, "tune", data=data, train={"batch_size": 16}, tune={"samples": 4})
    assert "tune.samples: 4 -> 16" in refused(local_storage, "train", data=data, train={"batch_size": 16})


def test_evaluations_and_detections_own_nothing(local_storage):
    data = {"datasets": [{"layout": "folder", "uri": "videos"}]}
    opened(local_storage, "detect_many")
    opened(local_storage, "evaluate", evaluate={"gallery": 0})
    assert local_storage.list("first") == ["first/config.yaml"]
    opened(local_storage, "pipeline", data=data)
    for settings in ({"suite": "standard"}, {"smoothing": {"enabled": True}}, {"gallery": 0}):
        opened(local_storage, "evaluate", data=data, evaluate=settings)
    before = local_storage.read_bytes("first/config.yaml")
    opened(local_storage, "detect_many", extract={"margin": 0.5})  # its folder's name says so
    assert local_storage.read_bytes("first/config.yaml") == before


def test_a_pipeline_without_a_search_leaves_its_settings_to_a_later_one(local_storage):
    opened(local_storage, "pipeline", tune={"samples": 0})
    opened(local_storage, "tune", tune={"samples": 4})
    assert "tune.samples: 4 -> 0" in refused(local_storage, "pipeline", tune={"samples": 0})


def test_a_refused_job_binds_nothing(local_storage):
    opened(local_storage, "extract")
    refused(local_storage, "tune", extract={"margin": 0.5}, tune={"samples": 4})
    opened(local_storage, "tune", tune={"samples": 5})


def test_of_two_jobs_that_begin_together_the_second_is_refused(local_storage, monkeypatch):
    write = type(local_storage).write_bytes

    def overtaken(storage, key, data, **how):
        monkeypatch.setattr(type(local_storage), "write_bytes", write)
        opened(local_storage, "extract", extract={"margin": 0.4})
        return write(storage, key, data, **how)

    monkeypatch.setattr(type(local_storage), "write_bytes", overtaken)
    assert "extract.margin: 0.4 -> 0.5" in refused(local_storage, "extract", extract={"margin": 0.5})


def test_unreadable_settings_are_told_with_their_address(local_storage):
    for damaged in (b"margin: [", b"unknown: 1", b"\xff", b""):
        local_storage.write_bytes("first/settings/extract.yaml", damaged)
        with pytest.raises(ConfigError, match="first/settings/extract.yaml is not a configuration of this version"):
            opened(local_storage, "train")


def test_config_yaml_is_the_newest_jobs_with_the_settings_of_what_is_there(local_storage, tmp_path):
    def written():
        local_storage.download("first/config.yaml", tmp_path / "config.yaml")
        return load_config(tmp_path / "config.yaml")

    wanted = config(train={"batch_size": 16}, evaluate={"epsilons": [0.5, 1], "headline": ["pgd", 1]})
    opened(local_storage, "pipeline", **wanted.model_dump(mode="json", include={"train", "evaluate"}))
    assert written() == wanted
    opened(local_storage, "extract", cluster={"num_cpus": 3}, evaluate={"gallery": 0})
    now = written()
    assert (now.train, now.evaluate.gallery, now.cluster.num_cpus) == (wanted.train, 0, 3)


def test_a_stage_is_done_only_with_the_settings_that_decide_it(local_storage):
    folder = RunFolder(local_storage, config())
    assert not folder.is_done("extract") and folder.result("extract") is None
    assert folder.write_result("extract", {"videos": 3}) == "first/faces/result.json"
    assert folder.is_done("extract") and folder.result("extract")["videos"] == 3
    assert not folder.is_done("train")
    assert RunFolder(local_storage, config(train={"batch_size": 16})).is_done("extract")
    assert RunFolder(local_storage, config(extract={"decode_cpus": 2})).is_done("extract")
    assert not RunFolder(local_storage, config(extract={"margin": 0.5})).is_done("extract")
    folder.write_result("extract", {"status": "partial"})
    assert not folder.is_done("extract")


def test_keys():
    folder = RunFolder(None, config())
    assert folder.key("train", "defended", "card.json") == "first/train/defended/card.json"
    assert folder.key("pipeline", "result.json") == "first/result.json"
    assert set(SECTIONS) <= set(FOLDERS)
