"""A detector small enough to train in seconds, and a task for it: the stand-in where no real checkpoint is at hand.

It has what makes attacks go wrong on the real ones: batch normalisation, a smooth nonlinearity, one logit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust.attacks.pgd import pgd
from robust.attacks.threat import Linf

SIZE = 32  # pixels


class SmallDetector(nn.Module):
    """(N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; normalises inside, three convolutions with BN."""

    swapped = False  # as of robust.models.detector: no activation was exchanged

    def __init__(self, *, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(),
        )
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features((x - 0.5) / 0.5)
        return self.head(features.mean(dim=(2, 3))).squeeze(1)


def make_images(count: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(N, 3, 32, 32) images in [0, 1] and (N,) labels: smooth noise; fakes carry a checkerboard.

    Its strength is 4-24 / 255 and its phase random, so no linear detector finds it and one gradient step is not enough.
    """
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    x = 0.1 + 0.8 * F.interpolate(coarse, size=SIZE, mode="bicubic", align_corners=False).clamp(0, 1)
    x = x + 4 / 255 * torch.randn(x.shape, generator=generator)
    y = torch.randint(2, (count,), generator=generator)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    checkerboard = 1 - 2.0 * ((rows + columns) % 2)
    strength = (4 + 20 * torch.rand(count, 1, 1, 1, generator=generator)) / 255
    strength = strength * (1 - 2 * torch.randint(2, strength.shape, generator=generator))
    return (x + y.view(-1, 1, 1, 1) * strength * checkerboard).clamp(0, 1), y


def train_small_detector(*, steps: int = 60, epsilon: float = 2.0, seed: int = 0) -> SmallDetector:
    """A SmallDetector trained for some seconds, on clean images and on PGD-3 ones of `epsilon` (0-255 units)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallDetector()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        x, y = make_images(64, generator=generator)
        radius = min(1.0, 2 * step / steps) * epsilon
        x_adv = pgd(model, x, y, Linf.from_255(radius), steps=3, generator=generator, keep_best=False, checked=False)
        loss = F.binary_cross_entropy_with_logits(model(torch.cat([x, x_adv])), y.repeat(2).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
