"""PGD and FGSM: known answers, strength, and the contract of an attack."""

import copy

import pytest
import torch
from torch import nn

from robust.attacks.fgsm import fgsm
from robust.attacks.losses import cross_entropy_loss, margin_loss
from robust.attacks.pgd import pgd
from robust.attacks.registry import ATTACKS
from robust.attacks.threat import L2, Linf

STEPS = {"fgsm": 1, "pgd": 5}
THREATS_TRIED = [Linf.from_255(4), L2(0.5)]
every_attack = pytest.mark.parametrize("name", ATTACKS)
every_threat = pytest.mark.parametrize("threat", THREATS_TRIED, ids=str)


def attack(name, model, x, y, threat, **settings):
    return ATTACKS[name](model, x, y, threat, **{"steps": STEPS[name], "generator": seeded(0)} | settings)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def robust_accuracy(model, x, y):
    with torch.no_grad():
        return ((model(x) > 0).long() == y).float().mean().item()


def mean_loss(model, x, y):
    with torch.no_grad():
        return margin_loss(model(x), y).mean().item()


class Counting(nn.Module):
    """Counts forward passes, and those that lead to a gradient."""

    def __init__(self, model):
        super().__init__()
        self.model, self.forwards, self.gradients = model, 0, 0

    def forward(self, x):
        self.forwards += 1
        self.gradients += x.requires_grad
        return self.model(x)


# --- Known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clipped", [False, True], ids=["inside the box", "at the box"])
@every_attack
def test_linear_optimum_linf(linear, name, clipped):
    # The worst case of w . x + b in the box and the ball: every pixel goes the full epsilon, clipped to [0, 1].
    x = torch.rand(8, 3, 6, 6, generator=seeded(1), dtype=torch.float64)
    x = x if clipped else 0.25 + x / 2
    y = torch.arange(8) % 2
    uphill = (1 - 2 * y).view(-1, 1, 1, 1) * linear.weight.detach().sign()
    optimum = (x + 0.1 * uphill).clamp(0, 1)
    torch.testing.assert_close(attack(name, linear, x, y, Linf(0.1)), optimum, rtol=0, atol=1e-12)


@every_attack
def test_linear_optimum_l2(linear, name):
    x = 0.25 + torch.rand(8, 3, 6, 6, generator=seeded(1), dtype=torch.float64) / 2
    y = torch.arange(8) % 2
    uphill = (1 - 2 * y).view(-1, 1, 1, 1) * linear.weight.detach() / linear.weight.detach().norm()
    settings = {} if name == "fgsm" else {"steps": 60, "step_size": 0.1}
    x_adv = attack(name, linear, x, y, L2(0.2), **settings)
    best_loss = margin_loss(linear(x + 0.2 * uphill), y)
    torch.testing.assert_close(margin_loss(linear(x_adv), y), best_loss, rtol=0, atol=1e-4)
    assert (margin_loss(linear(x_adv), y) <= best_loss + 1e-9).all()


# --- Strength --------------------------------------------------------------------------------------------------------


@every_threat
def test_forty_steps_are_not_one(detector, images, threat):
    # The reference implementation never moved its images inside the loop: 40 steps were one.
    x, y = images
    one, forty = (pgd(detector, x, y, threat, steps=n, generator=seeded(0)) for n in (1, 40))
    assert not torch.equal(one, forty)
    assert mean_loss(detector, forty, y) > mean_loss(detector, one, y) + 0.1


def test_pgd_is_stronger_than_fgsm_and_than_noise(detector, images):
    x, y = images
    threat = Linf.from_255(8)
    strong = mean_loss(detector, pgd(detector, x, y, threat, steps=20, generator=seeded(0)), y)
    single = mean_loss(detector, fgsm(detector, x, y, threat), y)
    noise = mean_loss(detector, threat.project(x + threat.epsilon * torch.randn(x.shape, generator=seeded(2)), x), y)
    assert strong > single + 0.1 and single > noise + 0.1


def test_more_restarts_never_hurt(detector, images):
    x, y = images
    one, three = (
        margin_loss(detector(pgd(detector, x, y, Linf.from_255(8), steps=4, restarts=n, generator=seeded(0))), y)
        for n in (1, 3)
    )
    assert (three >= one - 1e-5).all() and (three > one + 1e-3).any()


