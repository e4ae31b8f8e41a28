"""robust/models/checkpoint.py: what was saved comes back to the bit; anything else is refused, and nothing is a pickle."""

import json

import pytest
import torch

from robust.config import ModelConfig
from robust.errors import UserError
from robust.models.checkpoint import CARD, WEIGHTS, checkpoint_place, load_checkpoint, save_checkpoint
from robust.models.detector import build_detector

KEY = "run/train/baseline"


@pytest.fixture
def saved(local_storage):
    torch.manual_seed(0)
    detector, _ = build_detector(ModelConfig(name="test_resnet", input_size=32, weights="none", activation="silu"))
    detector.train()(torch.rand(8, 3, 32, 32))  # moves the batch-norm statistics
    save_checkpoint(local_storage, KEY, detector, {"threshold": 0.25})
    return detector


def change_card(storage, **changes):
    card = storage.read_json(f"{KEY}/{CARD}")
    storage.write_json(f"{KEY}/{CARD}", {**card, **changes})


def change_architecture(storage, **changes):
    change_card(storage, architecture={**storage.read_json(f"{KEY}/{CARD}")["architecture"], **changes})


def test_a_round_trip_is_equal_to_the_bit(local_storage):
    torch.manual_seed(0)
    detector, _ = build_detector(ModelConfig(name="test_resnet", input_size=32, weights="none", activation="silu"))
    detector.train()(torch.rand(8, 3, 32, 32))
    detector.to(memory_format=torch.channels_last)
    written = save_checkpoint(local_storage, KEY, detector, {"threshold": 0.25})
    loaded, card = load_checkpoint(local_storage, KEY)
    assert card == written == {**card, "threshold": 0.25, "schema": 1}
    assert not loaded.training and loaded.architecture == detector.architecture
    before, after = detector.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(detector.eval().to(memory_format=torch.contiguous_format)(x), loaded(x))


def test_a_checkpoint_is_two_files_and_no_pickle(saved, local_storage):
    assert local_storage.list() == [f"{KEY}/{CARD}", f"{KEY}/{WEIGHTS}"]
    blob = local_storage.read_bytes(f"{KEY}/{WEIGHTS}")
    header = json.loads(blob[8:8 + int.from_bytes(blob[:8], "little")])  # safetensors: a length, JSON, then numbers only
    assert header.keys() - {"__metadata__"} == saved.state_dict().keys()


@pytest.mark.parametrize("place", [-1, 10])
def test_tampered_weights_are_refused(saved, local_storage, place):
    blob = bytearray(local_storage.read_bytes(f"{KEY}/{WEIGHTS}"))
    blob[place] ^= 1
    local_storage.write_bytes(f"{KEY}/{WEIGHTS}", bytes(blob))
    with pytest.raises(UserError, match="SHA-256 differs"):
        load_checkpoint(local_storage, KEY)


def test_a_truncated_file_is_refused_even_without_a_hash(saved, local_storage):
    local_storage.write_bytes(f"{KEY}/{WEIGHTS}", local_storage.read_bytes(f"{KEY}/{WEIGHTS}")[:-100])
    change_card(local_storage, sha256=None)
    with pytest.raises(UserError, match=f"{KEY}: weights do not fit"):
        load_checkpoint(local_storage, KEY)


@pytest.mark.parametrize("changes, told", [
    ({"name": "meso_inception4"}, "weights do not fit the card's architecture"),
    ({"name": "test_resnet9"}, "'test_resnet9'"), ({"mean": None}, "no usable architecture"), ({"mean": [0.5]}, "no usable architecture"),
    ({"std": ["a", "b", "c"]}, "no usable architecture"), ({"activation": "cubic"}, "no usable architecture"),
])
def test_a_wrong_architecture_is_told(saved, local_storage, changes, told):
    change_architecture(local_storage, **changes)
    with pytest.raises(UserError, match=told) as error:
        load_checkpoint(local_storage, KEY)
    assert KEY in str(error.value)


@pytest.mark.parametrize("card", [[], {"architecture": None}, {"architecture": {"name": "test_resnet"}}])
def test_a_card_that_is_none_is_told(saved, local_storage, card):
    local_storage.write_json(f"{KEY}/{CARD}", card)
    with pytest.raises(UserError, match="no usable architecture"):
        load_checkpoint(local_storage, KEY)


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_missing_file_is_named(saved, local_storage, name):
    local_storage.delete(f"{KEY}/{name}")
    with pytest.raises(UserError, match=f"{KEY}: no {name}"):
        load_checkpoint(local_storage, KEY)


@pytest.mark.parametrize("uri, place", [
    ("s3://bucket/runs/mine/train/defended/", ("s3://bucket/runs/mine/train", "defended")), ("s3://bucket/m", ("s3://bucket", "m")),
    ("gs://bucket/m", ("gs://bucket", "m")), ("/m", ("/", "m")), ("/models/m//", ("/models", "m")),
])
def test_a_checkpoint_is_a_folder_in_a_storage(uri, place):
    assert checkpoint_place("detect.checkpoint", uri) == place


def test_a_local_checkpoint_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri, name in (("m", "m"), ("./m", "m"), (".", tmp_path.name)):
        parent, folder = checkpoint_place("detect.checkpoint", uri)
        assert (parent, folder) == (str(tmp_path if name == "m" else tmp_path.parent), name)
