"""robust/training/folding.py: the same function and input gradient as the network, now and after an update."""

import pytest
import timm
import torch
from tiny_training import SIZE, images, same, smooth, weights
from torch import nn

from robust.training.folding import FoldedNetwork, foldable


class Timm(nn.Module):
    def __init__(self, name: str):
        super().__init__()
        self.backbone = timm.create_model(name, num_classes=1)

    def forward(self, x):
        return self.backbone(x).squeeze(1)


class Branching(nn.Module):
    """The convolution's output goes to its norm and, past it, to the sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        features = self.conv(x)
        return (self.norm(features) + features).mean(dim=(1, 2, 3))


def unlike_new(network: nn.Module) -> nn.Module:
    """With norms that do something; in training mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                ranges = ((module.running_mean, -0.5), (module.running_var, 0.3), (module.weight, 0.5), (module.bias, -0.5))
                for tensor, low in ranges:
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return network.train()


def answer(network, x):
    """(logits, input gradients) of the deployed function, in float64."""
    x = x.double().requires_grad_()
    logits = network(x)
    return logits.detach(), torch.autograd.grad(logits.sum(), x)[0]


@pytest.mark.parametrize("build, pairs", [
    (smooth, 1), (lambda: Timm("test_resnet"), None), (lambda: Timm("test_efficientnet"), None),
])
def test_the_folded_network_is_the_network(build, pairs):
    network, x = unlike_new(build()).double(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    before, modes = weights(network), [module.training for module in network.modules()]
    folded = FoldedNetwork(network, x)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert len(folded.pairs) == (pairs or norms)
    for _ in range(2):  # the second time with other weights and statistics
        attacked = folded.refreshed()
        assert not any(isinstance(module, nn.BatchNorm2d) for module in attacked.modules())
        expected = answer(network.eval(), x)
        for one, other in zip(answer(attacked, x), expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-6, atol=1e-9)
        network.train()
        assert same(weights(network), before) and [module.training for module in network.modules()] == modes
        with torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers()):
                if tensor.is_floating_point():
                    tensor.mul_(1.3)
        before = weights(network)


def test_only_folded_weights_are_copies():
    network = smooth()
    attacked = FoldedNetwork(network, images()[0]).refreshed()
    assert attacked.features[3].weight is network.features[3].weight and attacked.head[1].weight is network.head[1].weight
    assert attacked.features[0].weight is not network.features[0].weight and not attacked.features[0].weight.requires_grad
    assert network.features[0].weight.requires_grad and not network.features[0]._forward_hooks


def test_a_convolution_that_also_feeds_something_else_is_left_alone():
    network, x = unlike_new(Branching()), images()[0]
    assert foldable(network, x) == [("conv", "norm")]  # what follows what is right; that there is more shows in the logits
    folded = FoldedNetwork(network, x)
    assert folded.pairs == [] and folded.refreshed() is network


def test_a_norm_before_its_convolution_or_used_twice_is_left_alone():
    before = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.LazyLinear(1))
    before(torch.rand(1, 3, SIZE, SIZE))
    assert foldable(before, images()[0]) == []
    norm = nn.BatchNorm2d(3)
    twice = nn.Sequential(nn.Conv2d(3, 3, 3), norm, nn.Conv2d(3, 3, 3), norm)
    assert foldable(twice, images()[0]) == []
