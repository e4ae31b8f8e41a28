"""Input gradients: exact, per image, and without a trace left on the model."""

import pytest
import torch
from torch import nn

from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.losses import cross_entropy_loss, margin_loss


def test_gradient_equals_finite_differences(detector, images):
    detector, x, y = detector.double(), images[0][:4].double(), images[1][:4]
    with attack_mode(detector):
        value, gradient = value_and_input_gradient(detector, x, y)
        assert torch.equal(value, margin_loss(detector(x), y))
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):
            direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            up, down = (margin_loss(detector(x + h * direction), y) for h in (1e-5, -1e-5))
            expected = (gradient * direction).flatten(1).sum(dim=1)
            torch.testing.assert_close((up - down) / 2e-5, expected, rtol=1e-6, atol=1e-8)


def test_each_image_has_its_own_gradient(detector, images):
    # In training mode batch normalisation would mix them.
    detector, x, y = detector.double().train(), images[0][:6].double(), images[1][:6]
    with attack_mode(detector):
        _, together = value_and_input_gradient(detector, x, y)
        for i in range(6):
            _, alone = value_and_input_gradient(detector, x[i : i + 1], y[i : i + 1])
            torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_flags_come_back(mixed_detector, images, untouched, outside):
    with untouched(mixed_detector), outside():
        with attack_mode(mixed_detector):
            assert not any(module.training for module in mixed_detector.modules())
            assert not any(parameter.requires_grad for parameter in mixed_detector.parameters())
            value_and_input_gradient(mixed_detector, *(t.clone() for t in images))
        assert torch.is_grad_enabled() == (outside is torch.enable_grad)


def test_flags_come_back_when_the_model_raises(mixed_detector, untouched):
    with untouched(mixed_detector), pytest.raises(RuntimeError, match="channels"), attack_mode(mixed_detector):
        mixed_detector(torch.zeros(2, 4, 32, 32))


def test_logits_of_another_shape_are_refused(images):
    class TwoDimensional(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :1]

    with pytest.raises(ValueError, match=r"\(64, 1\).*\(64,\)"):
        value_and_input_gradient(TwoDimensional(), *images)


def test_a_model_without_gradient_is_refused(images):
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1).sum(dim=1)

    with pytest.raises(ValueError, match="no gradient"):
        value_and_input_gradient(Detached(), *images)


def test_only_a_bare_module_is_attacked(detector):
    with pytest.raises(TypeError, match="Module"), attack_mode(lambda x: x.sum()):
        pass


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool], ids=str)
def test_losses_grow_with_being_wrong(dtype):
    logits, y = torch.tensor([2.0, 2.0, -2.0, -2.0]), torch.tensor([1, 0, 1, 0]).to(dtype)
    assert margin_loss(logits, y).tolist() == [-2, 2, 2, -2]
    expected = nn.functional.softplus(torch.tensor([-2.0, 2.0, 2.0, -2.0]))
    torch.testing.assert_close(cross_entropy_loss(logits, y), expected)


def test_half_precision_logits_are_widened():
    assert margin_loss(torch.tensor([1.5], dtype=torch.bfloat16), torch.tensor([1])).dtype == torch.float32


def test_autocast_keeps_the_gradients_dtype(detector, images):
    x, y = images
    with torch.autocast("cpu", dtype=torch.bfloat16), attack_mode(detector):
        value, gradient = value_and_input_gradient(detector, x, y)
    with attack_mode(detector):
        _, exact = value_and_input_gradient(detector, x, y)
    assert value.dtype == gradient.dtype == torch.float32
    assert nn.functional.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0) > 0.99
