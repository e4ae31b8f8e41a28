"""jobs/run_folder.py: a run's name belongs to one configuration, and a stage is done only with it."""

import pytest

from jobs.run_folder import FOLDERS, SECTIONS, RunFolder
from robust.config_file import load_config, parse
from robust.errors import ConfigError


def config(**sections):
    return parse({"run": {"name": "first"}, **sections})


def test_the_first_job_writes_the_config_and_the_same_one_goes_on(storage):
    RunFolder(storage, config()).open()
    assert storage.list() == ["first/config.yaml"]
    before = storage.read_bytes("first/config.yaml")
    RunFolder(storage, config(cluster={"num_cpus": 7}, train={"workers": 4})).open()
    assert storage.read_bytes("first/config.yaml") == before


def test_other_science_under_the_same_name_is_refused_by_key(local_storage):
    RunFolder(local_storage, config()).open()
    with pytest.raises(ConfigError, match=r"run.name=first .*train.batch_size: 32 -> 16") as told:
        RunFolder(local_storage, config(train={"batch_size": 16, "workers": 2}, extract={"margin": 0.5})).open()
    assert "extract.margin: 0.3 -> 0.5" in str(told.value) and "workers" not in str(told.value)
    RunFolder(local_storage, parse({"run": {"name": "second"}, "train": {"batch_size": 16}})).open()


def test_an_unreadable_config_is_told_with_its_address(local_storage):
    local_storage.write_bytes("first/config.yaml", b"run: [")
    with pytest.raises(ConfigError, match="first/config.yaml is not a configuration of this version"):
        RunFolder(local_storage, config()).open()


def test_the_written_config_is_the_config(local_storage, tmp_path):
    wanted = config(train={"batch_size": 16}, evaluate={"epsilons": [0.5, 1], "headline": ["pgd", 1]})
    RunFolder(local_storage, wanted).open()
    local_storage.download("first/config.yaml", tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == wanted


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
