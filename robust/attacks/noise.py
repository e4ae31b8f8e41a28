"""Random numbers that belong to an image: the same ones alone, in any batch, and on any device.

A generator that fills a batch gives an image other numbers when its neighbours change, so a figure would depend on
the batch size and on how a cluster shards the images. Here a number is a hash of (seed, the image's own bits, stream,
position), the counter-based idea of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), with
SplitMix64 as the hash (Steele, Lea & Flood, OOPSLA 2014). torch's random state is neither read nor changed.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# SplitMix64's constants as signed 64-bit numbers; int64 products wrap around in torch, on the CPU and on CUDA.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_SAME_SIZE_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_FRACTION_STREAM = 1 << 32  # keeps the per-image fractions apart from the per-pixel streams, which count from 0


@dataclass(frozen=True)
class ImageNoise:
    """The random numbers of each image of a batch. Streams 0, 1, 2, ... are independent draws, e.g. one a restart.

    Args:
        keys: (N,) int64, one key per image, from its content and a seed.
        shape: shape of the batch, (N, ...).
        dtype: dtype of what is drawn, float32 or float64.
    """

    keys: Tensor
    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor, *, generator: torch.Generator | None = None) -> "ImageNoise":
        """The noise of the images x, (N, ...) floats.

        Args:
            generator: one whole number is drawn from it as the seed; a CPU one, as reading from a GPU one waits for
                the GPU. None means the seed 0, so that calls without a generator are repeatable.
        """
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device)) if generator else 0
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return cls(keys=_mix(content_hash(x) ^ _mix_int(seed)), shape=x.shape, dtype=dtype)

    def uniform(self, stream: int = 0) -> Tensor:
        """Numbers uniform in [-1, 1), shaped like the batch, equal to the bit on every device."""
        return (_top_bits(self._words(stream), 24).to(self.dtype) * 2.0**-23 - 1).view(self.shape)

    def normal(self, stream: int = 0) -> Tensor:
        """Standard normal numbers, shaped like the batch (Box & Muller 1958; |z| < 5.8), equal to rounding."""
        words = self._words(stream)
        radius = _top_bits(words, 24).to(self.dtype).add_(1).mul_(2.0**-24).log_().mul_(-2).sqrt_()
        angle = _top_bits(words << 24, 24).to(self.dtype).mul_(2 * math.pi * 2.0**-24)
        return (radius * angle.cos_()).view(self.shape)

    def fraction(self, stream: int = 0) -> Tensor:
        """(N,) numbers uniform in [0, 1), one per image, independent of the two above."""
        return _top_bits(_mix(self._stream_keys(_FRACTION_STREAM + stream)), 24).to(self.dtype) * 2.0**-24

    def _words(self, stream: int) -> Tensor:
        """(N, values per image) random 64-bit words: SplitMix64's sequence, started at each image's key."""
        return _mix(self._stream_keys(stream)[:, None] + _weyl_sequence(self.shape[1:].numel(), self.keys.device))

    def _stream_keys(self, stream: int) -> Tensor:
        return _mix(self.keys + _mix_int(stream))


def content_hash(x: Tensor) -> Tensor:
    """(N,) int64 hashes of the bits of (N, ...) float images and where they stand; sums of integers, so exact."""
    bits = x.detach().reshape(len(x), -1).view(_SAME_SIZE_INTEGER[x.element_size()]).long()
    return _mix(bits + _weyl_sequence(bits.shape[1], x.device)).sum(dim=1)


def _weyl_sequence(length: int, device: torch.device) -> Tensor:
    """GAMMA, 2 GAMMA, 3 GAMMA, ... modulo 2^64."""
    return torch.arange(1, length + 1, device=device) * _GAMMA


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of 64-bit words in which every bit of z changes every bit of the result."""
    z = (z ^ _top_bits(z, 34)) * _MIX_1
    z = (z ^ _top_bits(z, 37)) * _MIX_2
    return z ^ _top_bits(z, 33)


def _top_bits(z: Tensor, count: int) -> Tensor:
    """The top `count` bits as a number >= 0; torch's >> repeats the sign bit, which the mask removes."""
    return (z >> (64 - count)) & ((1 << count) - 1)


def _mix_int(number: int) -> int:
    """_mix of (number + 1) GAMMA for a Python number, as a signed 64-bit one: spreads small seeds and streams."""
    mask = 2**64 - 1
    z = (number + 1) * _GAMMA & mask
    z = (z ^ (z >> 30)) * (_MIX_1 & mask) & mask
    z = (z ^ (z >> 27)) * (_MIX_2 & mask) & mask
    z ^= z >> 31
    return z - 2**64 if z >> 63 else z
