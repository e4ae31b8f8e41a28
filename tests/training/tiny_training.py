"""Small networks and crops for the tests of training."""

import numpy as np
import torch
from torch import nn

from robust.config import RecipeConfig, TrainConfig
from robust.data.crops import CropSet
from robust.training.loop import Place, start_training, train_epoch

SIZE = 16


class Smooth(nn.Module):
    """(N, 3, H, W) to (N,) logits; a smooth network with batch norm and, if asked, dropout."""

    def __init__(self, *, dropout: float = 0.0):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 6, 3, stride=2), nn.SiLU())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(6, 1))

    def forward(self, x):
        return self.head(self.features(x).mean(dim=(2, 3))).squeeze(1)


class Linear(nn.Module):
    """The logit sum(w * x) + b."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros((), dtype=weight.dtype))

    def forward(self, x):
        return (x * self.weight).flatten(1).sum(1) + self.bias


def smooth(*, seed: int = 0, **settings) -> Smooth:
    """A network whose batch-norm statistics are not those of a new one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Smooth(**settings).train()
        for _ in range(3):
            network(torch.rand(8, 3, SIZE, SIZE))
    return network


def images(count: int = 8, *, size: int = SIZE, seed: int = 0, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 3, size, size) in [0, 1] and (N,) labels, half fake."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator, dtype=dtype), torch.arange(count) % 2


def crop_set(*, reals: int = 12, fakes: int = 20, size: int = SIZE) -> CropSet:
    """Noise; fakes are a little redder. Two crops a video."""
    rng = np.random.default_rng(0)
    labels = np.array([0] * reals + [1] * fakes)
    pixels = rng.integers(40, 200, (len(labels), size, size, 3)).astype(np.uint8)
    pixels[labels == 1, :, :, 0] += 40
    methods = np.array(["real"] * reals + [("coarse", "fine")[i // 2 % 2] for i in range(fakes)], dtype=object)
    videos = np.array([f"v{i // 2:02}" for i in range(len(labels))], dtype=object)
    return CropSet(labels, videos, methods, size, pixels=pixels)


def recipe(**settings) -> RecipeConfig:
    return RecipeConfig.model_validate({"epochs": 3, "attack": {"epsilon": 0}, **settings})


def settings(**changes) -> TrainConfig:
    return TrainConfig.model_validate({"batch_size": 8, "learning_rate": 1e-2, **changes})


def train(network, crops, *, epochs=None, train_settings=None, train_recipe=None, augment=None, place=Place(), training=None, seed=24):
    """Trains some epochs in this process; returns the training and the epochs' figures."""
    train_settings, train_recipe = train_settings or settings(), train_recipe or recipe()
    training = training or start_training(network, train_settings, train_recipe, device=place.device)
    figures = [train_epoch(training, crops, train_settings, train_recipe, augment, seed=seed, place=place)
               for _ in range(epochs or train_recipe.epochs)]
    return training, figures


def weights(network: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers."""
    return [value.clone() for value in network.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Equal to the bit."""
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))
