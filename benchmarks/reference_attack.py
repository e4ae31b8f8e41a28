"""The reference implementation's attack with its faults, written anew from what its scripts do, to be measured beside ours.

Source of the facts: github.com/JungYuna9515/Deepfake-Detection-Robust-on-adversarial-attack at commit 5767f7e, files
model_performace_test.py.py (attack and first score), adv_examples_test.py (second score) and AT_pgd_train.py
(training, and validation under attack). Not for use against a model that matters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust.models.detector import Detector

STEPS = 40
STEP_SIZE = 0.01
PGD_EPSILON = 2.0  # of its attack script, 0-255 units
FGSM_EPSILON = 1.0
TRAINING_EPSILON = 1.0  # of its training script, which applies 1 / 255 to values in [-1, 1]


def reference_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    steps: int = STEPS,
    step_size: float = STEP_SIZE,
    moves: bool = False,
) -> Tensor:
    """Its "PGD-40": every pass starts from the clean image, so that only the last step counts, and that equals the first.

    The mean cross-entropy is differentiated, the gradients of all passes are summed, the start is the image itself, and
    the last point is kept, however weak. The model is attacked in the mode that it is in, batch statistics included.

    Args:
        x: (N, 3, H, W) in [0, 1], or whatever space epsilon and the clamp to [0, 1] are to be applied in.
        y: (N,) labels, 1 = fake.
        epsilon: in the units of x.
        moves: the repair: each pass starts where the last one ended, with a gradient of its own.
    """
    x, point, total = x.detach(), x.detach(), torch.zeros_like(x)
    for _ in range(steps):
        gradient = _gradient(model, point, y)
        total = gradient if moves else total + gradient
        change = (point + step_size * total.sign() - x).clamp(-epsilon, epsilon)
        x_adv = (x + change).clamp(0, 1)
        point = x_adv if moves else x
    return x_adv


def reference_fgsm(model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float) -> Tensor:
    """Its FGSM: one step of epsilon along the sign of the cross-entropy's gradient, clamped to [0, 1]."""
    return (x + epsilon * _gradient(model, x.detach(), y).sign()).clamp(0, 1)


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    loss = F.binary_cross_entropy_with_logits(model(x), y.to(x.dtype))
    return torch.autograd.grad(loss, x)[0]


def in_normalised_units(model: Detector, x: Tensor, y: Tensor, **attack) -> Tensor:
    """Its attack during training: epsilon and the clamp to [0, 1] act on normalised values, which reach from -1 to 1.

    Every value below 0 there, half of the range of pixels, is moved to 0, which is mid-grey; and epsilon is half as much.

    Returns:
        (N, 3, H, W) the same images as pixels in [0, 1].
    """
    normalised = reference_pgd(WithoutNormalisation(model), (x - model.mean) / model.std, y, **attack)
    return normalised * model.std + model.mean


class WithoutNormalisation(nn.Module):
    """The network behind a detector's first layer: takes what it is given for normalised values."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector
        self.training = detector.training

    def forward(self, x: Tensor) -> Tensor:
        return self.detector(x * self.detector.std + self.detector.mean)
