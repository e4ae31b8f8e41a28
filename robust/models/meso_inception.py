"""MesoInception4, the small detector of the reference implementation.

Source: Afchar et al. 2018, "MesoNet: a Compact Facial Video Forgery Detection Network", section 3 (figure 4): two inception
modules with dilated 3x3 branches, two 5x5 convolutions, and a 16-unit dense layer; 256 px input in the paper.
An adaptive pool before the dense layer lets it take other sizes; at 256 px it changes nothing.
"""
from __future__ import annotations

import torch
from torch import nn


class InceptionBranches(nn.Module):
    """1x1, 3x3, dilated 3x3 (2) and dilated 3x3 (3) branches side by side: (N, C, H, W) -> (N, sum(widths), H, W)."""

    def __init__(self, channels: int, widths: tuple[int, int, int, int]):
        super().__init__()
        a, b, c, d = widths
        self.point = nn.Sequential(nn.Conv2d(channels, a, 1), nn.ReLU())
        self.plain = self._branch(channels, b, dilation=1)
        self.wide = self._branch(channels, c, dilation=2)
        self.wider = self._branch(channels, d, dilation=3)
        self.norm = nn.BatchNorm2d(sum(widths))

    @staticmethod
    def _branch(channels: int, width: int, dilation: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation), nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.cat([self.point(x), self.plain(x), self.wide(x), self.wider(x)], dim=1))


class MesoInception4(nn.Module):
    """Normalised images (N, 3, H, W), H and W at least 32, to (N, 1) logits."""

    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            InceptionBranches(3, (1, 4, 4, 2)), nn.MaxPool2d(2),
            InceptionBranches(11, (2, 4, 4, 2)), nn.MaxPool2d(2),
            nn.Conv2d(12, 16, 5, padding=2), nn.ReLU(), nn.BatchNorm2d(16), nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 5, padding=2), nn.ReLU(), nn.BatchNorm2d(16), nn.MaxPool2d(4, ceil_mode=True),
            nn.AdaptiveAvgPool2d(8),
        )
        self.head = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.5), nn.Linear(16 * 8 * 8, 16), nn.LeakyReLU(0.1), nn.Dropout(0.5), nn.Linear(16, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))
