"""The network that is attacked in training: the deployed function with its batch norms folded into the convolutions before them.

In evaluation mode a batch norm is a scale and a shift of each channel, so w' = w * s, b' = (b - mean) * s + shift with
s = scale / sqrt(var + eps) gives the same logits without a pass over every feature map forwards and another one backwards. The
weights stand still during an attack, so folding once a step serves all of its passes.
Source: Jacob et al. 2018 (arXiv 1712.05877), eq. 14.
"""
from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from robust.training.modes import evaluation_mode


class FoldedNetwork:
    """Shares all parameters and buffers with the network but the folded convolutions', which `refreshed` computes anew.

    Args:
        network: in any mode.
        x: (N, 3, H, W) images, to see what follows what.
    """

    def __init__(self, network: nn.Module, x: Tensor):
        self.network = network
        pairs = foldable(network, x[:1])
        self.pairs = pairs if pairs and _fold_exactly(network, pairs, x[:1]) else []
        shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self.folded = _without_norms(copy.deepcopy(network, shared), self.pairs)
        source, target = (dict(module.named_modules()) for module in (network, self.folded))
        self.folds = [(source[convolution], source[norm], target[convolution]) for convolution, norm in self.pairs]

    @torch.no_grad()
    def refreshed(self) -> nn.Module:
        """The network to attack, with the weights of now; the network itself where nothing folds."""
        if not self.pairs:
            return self.network
        for convolution, norm, into in self.folds:
            _fold(convolution, norm, into=into)
        return self.folded


def foldable(network: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    """(convolution, batch norm) by name where the norm is given what the convolution returned; both run once a pass."""
    returned: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []

    def after_convolution(name):
        return lambda module, inputs, output: returned.__setitem__(id(output), (name, output))

    def after_norm(name):
        return lambda module, inputs, output: pairs.append((returned.get(id(inputs[0]), ("", None))[0], name))

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_convolution(name)))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats and module.affine:
            handles.append(module.register_forward_hook(after_norm(name)))
    try:
        with evaluation_mode(network), torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    alone = [pair for pair in pairs if sum(pair[0] == other or pair[1] == norm for other, norm in pairs) == 1]
    return [pair for pair in alone if pair[0]]


def _fold_exactly(network: nn.Module, pairs: list[tuple[str, str]], x: Tensor) -> bool:
    """Whether folding leaves the logits as they are, on a copy whose norms are far from doing nothing.

    They would change where the convolution's output also goes elsewhere, or where something hides between the two.
    """
    trial = copy.deepcopy(network).eval().requires_grad_(False)
    modules, generator = dict(trial.named_modules()), torch.Generator().manual_seed(0)
    for _, norm in pairs:
        for tensor, low in ((modules[norm].running_mean, -0.5), (modules[norm].running_var, 0.5), (modules[norm].weight, 0.5)):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        expected = trial(x)
        folded = _without_norms(copy.deepcopy(trial), pairs)
        for convolution, norm in pairs:
            _fold(modules[convolution], modules[norm], into=dict(folded.named_modules())[convolution])
        return torch.allclose(folded(x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def _without_norms(network: nn.Module, pairs: list[tuple[str, str]]) -> nn.Module:
    """The network with own weights in the pairs' convolutions and nothing, or its activation, in the place of each norm."""
    modules = dict(network.named_modules())
    for convolution, norm in pairs:
        conv = modules[convolution]
        conv.weight = nn.Parameter(conv.weight.detach().clone(), requires_grad=False)
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels), requires_grad=False)
        parent, _, child = norm.rpartition(".")
        act = getattr(modules[norm], "act", None)  # timm's norms carry the activation that follows
        setattr(modules[parent], child, nn.Identity() if act is None else act)
    return network.eval()


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d, *, into: nn.Conv2d) -> None:
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    torch.mul(conv.weight, scale.view(-1, 1, 1, 1), out=into.weight)
    shift = norm.bias - norm.running_mean * scale
    into.bias.copy_(shift if conv.bias is None else shift + conv.bias * scale)
