"""All parts of an evaluation at once: the same summary.json in whatever order its tasks run, and after a killed shard."""

import random

import pytest
import torch
from test_codec_tasks import config as codec_config
from test_codec_tasks import folder as codec_folder
from test_evaluate import RUN, summary_of
from test_universal_tasks import write_validation
from torch import nn

import jobs.evaluate as job
from jobs import block_tasks
from robust.config_file import parse
from robust.evaluation.summary import without_timing
from robust.models.checkpoint import load_checkpoint, save_checkpoint
from robust.storage import Storage

PARTS = ("corruptions", "codec", "whole_video", "universal", "smoothing", "export")
folder = codec_folder


def config(folder):
    """All that can be measured but gates, small: two models, four attacks, and every other part of the report."""
    tree = codec_config(folder, jpeg_quality=[], frames_per_video=1).model_dump(mode="json")
    tree["evaluate"] |= {
        "suites": {"tiny": {"fgsm": {"steps": 1}, "pgd": {"steps": 2}, "transfer": {"steps": 2}, "eot": {"steps": 1}}},
        "headline": ["worst", 0.5], "eot_samples": 2, "block_size": 1, "batch_size": 2, "frames_per_video": 1,
        "corruptions": {"severities": [3], "frames_per_video": 1},
        "smoothing": {"enabled": True, "sigmas": [16], "n0": 5, "n": 20},
        "whole_video": {"enabled": True, "steps": 2},
        "universal": {"enabled": True, "steps": 2, "images": 4},
        "export": {"crops": 4, "epsilon": 4}}
    return parse(tree)


class Shards:
    """Tasks dealt to so many shards in an order of their own, one shard after another; one is killed after so many."""

    def __init__(self, count: int, *, killed_after: int | None = None):
        self.count, self.killed_after, self.done = count, killed_after, 0

    def __call__(self, config, storage, tasks, **_):
        tasks = list(tasks)
        random.Random(self.count).shuffle(tasks)
        for shard in range(self.count):
            for task in tasks[shard::self.count]:
                if self.done == self.killed_after:
                    raise KeyboardInterrupt
                torch.manual_seed(shard)  # what a worker did before must not matter
                block_tasks.run_task(config, storage, task)
                self.done += 1
        return 0.0


@pytest.fixture
def evaluate(folder, monkeypatch):
    """evaluate(shards, afresh) -> the summary without its times."""
    monkeypatch.setattr(job, "make_gallery", lambda *_: [])
    settings = config(folder)
    storage = Storage.from_config(settings.storage)

    def run(shards, *, afresh=True):
        if afresh:
            storage.delete_prefix(f"{RUN}/evaluate")
        monkeypatch.setattr(job, "run_tasks", shards)
        job.evaluate(settings, storage)
        return without_timing(summary_of(folder))

    return run


@pytest.fixture(scope="module", autouse=True)
def defended(folder):
    """A second model, so that transfer is made on something: the first with other weights in its last layer.

    And validation crops, which universal perturbations are made on.
    """
    storage = Storage.from_config(config(folder).storage)
    write_validation(storage)
    model, card = load_checkpoint(storage, f"{RUN}/train/baseline")
    with torch.no_grad():
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        last.weight.mul_(0.9)
    save_checkpoint(storage, f"{RUN}/train/defended", model.eval(),
                    {"threshold": 0.0, "frame_threshold": 0.0, "recipe": "defended"})


def test_one_two_and_five_shards_and_a_killed_one_give_one_summary(evaluate):
    whole = Shards(1)
    one = evaluate(whole)
    assert all(one[part] for part in PARTS) and one["not_run"] == []
    assert {attack["attack"] for attack in one["attacks"]} == {"fgsm", "pgd", "transfer", "eot", "worst"}
    assert [model["name"] for model in one["models"]] == ["baseline", "defended"]
    killed = [Shards(5, killed_after=9), Shards(3, killed_after=12)]  # with one model's pattern; within the corruptions
    for place, shards in enumerate(killed):
        with pytest.raises(KeyboardInterrupt):
            evaluate(shards, afresh=place == 0)
    rest = Shards(2)
    assert evaluate(rest, afresh=False) == one and rest.done + 9 + 12 == whole.done
