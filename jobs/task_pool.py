"""What every task of the evaluation needs of the cluster: its share of a node, and its device."""

from __future__ import annotations

import ray
import torch

from robust.config import Config
from robust.errors import UserError


def remote(config: Config, function):
    """The function as a Ray task with the resources of `evaluate`."""
    return ray.remote(function).options(num_cpus=config.evaluate.cpus_per_task, num_gpus=config.evaluate.gpus_per_task)


def device_of(config: Config) -> str:
    """"cpu" or "cuda" for a task, which computes with as many threads as it has CPUs."""
    torch.set_num_threads(max(1, int(config.evaluate.cpus_per_task)))
    if config.evaluate.gpus_per_task == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError("evaluate.gpus_per_task is above 0, but torch sees no CUDA device on this node; set it to 0")
    return "cuda"
