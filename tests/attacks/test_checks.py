"""Checks that keep figures honest: what is wrong is caught, what is right passes."""

import pytest
import torch
from torch import nn

from robust.attacks.checks import require_eval_mode, require_plausible_inputs
from robust.errors import UserError


def faces(seed=0, *, low=0.1, high=0.9):
    """Smooth pictures: low-resolution noise, enlarged."""
    noise = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(low + (high - low) * noise, size=32, mode="bilinear")


@pytest.mark.parametrize("images", [faces(), faces(low=0.0, high=0.25), faces(low=0.6, high=1.0), faces(low=0.3, high=0.5)])
def test_bright_dark_and_flat_pictures_pass(images):
    require_plausible_inputs(images, where="test")


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (faces() / 255, "255 twice"),
        (torch.zeros(4, 3, 8, 8), "nearly constant"),
        (torch.full((4, 3, 8, 8), 0.5), "nearly constant"),
        (faces() * 2 - 1, "must be in"),
        (faces() * 255, "must be in"),
        (faces() * float("nan"), "finite"),
        ((faces() * 255).byte(), "finite floats"),
        (torch.zeros(0, 3, 8, 8), "no images"),
    ],
)
def test_what_is_no_picture_is_refused(images, says):
    with pytest.raises(UserError, match=says):
        require_plausible_inputs(images, where="demo/fine/id0")


def test_training_mode_anywhere_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1)).eval()
    require_eval_mode(model)
    model[1].train()
    with pytest.raises(UserError, match="the first is 1"):
        require_eval_mode(model)
