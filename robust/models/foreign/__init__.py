"""Models that were not trained here, as detectors: TorchScript, ONNX, or a timm architecture with a weights file.

Files are untrusted. Each kind is checked before anything of it is run, see the module of the kind and docs/audit.md.
"""

from __future__ import annotations

import importlib

from robust.config import AuditedModelConfig
from robust.models.foreign.detector import ForeignDetector

KINDS = {"torchscript": ("torchscript", "load_torchscript"), "onnx": ("onnx_file", "load_onnx"), "timm": ("timm_file", "load_timm")}
"""Module of this package and function in it: load(content, spec, where) -> the network in eval mode, and what it gives
(`output` of the settings, or its logits if the loader laid them bare). Imported on use: nobody else waits for onnx."""


def load_foreign(content: bytes, spec: AuditedModelConfig, where: str) -> ForeignDetector:
    """The detector in eval mode.

    Args:
        content: of the file.
        where: the name of the setting and the file, for messages.
    Raises:
        UserError: the file is damaged, or asks for something that no image classifier needs.
    """
    module, function = KINDS[spec.kind]
    load = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    network, output = load(content, spec, where)
    return ForeignDetector(network, spec, output=output).eval()
