"""robust/models/weights.py: weights from files that others made; what only running it would load is refused."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from robust.config import ModelConfig
from robust.errors import UserError
from robust.models.detector import build_detector


def tiny(weights="none", *, seed=1):
    torch.manual_seed(seed)
    return build_detector(ModelConfig(name="test_resnet", input_size=32, weights=str(weights)))


@pytest.fixture(scope="module")
def donor():
    """A network with other numbers than a new one."""
    return tiny(seed=0)[0].backbone


def holds(detector, tensors, *, without=()):
    own = detector.backbone.state_dict()
    return all(torch.equal(own[name], value) for name, value in tensors.items() if name not in without)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_safetensors_of_a_backbone_or_a_detector(donor, tmp_path, prefix):
    save_file({prefix + name: value.clone() for name, value in donor.state_dict().items()}, tmp_path / "w.safetensors")
    detector, source = tiny(tmp_path / "w.safetensors")
    assert source == "file w.safetensors" and holds(detector, donor.state_dict())
    assert not holds(tiny()[0], donor.state_dict())


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}, lambda state: {"model": state}])
def test_torchs_own_format_with_tensors_only(donor, tmp_path, wrap):
    torch.save(wrap(donor.state_dict()), tmp_path / "w.pth")
    detector, _ = tiny(tmp_path / "w.pth")
    assert holds(detector, donor.state_dict())


def test_another_head_is_replaced_and_said(donor, tmp_path):
    state = {**donor.state_dict(), "fc.weight": torch.zeros(1000, donor.fc.in_features), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "imagenet.pth")
    detector, source = tiny(tmp_path / "imagenet.pth")
    assert source == "file imagenet.pth (new head)" and holds(detector, state, without=("fc.weight", "fc.bias"))
    assert detector.backbone.fc.weight.abs().sum() > 0


class RunsCode:
    """What a malicious pickle is: loading it calls a function of its author's choice."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_malicious_pickle_is_refused_and_runs_nothing(donor, tmp_path, save):
    marker, file = tmp_path / "was_run", tmp_path / "w.pth"
    save({**donor.state_dict(), "x": RunsCode(marker)}, file)
    with pytest.raises(UserError, match="w.pth is not a plain tensor file .*convert it to safetensors"):
        tiny(file)
    assert not marker.exists()
    with open(file, "rb") as stream:  # the trap works
        torch.load(stream, weights_only=False) if save is torch.save else pickle.load(stream)
    assert marker.exists()


def test_weights_of_another_architecture_are_told(donor, tmp_path):
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="other.safetensors lacks .*of 92.*another architecture"):
        tiny(tmp_path / "other.safetensors")


@pytest.mark.parametrize("name, content, told", [
    ("w.safetensors", b"not one", "not a whole safetensors file"), ("w.pth", b"not one", "not a plain tensor file"), ("w.pth", b"", "not a plain"),
])
def test_a_damaged_file_is_told(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        tiny(tmp_path / name)


def test_a_file_without_named_tensors_is_told(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "w.pth")
    with pytest.raises(UserError, match="no named tensors"):
        tiny(tmp_path / "w.pth")


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="model.weights: no file .*none.pth; give timm, package, none"):
        tiny(tmp_path / "none.pth")


def test_a_model_without_packaged_weights_is_told():
    with pytest.raises(UserError, match="no package carries weights of test_resnet; there are tf_efficientnet_lite0"):
        tiny("package")
