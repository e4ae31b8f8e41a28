"""robust/training/session.py: from a run's shards and settings to trained epochs."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import write_faces
from tiny_training import same, weights

from benchmarks.noop_stage import crops_and_status
from robust.config_file import parse
from robust.data import crops as crop_sets
from robust.data import face_table
from robust.data.faces_on_disk import MappedImages
from robust.data.inputs import to_tensor
from robust.data.order import epoch_batches
from robust.data.rows import VideoRow
from robust.data.shards import write_shard
from robust.errors import UserError
from robust.models.checkpoint import save_checkpoint
from robust.training.loop import Place, start_training
from robust.training.session import _load_split as load_split
from robust.training.session import has_stalled, initial_detector, load_crops, run_epochs
from robust.training.state import load_state, save_state
from robust.training.validation import CONSTANT, is_constant


def config_of(**sections):
    return parse({"run": {"name": "tiny"}, "model": {"name": "test_resnet", "input_size": 32, "weights": "none"},
                  "train": {"batch_size": 8, "validation": {"steps": 1, "max_images": 8, "every": 2},
                            "defended": {"epochs": 3, "attack": {"epsilon": 1, "steps": 1}, "init_from": "baseline"}}, **sections})


@pytest.fixture
def storage(local_storage):
    write_faces(local_storage, "tiny")
    return local_storage


def test_splits_are_kept_apart(storage):
    crops = load_crops(config_of(), storage)
    assert (len(crops.train), len(crops.validation), crops.validates_on_training) == (32, 16, False)
    assert all("train" in name for name in crops.train.video_ids) and all("val" in name for name in crops.validation.video_ids)
    assert crops.train.size == 32


def test_of_several_people_training_takes_those_whose_label_is_known_and_validation_the_subjects(local_storage):
    write_faces(local_storage, "tiny", people=3)
    crops = load_crops(config_of(), local_storage)
    assert np.bincount(crops.train.labels).tolist() == [3 * 16, 16]  # 8 videos of each label, 2 frames
    assert np.bincount(crops.validation.labels).tolist() == [8, 8]
    everything = {"data": {"splits": {"use_everything": True}}, "extract": {"people": "all"}}
    crops = load_crops(config_of(**everything), local_storage)
    assert np.bincount(crops.train.labels).tolist() == [48, 16] and np.bincount(crops.validation.labels).tolist() == [16, 16]


def test_use_everything_validates_on_training_and_says_so(local_storage):
    write_faces(local_storage, "tiny", splits={"train": 4})
    crops = load_crops(config_of(data={"splits": {"use_everything": True}}), local_storage)
    assert crops.validates_on_training and crops.validation is crops.train and len(crops.train) == 16


def test_a_split_without_faces_is_told(local_storage):
    with pytest.raises(UserError, match="no real face crops in split 'train'; run jobs.extract first"):
        load_crops(config_of(), local_storage)
    write_faces(local_storage, "tiny", splits={"train": 4})
    with pytest.raises(UserError, match="split 'val'"):
        load_crops(config_of(), local_storage)


def test_the_defended_model_starts_from_the_baseline_and_says_so(storage):
    config = config_of(model={"name": "test_resnet", "input_size": 32, "weights": "none", "activation": "gelu"})
    torch.manual_seed(0)
    baseline, source = initial_detector(config, config.train.baseline, storage)
    assert source == "none: trained from scratch"
    card = save_checkpoint(storage, "tiny/train/baseline", baseline, {"threshold": 0.0})
    start, source = initial_detector(config, config.train.defended, storage)
    assert same(weights(start), weights(baseline)) and source == f"baseline of this run, sha256 {card['sha256'][:16]}"
    assert not start.swapped
    relu = config.train.defended.model_copy(update={"activation": "relu"})
    assert initial_detector(config, relu, storage)[0].swapped
    other = config_of(model={"name": "meso_inception4", "input_size": 32, "weights": "none"})
    with pytest.raises(UserError, match="init_from: tiny/train/baseline is a test_resnet, model.name asks for meso_inception4"):
        initial_detector(other, other.train.defended, storage)


def test_a_missing_baseline_is_told(storage):
    config = config_of()
    with pytest.raises(UserError, match="tiny/train/baseline: no model.safetensors"):
        initial_detector(config, config.train.defended, storage)


def test_epochs_are_validated_when_due_and_resumed_where_they_ended(storage, tmp_path):
    config = config_of()
    crops = load_crops(config, storage)
    recipe = config.train.defended.model_copy(update={"init_from": None})

    def run(*, stop_after: int | None = None, resume: Path | None = None, seed=0):
        torch.manual_seed(seed)
        network, _ = initial_detector(config, recipe, storage)
        seen = []
        for training, figures, scores in run_epochs(config, recipe, config.train.validation, network, crops, place=Place(), resume=resume):
            seen.append((training.epoch, figures.epoch, scores is not None))
            if training.epoch == stop_after:
                save_state(training, tmp_path, {})
                break
        return training, seen

    whole, seen = run()
    assert seen == [(1, 0, False), (2, 1, True), (3, 2, True)]
    run(stop_after=2)
    resumed, seen = run(resume=tmp_path, seed=9)
    assert seen == [(3, 2, True)] and same(weights(resumed.network), weights(whole.network))


@pytest.mark.parametrize("share", [0, 0.5])
def test_faces_too_many_for_memory_are_read_from_a_file_and_train_the_same(local_storage, tmp_path, monkeypatch, share):
    storage = local_storage
    write_faces(storage, "tiny", people=2)
    config = config_of(train={"batch_size": 8, "self_blend": {"share": share}, "baseline": {"epochs": 1, "attack": {"epsilon": 0}}})

    def trained():
        crops = load_crops(config, storage)
        torch.manual_seed(0)
        network, _ = initial_detector(config, config.train.baseline, storage)
        ((training, _, _),) = run_epochs(config, config.train.baseline, config.train.validation, network, crops, place=Place())
        return crops, weights(training.network)

    small, expected = trained()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("robust.training.session.ENCODED_LIMIT", 0)
    monkeypatch.setattr("robust.data.crops.MEMORY_LIMIT", 100)
    large, found = trained()
    assert isinstance(large.train.encoded, MappedImages) and small.train.pixels is not None and same(found, expected)
    assert np.array_equal(large.train.frames, small.train.frames) and large.train.ids(range(9)) == small.train.ids(range(9))
    assert list((tmp_path / "temporary").iterdir()) == []  # it has no name any more


def test_only_rank_0_validates(storage):
    config = config_of()
    recipe = config.train.baseline.model_copy(update={"epochs": 2})
    network, _ = initial_detector(config, recipe, storage)
    crops = load_crops(config, storage)
    epochs = run_epochs(config, recipe, config.train.validation, network, crops, place=Place(rank=1, world=2))
    assert [scores for _, _, scores in epochs] == [None, None]


def test_self_blends_join_the_stored_fakes_in_training_alone(storage):
    config = config_of(train={"batch_size": 8, "self_blend": {"share": 0.5, "strength": "faint"}})
    crops, plain = load_crops(config, storage), load_crops(config_of(), storage)
    assert len(crops.train) == 32 + 16 and set(crops.train.methods) == {"real", "coarse", "fine", "self_blend"}
    assert np.array_equal(crops.validation.pixels, plain.validation.pixels)


def test_real_faces_alone_are_enough_with_self_blends(local_storage):
    write_faces(local_storage, "tiny", fakes=False)
    with pytest.raises(UserError, match="no fake face crops in split 'train'"):
        load_crops(config_of(train={"self_blend": {"share": 0.5}}), local_storage)
    config = config_of(train={"batch_size": 8, "self_blend": {"share": 1}, "baseline": {"epochs": 1, "attack": {"epsilon": 0}}})
    crops = load_crops(config, local_storage)
    assert (len(crops.train), len(crops.validation), crops.validation.labels.sum()) == (32, 16, 8)
    assert np.array_equal(crops.validation.pixels, load_crops(config, local_storage).validation.pixels)
    network, _ = initial_detector(config, config.train.baseline, local_storage)
    (training, figures, scores), = run_epochs(config, config.train.baseline, config.train.validation, network, crops, place=Place())
    assert figures.steps == 4 and 0 <= scores["auc"] <= 1


@pytest.mark.parametrize("frozen", [True, False])
def test_swapped_activations_get_batch_norm_statistics_of_their_own(storage, frozen):
    config = config_of(augment={"level": "none"}, train={
        "batch_size": 8, "ema_decay": 0.9, "validation": {"steps": 1, "max_images": 8},
        "defended": {"epochs": 1, "attack": {"epsilon": 1, "steps": 1}, "activation": "silu", "refit": 3,
                     "batch_norm": "frozen" if frozen else None},
    })
    recipe, crops = config.train.defended, load_crops(config, storage)
    network, _ = initial_detector(config, recipe, storage)
    before, seen = copy.deepcopy(network).train(), []
    batches = epoch_batches(crops.train.labels, crops.train.methods, batch_size=8, seed=config.run.seed, epoch=0, balance=True)
    last_norm = [module for module in before.modules() if isinstance(module, torch.nn.BatchNorm2d)][-1]
    last_norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].mean(dim=(0, 2, 3))))
    with torch.no_grad():
        for indices in batches[:3]:
            before(to_tensor(crops.train.batch(indices)).contiguous(memory_format=torch.channels_last))
    (training, _, _), = run_epochs(config, recipe, config.train.validation, network, crops, place=Place())
    for trained in (training.network, training.average.network):
        mean = [module for module in trained.modules() if isinstance(module, torch.nn.BatchNorm2d)][-1].running_mean
        assert torch.allclose(mean, torch.stack(seen).mean(dim=0), rtol=1e-4, atol=1e-6) == frozen


def test_the_images_are_kept_as_they_were_read(local_storage, monkeypatch):
    addresses = set()
    for number in range(3):
        rows = [VideoRow(f"own/m/{number}-{index}", "none", index % 2, "own", "m", (f"own:{number}",), "train") for index in range(4)]
        faces, statuses = zip(*(crops_and_status(row, "f") for row in rows))
        write_shard(local_storage, "tiny", f"own/{9 - number:016x}", list(faces), list(statuses))  # in another order than the videos
    read = face_table.read_shard

    def remembered(*arguments, **settings):
        table = read(*arguments, **settings)
        addresses.update(chunk.buffers()[-1].address for chunk in table.column("image").chunks)
        return table

    monkeypatch.setattr(face_table, "read_shard", remembered)
    monkeypatch.setattr(crop_sets, "MEMORY_LIMIT", 0)  # so they are kept encoded
    loaded = load_split(config_of(), local_storage, "train", everybody=True)
    assert loaded.video_ids.tolist() == [f"own/m/{number}-{index}" for number in range(3) for index in range(4)]
    assert {chunk.buffers()[-1].address for chunk in loaded.encoded.chunks if len(chunk)} == addresses  # the very memory, not a copy of it


def test_training_has_stalled_when_robust_validation_gets_no_better(storage, tmp_path, monkeypatch):
    config = config_of(train={"batch_size": 8, "patience": 2, "baseline": {"epochs": 9, "attack": {"epsilon": 0}}})
    figures = iter([0.5, 0.7, float("nan"), 0.7, 0.8])
    monkeypatch.setattr("robust.training.session.validate", lambda *_, **__: {"robust_auc": next(figures)})
    crops, recipe = load_crops(config, storage), config.train.baseline

    def epochs(resume=None):
        network, _ = initial_detector(config, recipe, storage)
        return run_epochs(config, recipe, config.train.validation, network, crops, place=Place(), resume=resume)

    for training, _, _ in epochs():
        if has_stalled(training, config.train):
            break
    assert (training.epoch, training.best, training.since_best) == (4, 0.7, 2)
    save_state(training, tmp_path, {})
    assert list(epochs(tmp_path)) == []  # a job that was stopped before it published has no epoch left to do
    patient = config.train.model_copy(update={"patience": None})
    assert not has_stalled(training, patient)


def test_a_network_drawn_at_random_is_no_constant_after_a_step_and_one_without_weights_is(storage, tmp_path):
    config = config_of(train={"batch_size": 8, "learning_rate": 1e-9, "baseline": {"epochs": 1, "attack": {"epsilon": 0}}})
    recipe, crops = config.train.baseline, load_crops(config, storage)
    network, _ = initial_detector(config, recipe, storage)
    (training, _, scores), = run_epochs(config, recipe, config.train.validation, network, crops, place=Place())
    told_nothing = {**scores, "frame_auc": 0.5}
    assert not is_constant(told_nothing, training.first_spread)  # batch norms have changed, and nothing else
    assert not is_constant({**told_nothing, "logit_spread": CONSTANT / 4}, CONSTANT / 3)
    assert not is_constant({**told_nothing, "logit_spread": 1e-4, "frame_auc": 0.9}, 1.0)
    assert is_constant({**told_nothing, "logit_spread": training.first_spread / 20}, training.first_spread)
    assert is_constant({**told_nothing, "logit_spread": 1e-3}, 5.0)
    save_state(training, tmp_path, {})
    again = start_training(initial_detector(config, recipe, storage)[0], config.train, recipe, device=Place().device)
    load_state(again, tmp_path)
    assert again.first_spread == training.first_spread > 0
