"""The contract of an attack (robust/attacks/__init__.py), tried on every attack of the registry, and on those of sets."""

import copy

import pytest
import torch
from strength import Counting, margins, mean_loss, seeded
from torch import nn

from benchmarks.small_detector import make_images
from robust.attacks.registry import ATTACKS, NEEDS_SURROGATES
from robust.attacks.threat import L2, Linf
from robust.attacks.universal import universal
from robust.attacks.whole_video import whole_video

SETTINGS = {
    "fgsm": {"steps": 1, "random_start": True},
    "pgd": {"steps": 5, "restarts": 2},
    "apgd": {"steps": 5, "restarts": 2},
    "apgd_ce": {"steps": 5},
    "fmn": {"steps": 6, "restarts": 2},
    "cw": {"steps": 10, "searches": 3},
    "square": {"steps": 20},
    "eot": {"steps": 4, "samples": 3},
    "mi_fgsm": {"steps": 5},
    "transfer": {"steps": 5},
    "whole_video": {"steps": 5, "restarts": 2},
    "universal": {"steps": 5},
}
ALL = ATTACKS | {"whole_video": whole_video, "universal": universal}
TO_THE_EDGE = ("fgsm", "pgd", "apgd", "apgd_ce")  # the others stop when the image flips
BLIND = ("fgsm", "eot", "mi_fgsm", "transfer", "universal")  # take their last point, or look at a mean
DRAW_NOTHING = ("cw", "universal")
FEWER_NORMS = {"cw": (L2,)}
SMALL = {Linf: Linf.from_255(4), L2: L2(0.5)}
LARGE = {Linf: Linf.from_255(8), L2: L2(1.5)}
every_attack = pytest.mark.parametrize("name", ALL)
every_attack_and_norm = pytest.mark.parametrize(
    ("name", "norm"),
    [pytest.param(a, n, id=f"{a}-{n.__name__}") for a in ALL for n in FEWER_NORMS.get(a, (Linf, L2))],
)


@pytest.fixture
def few(images):
    """16 images and their labels, where more would only take longer."""
    return images[0][:16], images[1][:16]


def attack(name, model, x, y, threat=None, **settings):
    threat = threat or SMALL[FEWER_NORMS.get(name, (Linf,))[0]]
    if name in NEEDS_SURROGATES:
        settings = {"surrogates": [model], **settings}
    if name == "universal":
        fit_x, fit_y = make_images(24, generator=seeded(9))
        settings = {"fit_on": (fit_x.to(next(model.parameters()).dtype), fit_y), **settings}
    return ALL[name](model, x, y, threat, **{"generator": seeded(0)} | SETTINGS[name] | settings)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@every_attack_and_norm
def test_stays_in_the_ball_and_keeps_shape_and_dtype(detector, few, name, norm, dtype):
    x, y, threat = few[0].to(dtype), few[1], SMALL[norm]
    x_adv = attack(name, detector.to(dtype), x, y, threat)
    delta = (x_adv.double() - x.double()).flatten(1)
    length = delta.abs().amax(dim=1) if norm is Linf else delta.norm(dim=1)
    assert x_adv.shape == x.shape and x_adv.dtype == dtype and not x_adv.requires_grad
    assert length.max() <= threat.epsilon + 1e-6
    assert 0 <= x_adv.min() and x_adv.max() <= 1
    assert (length > 0.5 * threat.epsilon).all() or name not in TO_THE_EDGE


@every_attack_and_norm
def test_no_image_ends_weaker_than_it_began(detector, few, name, norm):
    x, y = few
    after, before = margins(detector, attack(name, detector, x, y, LARGE[norm]), y), margins(detector, x, y)
    assert (after >= before - 1e-5).all() or name in BLIND
    assert (after > before + 1e-3).any()


@pytest.mark.parametrize("name", TO_THE_EDGE)
def test_half_precision_attack_is_nearly_as_strong(detector, few, name):
    x, y = few[0].bfloat16(), few[1]
    exact = mean_loss(detector, attack(name, detector, x.float(), y, LARGE[Linf]), y)
    half = mean_loss(detector, attack(name, copy.deepcopy(detector).bfloat16(), x, y, LARGE[Linf]).float(), y)
    clean = mean_loss(detector, x.float(), y)
    assert half - clean > 0.8 * (exact - clean)


