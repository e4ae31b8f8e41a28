"""Deep Image Prior as a purifier: a random convolutional network is fitted to the image that a detector is given.

Such a network reproduces pictures long before it reproduces a small perturbation, so its output after the right number of
iterations is the image without it. Stopped too early it lacks the traces of the forgery as well.

Sources: Ulyanov, Vedaldi & Lempitsky 2018, "Deep Image Prior" (arXiv 1711.10925), the network and settings of its
denoising; Gandhi & Jain 2020, "Adversarial Perturbations Fool Deepfake Detectors" (arXiv 2003.10596), as a defence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust.attacks.best import BestSoFar
from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.losses import margin_loss
from robust.attacks.noise import ImageNoise
from robust.attacks.threat import Threat, usual_step


@dataclasses.dataclass(frozen=True)
class Prior:
    """The network and how it is fitted.

    Args:
        iterations: how many; the one to stop at is chosen among `stops` on validation images.
        stops: the iterations whose output is kept, rising.
        size: images are resized to this many pixels, a multiple of 2^len(channels).
        channels: of each scale, down and up.
        skip_channels: of the connection that each scale has past the deeper ones.
        input_channels: of the random input.
        learning_rate: Adam's.
        input_noise: standard deviation of the noise that each iteration adds to the random input.
        average: decay of the mean over iterations that is the output.
    """

    iterations: int
    stops: tuple[int, ...]
    size: int
    channels: tuple[int, ...] = (128,) * 5
    skip_channels: int = 4
    input_channels: int = 32
    learning_rate: float = 0.01
    input_noise: float = 1 / 30
    average: float = 0.99

    def __post_init__(self) -> None:
        step = 2 ** len(self.channels)
        if self.size % step or self.size < 2 * step:  # reflection needs two values at the coarsest scale
            raise ValueError(f"size {self.size} must be a multiple of {step}, at least {2 * step}, for {len(self.channels)} scales")
        if list(self.stops) != sorted(set(self.stops)) or not self.stops or not 1 <= self.stops[0] <= self.stops[-1] <= self.iterations:
            raise ValueError(f"stops {self.stops} must rise within 1 to {self.iterations}")


PUBLISHED = Prior(iterations=10_000, stops=(1000, 2000, 4000, 6000, 8000, 10_000), size=512)
"""As published: minutes to half an hour an image."""
QUICK = Prior(iterations=150, stops=(50, 100, 150), size=64, channels=(16, 32, 32), input_channels=16, average=0.9)
"""Of the same kind for faces of 64 to 80 pixels on two CPU cores: a smaller network, an average over fewer iterations."""


class SkipNet(nn.Module):
    """(N, input_channels, H, W) to (N, 3, H, W) in [0, 1]: an hourglass with a narrow connection past each scale."""

    def __init__(self, prior: Prior):
        super().__init__()
        below = (prior.input_channels, *prior.channels[:-1])
        above = (*prior.channels[1:], prior.channels[-1])  # what comes up from the next scale
        self.skips = nn.ModuleList(_conv(width, prior.skip_channels, 1) for width in below)
        self.downs = nn.ModuleList(
            nn.Sequential(_conv(width, own, 3, stride=2), _conv(own, own, 3)) for width, own in zip(below, prior.channels, strict=True))
        self.ups = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(prior.skip_channels + deeper), _conv(prior.skip_channels + deeper, own, 3), _conv(own, own, 1))
            for deeper, own in zip(above, prior.channels, strict=True))
        self.out = nn.Conv2d(prior.channels[0], 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        skipped = []
        for skip, down in zip(self.skips, self.downs, strict=True):
            skipped.append(skip(z))
            z = down(z)
        for up, past in zip(reversed(self.ups), reversed(skipped), strict=True):
            z = up(torch.cat([past, F.interpolate(z, scale_factor=2, mode="bilinear", align_corners=False)], dim=1))
        return self.out(z).sigmoid()


def _conv(width: int, own: int, kernel: int, *, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(width, own, kernel, stride=stride, padding=kernel // 2, padding_mode="reflect")
    return nn.Sequential(convolution, nn.BatchNorm2d(own), nn.LeakyReLU(0.2))


def purify(x: Tensor, prior: Prior, *, seed: int = 0) -> dict[int, Tensor]:
    """What the prior makes of each image, by the iteration at which it is stopped.

    Each image has a network of its own, whose random numbers follow from the seed and the image's content alone, so that its output does
    not depend on the batch. The global random state is left as it was.

    Args:
        x: (N, 3, H, W) square images in [0, 1].
    Returns:
        for each of `prior.stops` (N, 3, H, W) images in [0, 1], at the size of x.
    """
    keys = ImageNoise.of(x, generator=torch.Generator().manual_seed(seed)).keys
    each = [_fit(image, prior, int(key) & (2**63 - 1)) for image, key in zip(x.split(1), keys, strict=True)]
    return {stop: torch.cat([outputs[stop] for outputs in each]) for stop in prior.stops}


def _fit(x: Tensor, prior: Prior, seed: int) -> dict[int, Tensor]:
    """One image; {stop: (1, 3, H, W)}."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        network = SkipNet(prior).to(x.device)
        target = _resize(x.detach(), prior.size)
        z = (0.1 * torch.rand(1, prior.input_channels, prior.size, prior.size, generator=generator)).to(x.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=prior.learning_rate)
        outputs, mean = {}, None
        for iteration in range(1, prior.stops[-1] + 1):
            jitter = torch.randn(z.shape, generator=generator).to(x.device)
            out = network(z + prior.input_noise * jitter)
            optimizer.zero_grad()
            F.mse_loss(out, target).backward()
            optimizer.step()
            mean = out.detach() if mean is None else mean.lerp_(out.detach(), 1 - prior.average)
            if iteration in prior.stops:
                outputs[iteration] = _resize(mean, x.shape[-1]).clamp(0, 1)
    return outputs


def _resize(x: Tensor, size: int) -> Tensor:
    if x.shape[-1] == size:
        return x.clone()
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def bpda(
    model: nn.Module, purifier: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, threat: Threat, *, steps: int, step_size: float | None = None,
) -> Tensor:
    """PGD on a model behind a purifier that has no usable gradient: forward through both, backward as if the purifier did nothing.

    Keeps the strongest point that each image went through, x included. Passes: steps + 1 of purifier and model.

    Args:
        model: maps (N, 3, H, W) to (N,) logits, fake > 0.
        purifier: maps (N, 3, H, W) images in [0, 1] to such images.
        y: (N,) labels, 1 = fake.
        step_size: in [0, 1] pixel units; default 2.5 * epsilon / steps.
    Source: Athalye, Carlini & Wagner 2018 (arXiv 1802.00420), section 4.1: backward pass differentiable approximation.
    """
    step_size = step_size or usual_step(threat, steps)
    with attack_mode(model), torch.no_grad():
        x_adv, best = x.detach().clone(), BestSoFar(x.detach().clone())
        for _ in range(steps):
            loss, gradient = value_and_input_gradient(model, purifier(x_adv), y)
            best.update(x_adv, loss)
            x_adv = threat.project(threat.step(x_adv, gradient, step_size), x)
        best.update(x_adv, margin_loss(model(purifier(x_adv)), y))
    return best.images


def choose_stop(candidates: dict[int, Sequence[float]]) -> int:
    """The stop with the highest validation figure; of equal ones the earliest, which costs least."""
    return min(candidates, key=lambda stop: (-candidates[stop], stop))
