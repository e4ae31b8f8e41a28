"""The order in which an epoch draws its crops: the same for a seed, whatever the number of workers."""
from __future__ import annotations

import numpy as np


def epoch_batches(labels: np.ndarray, methods: np.ndarray, *, batch_size: int, seed: int, epoch: int, balance: bool) -> np.ndarray:
    """Global batches of an epoch; worker r of n takes `batch[r::n]` of each.

    An epoch is as many crops as the set has. Balanced, every batch is half real and half fake, and fakes come evenly from
    their methods: the smaller cells are drawn more often, each in rounds without repetition.

    Args:
        labels: (N,) 1 = fake.  methods: (N,) names.
    Returns:
        (steps, batch_size) int64 indices.
    """
    generator = np.random.default_rng([seed, epoch])
    steps = max(1, len(labels) // batch_size)
    if not balance:
        return _rounds(np.arange(len(labels)), steps * batch_size, generator).reshape(steps, batch_size)
    half = batch_size // 2
    reals = _rounds(np.flatnonzero(labels == 0), steps * (batch_size - half), generator)
    fakes = _evenly_over_methods(np.flatnonzero(labels == 1), methods, steps * half, generator)
    batches = np.concatenate([reals.reshape(steps, -1), fakes.reshape(steps, -1)], axis=1)
    return generator.permuted(batches, axis=1)


def _evenly_over_methods(indices: np.ndarray, methods: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    names = sorted(set(methods[indices]))
    share = -(-count // len(names))
    return np.stack([_rounds(indices[methods[indices] == name], share, generator) for name in names], axis=1).reshape(-1)[:count]


def _rounds(indices: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    rounds = [generator.permutation(indices) for _ in range(-(-count // len(indices)))]
    return np.concatenate(rounds)[:count]


def draw_seeds(epoch: int, step: int, places: np.ndarray, *, seed: int, batch_size: int) -> np.ndarray:
    """One augmentation seed for each place of a global batch, whichever worker computes it; (N,) uint64 (splitmix64)."""
    with np.errstate(over="ignore"):
        draw = (places + step * batch_size).astype(np.uint64) + np.uint64(((seed << 20) + epoch << 24) % 2**64)
        mixed = draw * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
