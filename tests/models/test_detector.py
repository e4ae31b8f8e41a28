"""robust/models/detector.py: one logit, pixels in [0, 1] go in, and a card's architecture builds the same network."""

import pytest
import timm
import torch

from robust.config import ModelConfig
from robust.errors import ConfigError
from robust.models.detector import build_detector, empty_detector


def tiny(**settings):
    torch.manual_seed(0)
    return build_detector(ModelConfig(**{"name": "test_resnet", "input_size": 32, "weights": "none", **settings}))


@pytest.mark.parametrize("name", ["test_resnet", "vit_tiny_patch16_224", "meso_inception4"])
def test_one_logit_an_image(name):
    detector, source = tiny(name=name)
    assert detector.input_size == 32 and source == "none: trained from scratch"
    logits = detector.eval()(torch.rand(5, 3, 32, 32))
    assert logits.shape == (5,) and logits.isfinite().all()
    assert detector(torch.rand(1, 3, 32, 32)).shape == (1,)


@pytest.mark.parametrize("name, drawn", [("tf_efficientnet_lite0", 3**-0.5), ("test_resnet", None)])
def test_a_new_head_is_no_larger_than_torch_draws_it(name, drawn):
    torch.manual_seed(0)
    plain = timm.create_model(name, pretrained=False, num_classes=1).get_classifier().weight
    head = tiny(name=name)[0].backbone.get_classifier().weight
    if drawn is None:
        assert torch.equal(head, plain)
    else:  # uniform in [-1, 1] as timm makes it
        assert float(plain.std()) == pytest.approx(drawn, rel=0.05)
        assert float(head.std()) == pytest.approx((3 * head.shape[1]) ** -0.5, rel=1e-4)


def test_normalisation_is_inside():
    detector, _ = tiny()
    detector.eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (detector.architecture.mean, detector.architecture.std))
    assert 0.4 < float(mean.mean()) < 0.6 and float(std.max()) < 0.6
    black, white = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    seen = []
    detector.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    detector(torch.cat([black, white]))
    assert torch.allclose(seen[0][0], (-mean / std).expand(3, 32, 32)) and torch.allclose(seen[0][1], ((1 - mean) / std).expand(3, 32, 32))
    assert not torch.equal(detector(black), detector(white))


def test_an_architecture_builds_the_same_network():
    detector, _ = tiny(activation="gelu")
    again = empty_detector(detector.architecture)
    again.load_state_dict(detector.state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(detector.eval()(x), again.eval()(x))
    assert "mean" not in detector.state_dict()  # it is in the card


def test_an_unknown_model_is_refused_with_near_ones():
    with pytest.raises(ConfigError, match=r"model.name: 'tf_efficientnet_lite9'.*meso_inception4"):
        tiny(name="tf_efficientnet_lite9")
    with pytest.raises(ConfigError, match="neither a timm model"):
        tiny(name="hf-hub:someone/something")