@pytest.mark.parametrize("shade", [0.0, 1.0], ids=["black", "white"])
@every_attack
def test_uniform_images_stay_within_epsilon(detector, name, shade):
    # The reference implementation clamped normalised pixels to [0, 1]: black became mid-grey.
    x = torch.full((4, 3, 32, 32), shade)
    threat = L2(0.5) if name == "cw" else Linf.from_255(2)
    x_adv = attack(name, detector, x, torch.tensor([0, 1, 0, 1]), threat)
    assert (x_adv - x).abs().max() <= (0.5 if name == "cw" else 2 / 255) + 1e-6
    assert 0 <= x_adv.min() and x_adv.max() <= 1
    assert not torch.equal(x_adv, x) or name not in TO_THE_EDGE


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@every_attack
def test_leaves_no_trace(mixed_detector, few, untouched, name, outside):
    x, y = few[0].clone(), few[1].clone()
    threat = LARGE[FEWER_NORMS.get(name, (Linf,))[0]]
    with untouched(mixed_detector), outside():
        x_adv = attack(name, mixed_detector, x, y, threat, generator=None)
    assert torch.equal(x, few[0]) and torch.equal(y, few[1]) and x.grad is None
    mixed_detector.eval()
    assert mean_loss(mixed_detector, x_adv, y) > mean_loss(mixed_detector, x, y) + 0.1


@every_attack
def test_leaves_no_trace_when_the_model_raises(mixed_detector, few, untouched, name):
    class FailsLater(Counting):
        def forward(self, x):
            logits = super().forward(x)
            if self.gradients or self.forwards == 2:
                raise RuntimeError("out of memory, say")
            return logits

    model = FailsLater(mixed_detector)
    with untouched(model), pytest.raises(RuntimeError, match="out of memory"):
        attack(name, model, *few)


@every_attack
def test_a_step_after_the_attack_has_only_its_own_gradients(detector, few, name):
    # The reference implementation added the attack's parameter gradients to its optimiser step.
    x, y = few
    model, twin = detector.train(), copy.deepcopy(detector).train()
    x_adv = attack(name, model, x, y)
    for m in (model, twin):
        nn.functional.binary_cross_entropy_with_logits(m(x_adv), y.float()).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        assert torch.equal(ours.grad, theirs.grad)


@every_attack_and_norm
def test_an_image_is_attacked_alike_in_any_batch(detector, images, name, norm):
    detector, x, y = detector.double().train(), images[0][:12].double(), images[1][:12]
    together = attack(name, detector, x, y, SMALL[norm])
    for i in (0, 7, 11):
        alone = attack(name, detector, x[i : i + 1], y[i : i + 1], SMALL[norm])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-6)
    order = torch.randperm(12, generator=seeded(3))
    shuffled = attack(name, detector, x[order], y[order], SMALL[norm])
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-6)


@every_attack_and_norm
def test_the_generator_decides(detector, few, name, norm):
    def run(generator):
        return attack(name, detector, *few, LARGE[norm], generator=generator)

    assert torch.equal(run(seeded(1)), run(seeded(1)))
    assert torch.equal(run(None), run(None))
    if name in DRAW_NOTHING:
        return
    assert not torch.equal(run(seeded(1)), run(seeded(2)))
    one = seeded(1)
    assert not torch.equal(run(one), run(one))


@every_attack_and_norm
def test_epsilon_zero_changes_nothing(detector, few, name, norm):
    x, y = few
    x_adv = attack(name, detector, x, y, norm(0.0))
    assert torch.equal(x_adv, x) and x_adv.data_ptr() != x.data_ptr()


@every_attack
def test_an_empty_batch_is_no_error(detector, few, name):
    assert attack(name, detector, few[0][:0], few[1][:0]).shape == (0, 3, 32, 32)


@every_attack
def test_channels_last(detector, few, name):
    x, y = few
    layouts = x, x.contiguous(memory_format=torch.channels_last)
    usual, channels_last = (mean_loss(detector, attack(name, detector, z, y), y) for z in layouts)
    assert channels_last == pytest.approx(usual, rel=0.02)


# --- Bad input -------------------------------------------------------------------------------------------------------


def spoil(x, value):
    x = x.clone()
    x[3, 1, 4, 5] = value
    return x


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (spoil(x, float("nan")), y), ValueError, "image 3 .*NaN"),
        (lambda x, y: (spoil(x, float("inf")), y), ValueError, "image 3 .*Inf"),
        (lambda x, y: (spoil(x, -0.01), y), ValueError, r"image 3 .*\[-0.01"),
        (lambda x, y: (x * 255, y), ValueError, r"\[0, 1\]"),
        (lambda x, y: ((x * 255).to(torch.uint8), y), TypeError, "uint8"),
        (lambda x, y: (x, y * 2 - 1), ValueError, "labels must be 0 .* not -1"),
        (lambda x, y: (x, y * 0.5), ValueError, "labels must be 0"),
        (lambda x, y: (x, y[:5]), ValueError, r"\(5,\)"),
        (lambda x, y: (x, y[:, None]), ValueError, r"\(64, 1\)"),
    ],
)
@every_attack
def test_bad_input_is_named(detector, images, name, change, error, message):
    with pytest.raises(error, match=message):
        attack(name, detector, *change(*images))


@every_attack
def test_a_model_that_returns_nan_is_named(detector, few, name):
    detector.head.bias.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="logit is NaN for image 0"):
        attack(name, detector, *few)


@every_attack
def test_no_steps_are_refused(detector, few, name):
    with pytest.raises(ValueError, match="step"):
        attack(name, detector, *few, steps=0)
