"""A detector: pixels in [0, 1] go in, one logit an image comes out, positive for fake.

Normalisation is the first layer, so that an attack, training and deployment differentiate and run the same function.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import timm
import torch
from torch import nn

from robust.config import ModelConfig
from robust.errors import ConfigError
from robust.models.activations import swap_activations
from robust.models.meso_inception import MesoInception4
from robust.models.weights import load_weights

OWN_MODELS: dict[str, Callable[[], nn.Module]] = {"meso_inception4": MesoInception4}
"""Backbones that timm does not have; each maps normalised images to (N, 1) and carries `pretrained_cfg`."""


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build the network again; stored in the card."""

    name: str
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    activation: str | None

    def as_dict(self) -> dict:
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}


class Detector(nn.Module):
    """Normalise, backbone, one logit.

    Args:
        x: (N, 3, input_size, input_size) RGB in [0, 1].
    Returns:
        (N,) logits, fake > 0: the backbone's own, less `offset` (0 until a finished model is calibrated).
    """

    def __init__(self, backbone: nn.Module, architecture: Architecture):
        super().__init__()
        self.backbone = backbone
        self.architecture = architecture
        self.swapped = False  # activations are others than those of its weights: batch norms hold statistics of those
        self.register_buffer("mean", torch.tensor(architecture.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(architecture.std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", torch.zeros(()))

    @property
    def input_size(self) -> int:
        return self.architecture.input_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone((x - self.mean) / self.std).squeeze(1) - self.offset


def build_detector(config: ModelConfig) -> tuple[Detector, str]:
    """A new detector with the weights that `config.weights` asks for.

    Returns:
        the detector and a line for the card that says where its weights came from.
    """
    backbone = _backbone(config.name, config.input_size)
    _shrink_head(backbone)
    source = load_weights(backbone, config)
    if config.weights == "timm":  # the hub's model for one output has a head of its own, as random as any
        _shrink_head(backbone)
    if config.activation is not None:
        swap_activations(backbone, config.activation)
    mean, std = _statistics(backbone)
    detector = Detector(backbone, Architecture(config.name, config.input_size, mean, std, config.activation))
    detector.swapped = config.activation is not None
    return detector, source


def continue_from(model: Detector, config: ModelConfig) -> Detector:
    """A new detector with the activation that `config` asks for and the weights of `model`."""
    detector, _ = build_detector(config.model_copy(update={"weights": "none"}))
    detector.load_state_dict(model.state_dict())
    detector.swapped = detector.architecture.activation != model.architecture.activation
    return detector


def empty_detector(architecture: Architecture) -> Detector:
    """The network of a card, with random weights that a checkpoint then replaces."""
    backbone = _backbone(architecture.name, architecture.input_size)
    if architecture.activation is not None:
        swap_activations(backbone, architecture.activation)
    return Detector(backbone, architecture)


def _backbone(name: str, input_size: int) -> nn.Module:
    if name in OWN_MODELS:
        return OWN_MODELS[name]()
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[-1]}*")[:5]
        raise ConfigError(f"model.name: {name!r} is neither a timm model nor one of {sorted(OWN_MODELS)}; near: {close}")
    keywords = {"img_size": input_size} if name.startswith(("vit_", "deit", "swin", "eva")) else {}
    return timm.create_model(name, pretrained=False, num_classes=1, **keywords)


def _shrink_head(backbone: nn.Module) -> None:
    """Scales a random head that is too large down to torch's own deviation of 1 / sqrt(3 inputs).

    timm draws that of the EfficientNet family uniformly from +-1 / sqrt(outputs), which with one output is +-1: a short
    training then goes into unlearning it.
    """
    head = backbone.get_classifier() if hasattr(backbone, "get_classifier") else None
    if not isinstance(head, nn.Linear):
        return
    usual, drawn = (3 * head.in_features) ** -0.5, float(head.weight.detach().std())
    if drawn > 2 * usual:
        with torch.no_grad():
            head.weight.mul_(usual / drawn)


def _statistics(backbone: nn.Module) -> tuple[tuple, tuple]:
    config = backbone.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])
