"""benchmarks/workers.py: epochs are timed between their ends, and a missed bar is called missed."""

import pytest
from tiny_run import write_faces

from benchmarks import workers as module
from benchmarks.search_kills import copy_some
from robust.config_file import parse
from robust.storage import Storage


def test_the_plain_loop_gives_the_times_and_waits_of_all_epochs_but_the_first(local_storage, tmp_path, monkeypatch):
    write_faces(local_storage, "big")
    for name, value in (("EPOCHS", 3), ("SIZE", 32), ("BATCH", 8)):
        monkeypatch.setattr(module, name, value)
    config = parse({"run": {"name": "big"}, "model": {"name": "test_resnet", "input_size": 32, "weights": "none"},
                    "train": {"batch_size": 8, "defended": {"init_from": "baseline", "attack": {"steps": 1}, "lipschitz": {"weight": 0}}}})
    child = module.child_of(config, tmp_path, workers=1, loader_threads=1)
    assert child.train.defended.init_from is None and child.train.defended.attack.steps == 1 and child.train.workers == 1
    copy_some(local_storage, "big", Storage.from_config(child.storage), child.run.name, {"train": 8, "val": 8})
    seconds, waited = module.plain(child)
    assert len(seconds) == len(waited) == 2 and min(seconds) > 0 and all(0 <= share < 1 for share in waited)
    with pytest.raises(ValueError, match="2 ends of 3 epochs were seen"):
        module.between([1.0, 2.0])


@pytest.mark.parametrize(("name", "met", "missed"), [("1 -> 2 workers", 1.8, 1.79), ("data wait", 0.05, 0.06), ("overhead of Ray Train, 1 worker", -0.1, 0.04)])
def test_bars_are_met_on_their_own_side(name, met, missed):
    assert module.is_met(name, met) and not module.is_met(name, missed)
