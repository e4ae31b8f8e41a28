"""A timm architecture, built from our own installation, and a file that gives it weights and nothing else."""

from __future__ import annotations

import io

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from robust.config import AuditedModelConfig
from robust.errors import ConfigError, UserError
from robust.models.foreign.archive import read_archive

ZIP = b"PK\x03\x04"
MAX_HEADER = 100 * 2**20
COUNTER = "num_batches_tracked"
"""Of batch normalisation in training; older files have none, and evaluation mode reads none."""


def load_timm(content: bytes, spec: AuditedModelConfig, where: str) -> tuple[nn.Module, str]:
    """Raises UserError: the file holds no tensors, or not those of the architecture with as many outputs as `output` says."""
    network = _architecture(spec, where)
    tensors = {key.removeprefix("module.").removeprefix("backbone."): value for key, value in _tensors(content, where).items()}
    own = network.state_dict()
    tensors = {key: value for key, value in tensors.items() if not key.endswith(COUNTER)}
    missing = sorted(key for key in own.keys() - tensors.keys() if not key.endswith(COUNTER))
    wrong = [key for key in own if key in tensors and own[key].shape != tensors[key].shape]
    if wrong:
        raise UserError(f"{where}: {wrong[0]} is {tuple(tensors[wrong[0]].shape)}, and {spec.name} with output: {spec.output} has "
                        f"{tuple(own[wrong[0]].shape)}; see name, input_size and output")
    if missing:
        raise UserError(f"{where}: lacks {missing[0]} (and {len(missing) - 1} more tensors of {spec.name}); is it another architecture?")
    if more := sorted(tensors.keys() - own.keys()):
        raise UserError(f"{where}: has {more[0]} (and {len(more) - 1} more tensors), which {spec.name} has not; is it another architecture?")
    network.load_state_dict({**own, **tensors})
    return network.eval(), spec.output


def _architecture(spec: AuditedModelConfig, where: str) -> nn.Module:
    if not timm.is_model(spec.name):
        close = timm.list_models(f"*{spec.name.split('_')[-1]}*")[:5]
        raise ConfigError(f"{where}: name: {spec.name!r} is no architecture of timm {timm.__version__}; near: {close}")
    sized = {"img_size": spec.input_size} if spec.name.startswith(("vit_", "deit", "swin", "eva")) else {}
    return timm.create_model(spec.name, pretrained=False, num_classes=2 if spec.output.startswith("two") else 1, **sized)


def _tensors(content: bytes, where: str) -> dict[str, torch.Tensor]:
    try:
        if int.from_bytes(content[:8], "little") < MAX_HEADER and content[8:9] == b"{":
            return load_safetensors(content)
        if content.startswith(ZIP):
            read_archive(content, where, wanted=lambda name: False)  # sizes only
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{where}: is not a whole safetensors file ({error}); copy it again") from None
    except UserError:
        raise
    except Exception as error:  # torch's loader raises many kinds for what it refuses or cannot read
        raise UserError(f"{where}: is neither safetensors nor a plain file of tensors ({type(error).__name__}), and nothing else of it was loaded; "
                        "save the state_dict as safetensors") from None
    for name in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    tensors = {key: value for key, value in state.items() if torch.is_tensor(value)} if isinstance(state, dict) else {}
    if not tensors:
        raise UserError(f"{where}: holds no named tensors; give a state dict")
    return tensors
