"""robust/models/meso_inception.py against the paper: its size, its shapes."""

import torch
from torch import nn

from robust.models.meso_inception import MesoInception4


def test_as_many_parameters_as_in_the_paper():
    # Afchar et al. 2018, table 1 and section 3.2: MesoInception-4 has 28 615 trainable parameters.
    assert sum(parameter.numel() for parameter in MesoInception4().parameters()) == 28_615


def test_shapes_at_256_pixels():
    model, shapes = MesoInception4().eval(), []
    for layer in model.features:
        layer.register_forward_hook(lambda module, _, output: shapes.append((type(module).__name__, tuple(output.shape[1:]))))
    assert model(torch.rand(2, 3, 256, 256)).shape == (2, 1)
    pooled = [shape for name, shape in shapes if name == "MaxPool2d"]
    assert pooled == [(11, 128, 128), (12, 64, 64), (16, 32, 32), (16, 8, 8)]
    assert shapes[-1] == ("AdaptiveAvgPool2d", (16, 8, 8))


def test_the_pool_for_other_sizes_changes_nothing_at_256():
    model, x = MesoInception4().eval(), torch.rand(1, 3, 256, 256)
    expected = model(x)
    model.features[-1] = nn.Identity()
    assert torch.equal(model(x), expected)


def test_dilated_branches_see_further():
    branches = MesoInception4().features[0].eval()
    assert [branch[2].dilation[0] for branch in (branches.plain, branches.wide, branches.wider)] == [1, 2, 3]
    assert branches(torch.rand(1, 3, 9, 9)).shape == (1, 11, 9, 9)
