"""What the tests of the attacks measure with."""

import torch
from torch import nn

from robust.attacks.losses import margin_loss


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def robust_accuracy(model, x, y):
    with torch.no_grad():
        return ((model(x) > 0).long() == y).float().mean().item()


def margins(model, x, y):
    """(N,) margins; positive where the model is wrong."""
    with torch.no_grad():
        return margin_loss(model(x), y)


def mean_loss(model, x, y):
    return margins(model, x, y).mean().item()


class Counting(nn.Module):
    """Counts forward passes, those that lead to a gradient, and the images of all."""

    def __init__(self, model):
        super().__init__()
        self.model, self.forwards, self.gradients, self.images = model, 0, 0, 0

    def forward(self, x):
        self.forwards += 1
        self.gradients += x.requires_grad
        self.images += len(x)
        return self.model(x)


class Scaled(nn.Module):
    """A detector whose logits are `factor` times as large: the same decisions, a sigmoid without gradient."""

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.factor * self.model(x)
