"""Exponential moving average of the weights: what is scored, attacked and saved when it is on."""
from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """
    The average starts as a plain mean and turns exponential: its decay at update t is min(decay, (1 + t) / (10 + t)), so that
    early weights are forgotten. Batch-norm statistics are averaged as well; counters are copied.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages, currents = self.network.state_dict().values(), network.state_dict().values()
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - decay)
            else:
                average.copy_(current)
