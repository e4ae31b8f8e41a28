"""Someone else's network between our contract's two ends: pixels in [0, 1] in, one logit an image out, positive for fake."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robust.config import AuditedModelConfig
from robust.errors import UserError

ALMOST_ONE = 1 - 2**-24
"""The float32 below 1: a probability that was rounded to 1 is taken for this one, so its logit is 16.6 and not infinite."""
TINY = torch.finfo(torch.float32).tiny
BATCH = 16
"""Images that a TorchScript file is given at a time, always so many."""


class ForeignDetector(nn.Module):
    """The network as its settings say it is used; exact: sigmoid(logit) is the network's own probability of fake.

    Args:
        network: in eval mode.
        output: what the network gives: the settings' `output`, or "logit" or "two_logits" where the loader took its
            last sigmoid or softmax off.
        x: (N, 3, input_size, input_size) RGB in [0, 1].
    Returns:
        (N,) logits, fake > 0, less the logit of `threshold`.
    """

    def __init__(self, network: nn.Module, spec: AuditedModelConfig, *, output: str):
        super().__init__()
        self.network, self.spec, self.output = network, spec, output
        self.offset = math.log(spec.threshold / (1 - spec.threshold))
        mean, std = ((0.0,) * 3, (1.0,) * 3) if spec.mean == "none" else (spec.mean, spec.std)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def input_size(self) -> int:
        return self.spec.input_size

    def forward(self, x: Tensor) -> Tensor:
        if self.spec.kind != "torchscript":
            return self._run(x)
        return torch.cat([self._run(self._filled(part))[:len(part)] for part in x.split(BATCH)])

    def _run(self, x: Tensor) -> Tensor:
        return self.logits(self.network(self.prepare(x))) - self.offset

    @staticmethod
    def _filled(x: Tensor) -> Tensor:
        """With copies of the last image up to BATCH: a file's code may ask how many images there are, and hide its gradient from attacks on more than gates try."""
        return torch.cat([x, x[-1:].detach().expand(BATCH - len(x), *x.shape[1:])]) if 0 < len(x) < BATCH else x

    def prepare(self, x: Tensor) -> Tensor:
        """The network's own input: its channel order, value range, normalisation and axes, in this order; always a copy."""
        low, high = self.spec.value_range
        x = x.flip(1) if self.spec.channels == "bgr" else x.clone()  # a network may write into its input
        if (low, high) != (0, 1):
            x = low + (high - low) * x
        if self.spec.mean != "none":
            x = (x - self.mean) / self.std
        return x.permute(0, 2, 3, 1) if self.spec.layout == "nhwc" else x

    def logits(self, out: Tensor) -> Tensor:
        """(N,) logits of fake from what the network gave."""
        fake = self.spec.fake_index
        if self.output == "logit":
            return out.reshape(-1) if fake else -out.reshape(-1)
        if self.output == "two_logits":  # softmax of two is the sigmoid of their difference
            return out[:, fake] - out[:, 1 - fake]
        if self.output == "two_probabilities":
            p = out.clamp_min(TINY)
            return p[:, fake].log() - p[:, 1 - fake].log()
        p = out.reshape(-1).clamp(TINY, ALMOST_ONE)
        z = p.log() - torch.log1p(-p)
        return z if fake else -z


def require_output(out, count: int, spec: AuditedModelConfig, output: str, where: str) -> Tensor:
    """What a network gave for `count` images, if it is what the settings say.

    Raises:
        UserError: it is not; says what it is.
    """
    if not isinstance(out, Tensor):
        raise UserError(f"{where}: gives a {type(out).__name__}, not one tensor; export it so that it returns its scores alone")
    outputs = 2 if output.startswith("two") else 1
    shapes = [(count, 2)] if outputs == 2 else [(count, 1), (count,)]
    if tuple(out.shape) not in shapes:
        raise UserError(
            f"{where}: gives {tuple(out.shape)} for {count} images, and output: {spec.output} is {' or '.join(map(str, shapes))}; "
            "see `output`, and whether the model was exported for any number of images"
        )
    if not out.isfinite().all():
        raise UserError(f"{where}: its output for plain noise images is not finite; see mean, std and value_range, or its weights are damaged")
    if "probabilit" in output:
        _require_probabilities(out, spec, where)
    elif output == "two_logits" and _are_probabilities(out) and out.max() > 0:
        raise UserError(f"{where}: its two outputs are in [0, 1] and sum to 1, so they are no logits; set output: two_probabilities")
    return out


def _are_probabilities(out: Tensor) -> bool:
    inside = bool(((out >= 0) & (out <= 1)).all())
    return inside and (out.ndim < 2 or out.shape[1] == 1 or bool((out.sum(1) - 1).abs().max() < 1e-3))


def _require_probabilities(out: Tensor, spec: AuditedModelConfig, where: str) -> None:
    if not _are_probabilities(out):
        logits = spec.output.replace("probability", "logit").replace("probabilities", "logits")
        raise UserError(f"{where}: its output is no probability (from {out.min():.3g} to {out.max():.3g}); set output: {logits}")
