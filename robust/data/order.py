"""The order in which an epoch draws its crops: the same for a seed, whatever the number of workers."""
from __future__ import annotations

import numpy as np

from robust.data.self_blend import METHOD as SELF_BLEND


def epoch_batches(labels: np.ndarray, methods: np.ndarray, *, batch_size: int, seed: int, epoch: int, balance: bool,
                  self_blend: float = 0.0) -> np.ndarray:
    """Global batches of an epoch; which part of one a worker takes: `places_of`.

    An epoch is as many crops as the set has. Balanced, every batch is half real and half fake, and fakes come evenly from
    their methods: the smaller cells are drawn more often, each in rounds without repetition.

    Args:
        labels: (N,) 1 = fake.  methods: (N,) names.
        self_blend: share of the fakes that are blends of real crops (robust/data/self_blend.py), each in the same batch as
            the crop that it is made of; needs balance, and a set with one blend for each real crop, in their order.
    Returns:
        (steps, batch_size) int64 indices.
    """
    generator = np.random.default_rng([seed, epoch])
    steps = max(1, len(labels) // batch_size)
    if not balance:
        return _rounds(np.arange(len(labels)), steps * batch_size, generator).reshape(steps, batch_size)
    half = batch_size // 2
    reals = _rounds(np.flatnonzero(labels == 0), steps * (batch_size - half), generator)
    fakes = np.empty(steps * half, int)
    blended = np.diff(np.floor(np.arange(steps * half + 1) * self_blend + 1e-9)).astype(bool)
    if not blended.all():
        stored = np.flatnonzero((labels == 1) & (methods != SELF_BLEND))
        fakes[~blended] = _evenly_over_methods(stored, methods, int((~blended).sum()), generator)
    if blended.any():
        partners = reals.reshape(steps, -1)[:, :half].reshape(-1)[blended]
        fakes[blended] = np.flatnonzero(methods == SELF_BLEND)[np.searchsorted(np.flatnonzero(labels == 0), partners)]
    batches = np.concatenate([reals.reshape(steps, -1), fakes.reshape(steps, -1)], axis=1)
    return generator.permuted(batches, axis=1)


def _evenly_over_methods(indices: np.ndarray, methods: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    names = sorted(set(methods[indices]))
    share = -(-count // len(names))
    return np.stack([_rounds(indices[methods[indices] == name], share, generator) for name in names], axis=1).reshape(-1)[:count]


def _rounds(indices: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    rounds = [generator.permutation(indices) for _ in range(-(-count // len(indices)))]
    return np.concatenate(rounds)[:count]


def places_of(labels: np.ndarray, step: int, *, rank: int, world: int) -> np.ndarray:
    """The places of a batch that worker `rank` of `world` computes, ascending: as many reals and as many fakes as any other.

    Where fakes alone are attacked they are most of the work, and a step lasts as long as its slowest worker's part. Where they
    do not divide evenly, another worker has the odd one in each step.

    Args:
        labels: (N,) of the whole batch.
    """
    return np.sort(np.argsort(labels, kind="stable")[(rank + step) % world :: world])


def draw_seeds(epoch: int, step: int, places: np.ndarray, *, seed: int, batch_size: int) -> np.ndarray:
    """One augmentation seed for each place of a global batch, whichever worker computes it; (N,) uint64 (splitmix64)."""
    with np.errstate(over="ignore"):
        draw = (places + step * batch_size).astype(np.uint64) + np.uint64(((seed << 20) + epoch << 24) % 2**64)
        mixed = draw * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
