"""Detectors for the tests of the gates: honest ones of many kinds, and ones whose robustness is faked in one way each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.small_detector import make_images
from robust.attacks.fgsm import fgsm
from robust.attacks.threat import Linf

SIZE = 24
ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.GELU, nn.Softplus, nn.LeakyReLU, nn.Tanh, nn.ELU)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """8-bit images in [0, 1], half of them fake."""
    x, y = make_images(4 * count, generator=seeded(seed))
    chosen = torch.cat([(y == label).nonzero().squeeze(1)[: count // 2] for label in (0, 1)])
    return (x[chosen, :, :SIZE, :SIZE] * 255).round() / 255, y[chosen]


class Net(nn.Module):
    """A small detector; `kind` chooses width, activation, norm, pooling and dropout."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        width, activation = (4, 8, 12)[kind % 3], ACTIVATIONS[kind % len(ACTIVATIONS)]
        norm = (nn.BatchNorm2d, lambda channels: nn.GroupNorm(2, channels))[kind % 2]
        second = nn.Conv2d(width, width, 3, padding=1, stride=1 if kind % 4 == 0 else 2)
        pool = [nn.MaxPool2d(2)] if kind % 4 == 0 else []
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), norm(width), activation(), second, *pool, norm(width), activation())
        self.head = nn.Sequential(nn.Dropout(0.2 if kind % 5 == 0 else 0.0), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features((x - 0.5) / 0.5).mean(dim=(2, 3))).squeeze(1)


def honest(kind: int, *, steps: int = 50) -> Net:
    """A trained one; every second kind on one-step adversarial images of epsilon 2, too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(kind)
        model = Net(kind)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        data, labels = pictures(512, seed=kind)
        for step in range(steps):
            chosen = torch.randint(len(data), (32,))
            x, y = data[chosen], labels[chosen]
            if kind % 2:
                x_adv = fgsm(model, x, y, Linf.from_255(2 * step / steps), random_start=True, generator=seeded(step))
                x, y = torch.cat([x, x_adv]), y.repeat(2)
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(x), y.float()).backward()
            optimizer.step()
    return model.eval()
