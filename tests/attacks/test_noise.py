"""Per-image random numbers: of the image alone, repeatable, and good enough as random numbers."""

import numpy as np
import pytest
import scipy.stats
import torch

from robust.attacks.noise import ImageNoise, _mix, _weyl_sequence, content_hash


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    return torch.rand(16, 3, 40, 40, generator=seeded(0))


@pytest.mark.parametrize("draw", ["uniform", "normal", "fraction"])
def test_an_image_has_the_same_numbers_in_any_batch(x, draw):
    together = getattr(ImageNoise.of(x, generator=seeded(7)), draw)(2)
    order = torch.randperm(16, generator=seeded(1))
    assert torch.equal(getattr(ImageNoise.of(x[order], generator=seeded(7)), draw)(2), together[order])
    for i in (0, 5, 15):
        alone = getattr(ImageNoise.of(x[i : i + 1], generator=seeded(7)), draw)(2)
        assert torch.equal(alone[0], together[i])


def test_memory_format_does_not_matter(x):
    channels_last = x.to(memory_format=torch.channels_last)
    assert torch.equal(ImageNoise.of(channels_last).uniform(), ImageNoise.of(x).uniform())


def test_seed_stream_and_content_each_give_other_numbers(x):
    noise = ImageNoise.of(x, generator=seeded(7))
    other_image = x.clone()
    other_image[:, 0, 0, 0] += 2.0**-20
    swapped = x.flip(3)
    for other in (
        ImageNoise.of(x, generator=seeded(8)).uniform(),
        ImageNoise.of(x).uniform(),
        noise.uniform(1),
        ImageNoise.of(other_image, generator=seeded(7)).uniform(),
        ImageNoise.of(swapped, generator=seeded(7)).uniform(),
    ):
        assert abs(correlation(noise.uniform(), other)) < 0.01
    second = seeded(7)
    ImageNoise.of(x, generator=second)
    assert not torch.equal(ImageNoise.of(x, generator=second).uniform(), noise.uniform())  # the generator moved on


def test_words_are_splitmix64s():
    # The first three outputs of SplitMix64 from state 0, as its reference implementation gives them.
    words = _mix(_weyl_sequence(3, torch.device("cpu"))).tolist()
    assert [word % 2**64 for word in words] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_global_random_state_is_untouched(x):
    before = torch.get_rng_state()
    noise = ImageNoise.of(x, generator=seeded(1))
    noise.uniform(), noise.normal(), noise.fraction(), ImageNoise.of(x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_dtype_of_images(x, dtype):
    noise = ImageNoise.of(x.to(dtype))
    assert noise.uniform().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert len(set(content_hash(x.to(dtype)).tolist())) == 16


def test_content_hashes_of_nearly_equal_images_differ():
    x = torch.zeros(1024, 1, 32, 32)
    x.flatten(1)[torch.arange(1024), torch.arange(1024)] = 2.0**-10  # one pixel each, at another place
    assert len(set(content_hash(x).tolist())) == 1024


# Constant images, images that differ in one bit, and noise: the hash must not care.
@pytest.mark.parametrize("kind", ["black", "one bit", "random"])
@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_distribution(kind, draw):
    x = torch.zeros(8, 3, 100, 100)
    if kind == "one bit":
        x[torch.arange(8), 0, 0, torch.arange(8)] = 2.0**-149
    if kind == "random":
        x = torch.rand(x.shape, generator=seeded(3))
    if kind == "black":
        x = x[:1].repeat(1, 1, 3, 3)
    values = getattr(ImageNoise.of(x, generator=seeded(3)), draw)()
    flat = values.double().numpy().reshape(len(x), -1)
    expected = scipy.stats.uniform(-1, 2) if draw == "uniform" else scipy.stats.norm()
    assert scipy.stats.kstest(flat.ravel(), expected.cdf).pvalue > 1e-3
    n = flat.size
    assert abs(flat.mean()) < 4 * expected.std() / n**0.5
    kurtosis = expected.stats("k") + 2
    assert flat.var() == pytest.approx(expected.var(), abs=4 * expected.var() * (kurtosis / n) ** 0.5)
    for lag in (1, 2, 3, 100, 10000):  # neighbours across, down, and the same place in the next channel
        assert abs(correlation(flat[:, :-lag], flat[:, lag:])) < 4.5 / n**0.5
    for i in range(1, len(flat)):
        assert abs(correlation(flat[0], flat[i])) < 4.5 / flat.shape[1] ** 0.5
    other = getattr(ImageNoise.of(x, generator=seeded(3)), draw)(1)
    assert abs(correlation(values, other)) < 4.5 / n**0.5


def test_low_bits_are_random_too():
    words = (ImageNoise.of(torch.zeros(1, 3, 200, 200)).uniform().double() * 2**23).long().numpy().ravel()
    for modulus in (2, 3, 16, 256):
        counts = np.bincount(words % modulus, minlength=modulus)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_range():
    values = ImageNoise.of(torch.zeros(1, 3, 600, 600)).uniform()
    assert -1 <= values.min() < -0.9999 and 0.9999 < values.max() < 1


def correlation(a, b):
    a, b = np.asarray(a, dtype=float).ravel(), np.asarray(b, dtype=float).ravel()
    return float(np.corrcoef(a, b)[0, 1])