def test_no_image_ends_weaker_than_it_began(detector, images):
    # A step far too large throws the path back and forth; the best point is kept nevertheless.
    x, y = images
    x_adv = pgd(detector, x, y, Linf.from_255(8), steps=5, step_size=1.0, generator=seeded(0))
    last = pgd(detector, x, y, Linf.from_255(8), steps=5, step_size=1.0, generator=seeded(0), keep_best=False)
    clean, best, end = (margin_loss(detector(z), y) for z in (x, x_adv, last))
    assert (best >= clean - 1e-5).all() and (best >= end - 1e-5).all() and (best > end + 0.1).any()


def test_saturated_logits_do_not_hide_from_the_margin(detector, images):
    class Saturated(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return 1000 * self.model(x)

    x, y = images
    threat = Linf.from_255(8)
    plain = robust_accuracy(detector, pgd(detector, x, y, threat, steps=20, generator=seeded(0)), y)
    saturated = Saturated(detector)
    margin, entropy = (
        robust_accuracy(detector, pgd(saturated, x, y, threat, steps=20, loss=loss, generator=seeded(0)), y)
        for loss in (margin_loss, cross_entropy_loss)
    )
    assert abs(margin - plain) <= 0.02
    assert entropy > margin + 0.1  # what the margin protects from: sigmoid(+-1000 z) has no gradient left


def test_robust_accuracy_falls_with_epsilon_to_zero(detector, images):
    x, y = images
    curve = [
        robust_accuracy(detector, pgd(detector, x, y, Linf.from_255(e), steps=20, generator=seeded(0)), y)
        for e in (0, 1, 2, 4, 8, 16, 255)
    ]
    assert curve[0] == robust_accuracy(detector, x, y) > 0.9
    assert all(after <= before for before, after in zip(curve, curve[1:]))
    assert curve[-1] == 0


# --- The contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@every_threat
@every_attack
def test_stays_in_the_ball_and_keeps_shape_and_dtype(detector, images, name, threat, dtype):
    x, y = images[0].to(dtype), images[1]
    x_adv = attack(name, detector.to(dtype), x, y, threat)
    delta = (x_adv.double() - x.double()).flatten(1)
    length = delta.abs().amax(dim=1) if isinstance(threat, Linf) else delta.norm(dim=1)
    assert x_adv.shape == x.shape and x_adv.dtype == dtype and not x_adv.requires_grad
    assert length.max() <= threat.epsilon + 1e-6
    assert 0 <= x_adv.min() and x_adv.max() <= 1
    assert (length > 0.5 * threat.epsilon).all()


@every_attack
def test_half_precision_attack_is_nearly_as_strong(detector, images, name):
    x, y = images[0].bfloat16(), images[1]
    threat = Linf.from_255(8)
    exact = mean_loss(detector, attack(name, detector, x.float(), y, threat), y)
    half = mean_loss(detector, attack(name, copy.deepcopy(detector).bfloat16(), x, y, threat).float(), y)
    clean = mean_loss(detector, x.float(), y)
    assert half - clean > 0.8 * (exact - clean)


@pytest.mark.parametrize("shade", [0.0, 1.0], ids=["black", "white"])
@every_attack
def test_uniform_images_stay_within_epsilon(detector, name, shade):
    # The reference implementation clamped normalised pixels to [0, 1]: black became mid-grey.
    x = torch.full((4, 3, 32, 32), shade)
    x_adv = attack(name, detector, x, torch.tensor([0, 1, 0, 1]), Linf.from_255(2))
    assert (x_adv - x).abs().max() <= 2 / 255 + 1e-6
    assert 0 <= x_adv.min() and x_adv.max() <= 1
    assert not torch.equal(x_adv, x)


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@every_attack
def test_leaves_no_trace(mixed_detector, images, untouched, name, outside):
    x, y = images[0].clone(), images[1].clone()
    with untouched(mixed_detector), outside():
        x_adv = attack(name, mixed_detector, x, y, Linf.from_255(4), generator=None, random_start=True)
    assert torch.equal(x, images[0]) and torch.equal(y, images[1]) and x.grad is None
    mixed_detector.eval()
    assert mean_loss(mixed_detector, x_adv, y) > mean_loss(mixed_detector, x, y) + 0.1


@every_attack
def test_leaves_no_trace_when_the_model_raises(mixed_detector, images, untouched, name):
    class FailsLater(Counting):
        def forward(self, x):
            logits = super().forward(x)
            if self.gradients:
                raise RuntimeError("out of memory, say")
            return logits

    model = FailsLater(mixed_detector)
    with untouched(model), pytest.raises(RuntimeError, match="out of memory"):
        attack(name, model, *images, Linf.from_255(4))


@every_attack
def test_a_step_after_the_attack_has_only_its_own_gradients(detector, images, name):
    # The reference implementation added the attack's parameter gradients to its optimiser step.
    x, y = images
    model, twin = detector.train(), copy.deepcopy(detector).train()
    x_adv = attack(name, model, x, y, Linf.from_255(2))
    for m in (model, twin):
        nn.functional.binary_cross_entropy_with_logits(m(x_adv), y.float()).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters()):
        assert torch.equal(ours.grad, theirs.grad)


