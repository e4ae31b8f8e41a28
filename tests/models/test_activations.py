"""robust/models/activations.py: no kink is left anywhere after a swap, in whatever way the network holds its activations."""

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from robust.config import ModelConfig
from robust.models.activations import ACTIVATIONS, swap_activations
from robust.models.detector import build_detector

KINKS = ("Relu", "Hardtanh", "Hardswish")


def operations(output: torch.Tensor) -> set[str]:
    """Names of all differentiable operations that led to `output`."""
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return {node.name() for node in seen}


def kinks(model: nn.Module, size: int = 32) -> set[str]:
    return {name for name in operations(model.eval()(torch.rand(1, 3, size, size))) if any(kink in name for kink in KINKS)}


@pytest.mark.parametrize("name", ["legacy_xception", "tf_efficientnet_lite0", "test_resnet", "meso_inception4", "mobilenetv3_small_050"])
def test_no_kink_is_left(name):
    plain, _ = build_detector(ModelConfig(name=name, input_size=64, weights="none"))
    assert kinks(plain, 64)
    smooth, _ = build_detector(ModelConfig(name=name, input_size=64, weights="none", activation="silu"))
    assert kinks(smooth, 64) == set()
    assert smooth.state_dict().keys() == plain.state_dict().keys()


def test_activations_inside_timms_batch_norm_are_swapped():
    model = timm.create_model("efficientnet_lite0", num_classes=1)
    inside = [module for module in model.modules() if isinstance(module, BatchNormAct2d) and isinstance(module.act, nn.ReLU6)]
    assert inside
    assert swap_activations(model, "gelu") == len(inside)
    assert all(isinstance(module.act, nn.GELU) for module in inside) and kinks(model) == set()


def test_one_module_used_in_two_places_is_swapped_in_both():
    shared = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 2, 1), shared, nn.Conv2d(2, 2, 1), shared, nn.Sequential(nn.Conv2d(2, 1, 1), shared), nn.LeakyReLU())
    assert swap_activations(model, "softplus") == 4 and kinks(model) == set()


@pytest.mark.parametrize("name", ["silu", "gelu", "softplus"])
def test_the_smooth_ones_stay_near_relu(name):
    x = torch.linspace(-5, 5, 201, dtype=torch.float64)
    assert (ACTIVATIONS[name]()(x) - x.relu()).abs().max() < {"softplus": 0.07, "gelu": 0.18, "silu": 0.29}[name]
