"""The strongest image found so far, for each image of a batch."""

import torch
from torch import Tensor


class BestSoFar:
    """Keeps, per image, the candidate with the largest loss. No branch on values, so no wait for the GPU.

    Args:
        x: (N, 3, H, W) images to return where no candidate ever had a loss, as all were NaN.
    Attributes:
        images: (N, 3, H, W) the strongest candidates.
        loss: (N,) their losses, -inf before the first update.
    Source: the best iterate of Croce & Hein 2020 (APGD).
    """

    def __init__(self, x: Tensor) -> None:
        self.images = x
        self.loss = torch.full((len(x),), -torch.inf, device=x.device)

    def update(self, candidates: Tensor, loss: Tensor) -> None:
        """Take over the candidates whose loss is larger than the kept one (NaN never is)."""
        better = loss > self.loss
        self.images = torch.where(better.view(-1, *[1] * (candidates.ndim - 1)), candidates, self.images)
        self.loss = torch.where(better, loss, self.loss)