@every_threat
@every_attack
def test_an_image_is_attacked_alike_in_any_batch(detector, images, name, threat):
    detector, x, y = detector.double().train(), images[0][:12].double(), images[1][:12]
    settings = {"random_start": True} | ({"restarts": 2} if name == "pgd" else {})
    together = attack(name, detector, x, y, threat, **settings)
    for i in (0, 7, 11):
        alone = attack(name, detector, x[i : i + 1], y[i : i + 1], threat, **settings)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-6)
    order = torch.randperm(12, generator=seeded(3))
    shuffled = attack(name, detector, x[order], y[order], threat, **settings)
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-6)


def test_the_generator_decides(detector, images):
    def run(generator):
        return pgd(detector, *images, Linf.from_255(4), steps=2, generator=generator)

    assert torch.equal(run(seeded(1)), run(seeded(1)))
    assert torch.equal(run(None), run(None))
    assert not torch.equal(run(seeded(1)), run(seeded(2)))
    one = seeded(1)
    assert not torch.equal(run(one), run(one))


@pytest.mark.parametrize(
    ("settings", "forwards", "gradients"),
    [
        ({"steps": 10}, 12, 10),
        ({"steps": 10, "restarts": 3}, 34, 30),
        ({"steps": 10, "random_start": False}, 11, 10),
        ({"steps": 10, "keep_best": False}, 10, 10),
    ],
)
def test_passes_of_the_model(detector, images, settings, forwards, gradients):
    model = Counting(detector)
    pgd(model, *images, Linf.from_255(4), **settings)
    assert (model.forwards, model.gradients) == (forwards, gradients)


def test_fgsm_passes_of_the_model(detector, images):
    model = Counting(detector)
    fgsm(model, *images, Linf.from_255(4))
    assert (model.forwards, model.gradients) == (1, 1)


@every_attack
def test_epsilon_zero_changes_nothing(detector, images, name):
    x, y = images
    x_adv = attack(name, detector, x, y, Linf(0.0))
    assert torch.equal(x_adv, x) and x_adv.data_ptr() != x.data_ptr()


@every_attack
def test_an_empty_batch_is_no_error(detector, images, name):
    assert attack(name, detector, images[0][:0], images[1][:0], Linf.from_255(4)).shape == (0, 3, 32, 32)


@every_attack
def test_channels_last(detector, images, name):
    x, y = images
    usual, channels_last = (
        mean_loss(detector, attack(name, detector, z, y, Linf.from_255(4)), y)
        for z in (x, x.contiguous(memory_format=torch.channels_last))
    )
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
        attack(name, detector, *change(*images), Linf.from_255(4))


@every_attack
def test_checks_can_be_left_out(detector, images, name):
    attack(name, detector, images[0] * 1.5, images[1], Linf.from_255(4), checked=False)


@every_attack
def test_a_model_that_returns_nan_is_named(detector, images, name):
    detector.head.bias.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="logit is NaN for image 0"):
        attack(name, detector, *images, Linf.from_255(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 5, "restarts": 0}, "restarts=0"),
        ({"steps": 5, "step_size": 0.0}, "step_size"),
        ({"steps": 5, "step_size": float("nan")}, "step_size"),
        ({"steps": 5, "restarts": 2, "random_start": False}, "restarts=2"),
        ({"steps": 5, "restarts": 2, "keep_best": False}, "restarts=2"),
    ],
)
def test_impossible_settings_are_named(detector, images, settings, message):
    with pytest.raises(ValueError, match=message):
        pgd(detector, *images, Linf.from_255(4), **settings)


def test_fgsm_makes_one_step(detector, images):
    with pytest.raises(ValueError, match="one step, not 20"):
        fgsm(detector, *images, Linf.from_255(4), steps=20)
