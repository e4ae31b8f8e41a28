"""Detectors for the tests of the gates: honest ones of many kinds, and ones that fake robustness in one way each."""

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
        first = nn.Conv2d(3, width, 3, padding=1)
        layers = (first, norm(width), activation(), second, *pool, norm(width), activation())
        self.features = nn.Sequential(*layers)
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


# --- Faked robustness: each hides something from the attack, or answers it otherwise than the scoring -----------------


class Wrapped(nn.Module):
    """Another detector around one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()


class Quantised(Wrapped):
    """The input is rounded to a few levels: the gradient is zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 16).round() / 16)


class Detached(Wrapped):
    """No gradient leads to the input."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.detach())


class Saturated(Wrapped):
    """The output is squashed until its slope is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(1000 * self.model(x))


class TwoFaced(Wrapped):
    """Answers otherwise while gradients are recorded."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * (1 if not x.requires_grad else -0.5)


class NotANumber(Wrapped):
    """Gives NaN for an image that is not 8-bit or is noisier than pictures are; what an attack finds there is passed over."""

    def forward(self, x: Tensor) -> Tensor:
        between = (255 * x - (255 * x).round()).abs().amax(dim=(1, 2, 3)) > 1e-2
        return torch.where(between | self.noisy(x), torch.nan, self.model(x))

    def noisy(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=torch.bool)


class NotANumberInNoise(NotANumber):
    """The same for any pixel that lies off the clean images by 12 / 255 at most; honest beyond."""

    def __init__(self, model: nn.Module, known: Tensor) -> None:
        super().__init__(model)
        self.known = known

    def noisy(self, x: Tensor) -> Tensor:
        off = 255 * (x[:, None] - self.known[None]).abs().amax(dim=(2, 3, 4)).amin(dim=1)
        return (off > 1e-2) & (off < 12)


class Random(Wrapped):
    """Noise is added to the input, as in a randomised defence."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + 0.05 * torch.randn(x.shape, generator=self.noise))

    noise = torch.Generator().manual_seed(0)


class Scaled(Wrapped):
    """Confident: logits a thousand times as large."""

    def forward(self, x: Tensor) -> Tensor:
        return 1000 * self.model(x)


class GradientHook(torch.autograd.Function):
    """The identity, whose gradient is multiplied by something."""

    @staticmethod
    def forward(context, x: Tensor, factor: Tensor) -> Tensor:
        context.save_for_backward(factor)
        return x.clone()

    @staticmethod
    def backward(context, gradient: Tensor):
        return gradient * context.saved_tensors[0], None


class Reversed(Wrapped):
    """The gradient points downhill."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(GradientHook.apply(x, torch.tensor(-1.0)))


class Scrambled(Wrapped):
    """Every second pixel's gradient, chosen at random, has the wrong sign."""

    def forward(self, x: Tensor) -> Tensor:
        signs = torch.randint(2, x.shape[1:], generator=seeded(7)) * 2.0 - 1
        return self.model(GradientHook.apply(x, signs))


class Trap(Wrapped):
    """An image with strong fine structure is called real, and no gradient tells of it."""

    def forward(self, x: Tensor) -> Tensor:
        fine = (x - F.avg_pool2d(x, 3, 1, 1)).abs().mean(dim=(1, 2, 3)).detach()
        return self.model(x) - 1000 * F.relu(fine - 14 / 255)


class Rippled(Wrapped):
    """Tiny waves of a huge slope lie over the logit: it hardly changes, its gradient is all waves."""

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.rand(x.shape[1:], generator=seeded(8)) * 1e5
        return self.model(x) + 1e-3 * torch.sin(x * waves).mean(dim=(1, 2, 3)) * x[0].numel()


class Fractional(Wrapped):
    """Falls for what lies between two steps of an 8-bit channel."""

    def forward(self, x: Tensor) -> Tensor:
        between = (255 * x - (255 * x).round()).abs().mean(dim=(1, 2, 3))
        return self.model(x) - 100 * between


class Counting(Wrapped):
    """Changes a little with each call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.model(x) * (1 + 1e-4 * self.calls)


class Brightness(nn.Module):
    """Fake if the top of the image is brighter than the bottom: a coarse trait, that squares and stripes can change."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return 20 * (x[:, :, : SIZE // 2].mean(dim=(1, 2, 3)) - x[:, :, SIZE // 2 :].mean(dim=(1, 2, 3)))


class Crooked(Wrapped):
    """Honest, but its logit waves along every pixel value, so that one straight step overshoots."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(0.5 + 0.5 * torch.sin(12 * (x - 0.5)))


class Ignorant(nn.Module):
    """Looks at its input so little that nothing changes its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return 1 + 1e-6 * x.mean(dim=(1, 2, 3))
