"""Randomised smoothing: a detector that votes under Gaussian noise, and the L2 radius in which its verdict can not change.

The smoothed detector calls an image fake if most noisy copies of it are called fake. If the share of the winning class is at
least p > 1/2, no perturbation shorter than sigma * Phi^-1(p) changes the verdict, whatever the attack: a proof, where an
attack gives only an upper bound. p is bounded from votes, so a certificate is wrong with probability alpha at most.

Source: Cohen, Rosenfeld & Kolter 2019, "Certified Adversarial Robustness via Randomized Smoothing" (arXiv 1902.02918):
theorem 1 and the procedure CERTIFY of section 3.2.2.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from robust.attacks.noise import ImageNoise
from robust.errors import UserError
from robust.evaluation.item import Item

ABSTAINS = -1
"""Stands for a class where the votes do not tell which one wins."""


@dataclasses.dataclass(frozen=True)
class Smoothing(Item):
    """How an image is certified.

    Args:
        sigma: standard deviation of the noise, 0-255 units.
        n0: votes that choose the class.
        n: votes, others, that bound its share.
        alpha: a certificate may be wrong with this probability.
    """

    sigma: float
    n0: int
    n: int
    alpha: float

    @property
    def largest_radius(self) -> float:
        """What n votes can certify at most, when all agree; 0-255 units."""
        return float(radii(np.array([self.n]), self)[0])


@dataclasses.dataclass(frozen=True)
class Certified:
    """For N images: (N,) class (1 fake, 0 real, ABSTAINS), (N,) L2 radius in 0-255 units, 0 where it abstains."""

    verdict: np.ndarray
    radius: np.ndarray


def certify(chosen: np.ndarray, votes: np.ndarray, smoothing: Smoothing) -> Certified:
    """The verdicts and radii from counted votes.

    Args:
        chosen: (N,) votes for fake of the first n0.
        votes: (N,) votes for fake of the n others.
    """
    fake = chosen * 2 > smoothing.n0
    radius = radii(np.where(fake, votes, smoothing.n - votes), smoothing)
    return Certified(np.where(radius > 0, fake, ABSTAINS).astype(np.int8), radius)


def radii(winning: np.ndarray, smoothing: Smoothing) -> np.ndarray:
    """(N,) certified L2 radii in 0-255 units from (N,) votes for the chosen class; 0 if its share may be a half."""
    return np.maximum(0.0, smoothing.sigma * norm.ppf(lower_bound(winning, smoothing.n, smoothing.alpha)))


def lower_bound(hits: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """One-sided lower bound of a share from `hits` of n trials, right with probability 1 - alpha (Clopper & Pearson 1934)."""
    hits = np.asarray(hits, dtype=np.float64)
    return np.where(hits > 0, beta.ppf(alpha, np.maximum(hits, 1), n - hits + 1), 0.0)


@torch.no_grad()
def count_votes(model: nn.Module, x: Tensor, smoothing: Smoothing, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each image is called fake under noise: of the first n0 draws, and of the n others.

    The noise belongs to the image and the seed, so an image's votes are the same in any batch, up to rounding of its
    logits. It is not clipped: the model sees values outside of [0, 1], as theorem 1 needs the noise to be Gaussian.

    Args:
        model: maps (N, 3, H, W) to (N,) logits, fake > 0; in evaluation mode.
        x: (N, 3, H, W) images in [0, 1].
    Returns:
        (N,) and (N,) counts.
    Raises:
        UserError: a logit is not finite.
    """
    noise = ImageNoise.of(x, generator=torch.Generator().manual_seed(seed))
    counts, broken = torch.zeros(2, len(x), dtype=torch.int64, device=x.device), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for draw in range(smoothing.n0 + smoothing.n):
        logits = model(x + smoothing.sigma / 255 * noise.normal(draw))
        counts[int(draw >= smoothing.n0)] += logits > 0
        broken |= ~logits.isfinite()
    if broken.any():  # asked once, as every question waits for the device
        raise UserError(f"under noise of sigma {smoothing.sigma:g} the logit of {int(broken.sum())} of {len(x)} images is not a finite number, which is no "
                        "vote; nothing is certified: see the weights, or choose a smaller evaluate.smoothing.sigmas")
    chosen, votes = counts.cpu().numpy()
    return chosen, votes
