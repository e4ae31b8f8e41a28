"""A small trained detector with batch normalisation and images for it, shared by the tests of the attacks."""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from benchmarks.small_detector import SmallDetector, make_images, train_small_detector


class LinearDetector(nn.Module):
    """The logit w . x + b, for which the worst case in a ball is known in closed form."""

    def __init__(self, weight: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.tensor(bias, dtype=weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.flatten() + self.bias


@pytest.fixture(scope="session")
def trained_detector() -> SmallDetector:
    return train_small_detector()


@pytest.fixture
def detector(trained_detector) -> SmallDetector:
    """A copy of the trained detector, free to be changed."""
    return copy.deepcopy(trained_detector)


@pytest.fixture(scope="session")
def images() -> tuple[Tensor, Tensor]:
    """64 images in [0, 1] and their labels, not seen in training."""
    return make_images(64, generator=torch.Generator().manual_seed(1234))


@pytest.fixture
def linear() -> LinearDetector:
    """A linear detector in float64 on 3 x 6 x 6 images."""
    weight = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return LinearDetector(weight, bias=0.3)


@pytest.fixture
def mixed_detector(detector) -> SmallDetector:
    """The detector as in fine-tuning: some layers frozen, some in evaluation mode, a gradient there already."""
    detector.train()
    detector.features[1].eval()
    detector.features[3].weight.requires_grad_(False)
    detector.head.weight.grad = torch.full_like(detector.head.weight, 3.0)
    return detector


@pytest.fixture
def untouched():
    """`with untouched(model):` fails if the block changes a flag, gradient, parameter, buffer or the random state."""

    @contextmanager
    def check(model):
        before, random_state = snapshot(model), torch.get_rng_state()
        yield
        for name, now, then in zip(("modes", "requires_grad", "gradients", "tensors"), snapshot(model), before):
            changed = [key for key in then if not same(now[key], then[key])]
            assert not changed, f"{name} changed: {changed}"
        assert torch.equal(torch.get_rng_state(), random_state), "the global random state changed"
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()

    return check


def snapshot(model: nn.Module) -> tuple[dict, dict, dict, dict]:
    return (
        {name: module.training for name, module in model.named_modules()},
        {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
    )


def same(now, then) -> bool:
    return torch.equal(now, then) if isinstance(now, Tensor) and isinstance(then, Tensor) else now is then
