"""robust/training/loop.py: a step is the gradient of the objective and nothing else; an epoch is what its seed says."""

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_training import SIZE, crop_set, images, recipe, same, settings, smooth, train, weights

from robust.attacks.pgd import pgd
from robust.attacks.threat import Linf
from robust.config import PIXEL, AugmentConfig
from robust.data.augment import build_augmentation
from robust.data.face_swap import TEMPLATE
from robust.data.inputs import to_tensor
from robust.data.order import epoch_batches, places_of
from robust.data.self_blended_crops import SelfBlendedCrops
from robust.errors import NonFiniteLoss
from robust.training.collapse import CollapseGuard
from robust.training.lipschitz import lipschitz_term
from robust.training.loop import Place, start_training
from robust.training.modes import evaluation_mode
from robust.training.objective import Objective
from robust.training.schedule import cosine_rate
from robust.training.step import take_step

CPU = torch.device("cpu")
ATTACKED = {"attack": {"epsilon": 2, "steps": 2}}


@pytest.mark.parametrize("train_recipe", [
    recipe(epochs=2), recipe(epochs=2, **ATTACKED), recipe(epochs=2, **ATTACKED, adversarial_share=0.5),
    recipe(epochs=2, **ATTACKED, lipschitz={"weight": 0.1}),
])
def test_the_loop_is_adversarial_training_written_plainly(train_recipe):
    # Madry et al. 2018: examples by PGD on the network as it is deployed, then a plain step on their cross-entropy.
    crops, plain = crop_set(), smooth()
    training, figures = train(smooth(), crops, epochs=2, train_recipe=train_recipe, train_settings=settings(fold=False))

    plain = plain.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2)
    attack, share, weight, step = train_recipe.attack, train_recipe.adversarial_share, train_recipe.lipschitz.weight, 0
    for epoch in range(2):
        batches = epoch_batches(crops.labels, crops.methods, batch_size=8, seed=24, epoch=epoch, balance=True)
        for indices in batches:
            for group in optimizer.param_groups:
                group["lr"] = cosine_rate(step, total=2 * len(batches), highest=1e-2, lowest=1e-6)
            x, y = to_tensor(crops.pixels[indices]).to(memory_format=torch.channels_last), torch.from_numpy(crops.labels[indices])
            generator = torch.Generator().manual_seed(24 * 1_000_003 + step)
            x_adv = pgd(plain, x, y, Linf.from_255(attack.epsilon), steps=attack.steps, keep_best=False, generator=generator)
            if attack.epsilon == 0 or share == 1:
                loss = F.binary_cross_entropy_with_logits(plain(x_adv), y.float())
            else:
                on_clean, on_adversarial = plain(torch.cat([x, x_adv])).chunk(2)
                loss = (1 - share) * F.binary_cross_entropy_with_logits(on_clean, y.float())
                loss = loss + share * F.binary_cross_entropy_with_logits(on_adversarial, y.float())
            if weight:
                with evaluation_mode(plain):
                    loss = loss + weight * lipschitz_term(plain, x_adv, kind="exact", norm="l2")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    assert same(weights(training.network), weights(plain))
    assert all((figure.losses["lipschitz"] > 0) == (weight > 0) for figure in figures)
    assert all((figure.losses["adversarial"] > 0) == (attack.epsilon > 0) for figure in figures)


def stepped(train_recipe, **changes):
    """The gradient that one step left, with the batch's examples."""
    train_settings = settings(optimizer="sgd", **changes)
    training = start_training(smooth(), train_settings, train_recipe, device=CPU)
    x, y = images()
    _, examples = take_step(training, x, y, train_settings, train_recipe, rate=0.0, epsilon=2.0, seed=1, now=5)
    return training, x, examples, y


@pytest.mark.parametrize("more", [{}, {"lipschitz": {"weight": 0.5}}, {"lipschitz": {"weight": 0.5, "kind": "finite_difference"}}, {"adversarial_share": 0.5}])
def test_the_steps_gradient_is_that_of_the_objective_alone(more):
    # The attack must leave no gradient behind (A8), nor move batch norm (A7).
    train_recipe = recipe(**ATTACKED, **more)
    training, x, examples, y = stepped(train_recipe)
    alone = smooth()
    Objective(alone)(x, examples, y, train_recipe)["total"].backward()
    assert not torch.equal(examples, x)
    for parameter, expected in zip(training.network.parameters(), alone.parameters(), strict=True):
        assert torch.allclose(parameter.grad, expected.grad, rtol=1e-3, atol=1e-6)
    assert all(torch.allclose(one, other) for one, other in zip(training.network.buffers(), alone.buffers(), strict=True))
    assert int(training.network.features[1].num_batches_tracked) == int(smooth().features[1].num_batches_tracked) + 1


@pytest.mark.parametrize("more", [
    {}, {"recipe": "trades", "awp": 0.05, "lipschitz": {"weight": 0.5}}, {"recipe": "free", "replays": 2},
])
@pytest.mark.parametrize("parts", [2, 3])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(more, parts):
    # 8 images in parts of 3, 3 and 2 as well; with batch norm frozen no image sees its neighbours.
    gradients, examples, terms = [], [], []
    for accumulate in (1, parts):
        train_recipe = recipe(**ATTACKED, **more)
        train_settings = settings(optimizer="sgd", batch_norm="frozen", accumulate=accumulate)
        training = start_training(smooth().eval(), train_settings, train_recipe, device=CPU)
        told, seen = take_step(training, *images(), train_settings, train_recipe, rate=0.0, epsilon=2.0, seed=1, now=5)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in training.network.parameters()]))
        examples.append(seen)
        terms.append({name: value.item() for name, value in told.items()})
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6) and torch.allclose(*examples, atol=1e-6)
    assert terms[0] == pytest.approx(terms[1], rel=1e-3)


def test_gradients_of_the_last_step_do_not_stay():
    train_recipe, train_settings = recipe(**ATTACKED), settings(optimizer="sgd")
    training = start_training(smooth().eval(), train_settings, train_recipe, device=CPU)
    x, y = images()
    gradients = []
    for _ in range(2):  # a rate of 0 leaves the weights as they are
        take_step(training, x, y, train_settings, train_recipe, rate=0.0, epsilon=2.0, seed=1, now=5)
        gradients.append(training.network.head[1].weight.grad.clone())
    assert torch.equal(*gradients)


def test_the_gradient_is_clipped_to_its_norm():
    training, *_ = stepped(recipe(**ATTACKED), gradient_clip=1e-3)
    norm = torch.cat([parameter.grad.flatten() for parameter in training.network.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_the_norm_of_the_gradient_is_told_as_it_was_before_clipping():
    free, *_ = stepped(recipe(**ATTACKED))
    norm = float(torch.cat([parameter.grad.flatten() for parameter in free.network.parameters()]).norm())
    train_settings = settings(optimizer="sgd", gradient_clip=norm / 10)
    training = start_training(smooth(), train_settings, recipe(**ATTACKED), device=CPU)
    terms, _ = take_step(training, *images(), train_settings, recipe(**ATTACKED), rate=0.0, epsilon=2.0, seed=1, now=5)
    assert float(terms["gradient_norm"]) == pytest.approx(norm, rel=1e-4)
    told = [train(smooth(), crop_set(reals=4, fakes=4), epochs=1, train_settings=settings(gradient_clip=clip))[1][0] for clip in (None, 1e-3)]
    assert told[0].gradient_norm > 0.01 and "gradient_norm" not in told[0].losses
    assert told[0].gradient_norm == pytest.approx(told[1].gradient_norm)


def test_frozen_batch_norm_keeps_its_statistics_but_trains_its_weights():
    crops, before = crop_set(), smooth()
    training, _ = train(smooth(), crops, epochs=1, train_settings=settings(batch_norm="frozen"))
    norm, was = training.network.features[1], before.features[1]
    assert torch.equal(norm.running_mean, was.running_mean) and torch.equal(norm.running_var, was.running_var)
    assert not torch.equal(norm.weight, was.weight)
    moved, _ = train(smooth(), crops, epochs=1)
    assert not torch.equal(moved.network.features[1].running_mean, was.running_mean)


def test_an_epoch_is_the_same_for_a_seed():
    augment = build_augmentation(AugmentConfig())
    runs = [train(smooth(dropout=0.3), crop_set(), epochs=1, augment=augment, train_recipe=recipe(**ATTACKED), seed=seed)[0] for seed in (1, 1, 2)]
    assert same(weights(runs[0].network), weights(runs[1].network)) and not same(weights(runs[0].network), weights(runs[2].network))


def test_the_global_random_state_stays_as_it_was():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    train(smooth(dropout=0.3), crop_set(), epochs=1, train_recipe=recipe(**ATTACKED))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("level", ["weak", "heavy"])
def test_loader_threads_change_nothing(level):
    augment = build_augmentation(AugmentConfig(level=level, noise_probability=0.5))
    runs = [train(smooth(), crop_set(), epochs=2, augment=augment, place=Place(loader_threads=threads))[0] for threads in (0, 1, 4)]
    assert all(same(weights(runs[0].network), weights(run.network)) for run in runs[1:])


def test_several_threads_make_batches_at_the_same_time():
    arrived = threading.Barrier(3, timeout=60)  # breaks if fewer than three draw at once

    def meet(image, seed):
        if not arrived.broken and not met:
            arrived.wait()
            met.append(seed)
        return image

    met: list = []
    train(smooth(), crop_set(), epochs=1, augment=meet, place=Place(loader_threads=3))
    assert len(met) >= 3 and not arrived.broken


def blended_crops():
    crops = crop_set()
    crops.landmarks = np.tile(TEMPLATE * SIZE / 112, (len(crops), 1, 1)).astype(np.float32)
    return SelfBlendedCrops.of(crops, "mixed")


def test_a_single_step_attack_is_probed_on_blends_too_and_once_an_epoch(monkeypatch):
    probes = []
    measure = CollapseGuard.robust_auc
    monkeypatch.setattr(CollapseGuard, "robust_auc", lambda guard: probes.append(measure(guard)) or probes[-1])
    fast = recipe(recipe="fast", epochs=3, attack={"epsilon": 1})
    train(smooth(), blended_crops(), train_settings=settings(self_blend={"share": 0.5}), train_recipe=fast)
    assert len(probes) == 4 and all(0 <= value <= 1 for value in probes)  # before the first epoch and after each


@pytest.mark.parametrize("make, share", [(crop_set, 0), (blended_crops, 0.5)])
def test_workers_together_see_what_one_worker_sees(monkeypatch, make, share):
    seen, train_settings = {}, settings(self_blend={"share": share})

    def record(training, x, y, *_, now, **__):
        seen.setdefault(key, []).append((x.clone(), y.clone()))
        return {"total": torch.zeros(())}, x

    monkeypatch.setattr("robust.training.loop.take_step", record)
    augment = build_augmentation(AugmentConfig(level="strong"))
    for key, place in (("one", Place()), ("a", Place(rank=0, world=2)), ("b", Place(rank=1, world=2))):
        train(smooth(), make(), epochs=1, augment=augment, place=place, train_settings=train_settings)
    assert len(seen["one"]) == len(make()) // 8
    for step, ((x, y), *parts) in enumerate(zip(seen["one"], seen["a"], seen["b"], strict=True)):
        for rank, (x_part, y_part) in enumerate(parts):
            places = places_of(y.numpy(), step, rank=rank, world=2)
            assert torch.equal(x[places], x_part) and torch.equal(y[places], y_part) and len(places) == 4
            assert y_part.sum() == 2  # of each label half


def test_a_recipe_that_carries_its_perturbation_has_the_same_places_of_every_batch(monkeypatch):
    seen = []

    def record(training, x, y, *_, **__):
        seen.append(y.clone())
        return {"total": torch.zeros(())}, x

    monkeypatch.setattr("robust.training.loop.take_step", record)
    free = recipe(recipe="free", **ATTACKED)
    for place in (Place(), Place(rank=1, world=2)):
        train(smooth(), crop_set(), epochs=1, place=place, train_settings=settings(), train_recipe=free)
    whole, part = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(whole) > 1 and all(torch.equal(y[1::2], own) for y, own in zip(whole, part, strict=True))


def test_epsilon_rises_and_the_rate_falls():
    train_recipe = recipe(epochs=4, epsilon_warmup=0.5, **ATTACKED)
    _, figures = train(smooth(), crop_set(), train_recipe=train_recipe, train_settings=settings(warmup_steps=2))
    assert [round(figure.epsilon, 3) for figure in figures] == [2 * 3 / 8, 2 * 7 / 8, 2, 2]
    assert figures[0].learning_rate > figures[1].learning_rate > figures[3].learning_rate > 0
    clean, adversarial = figures[-1].examples
    assert 0 < (clean - adversarial).abs().max() <= 2 * PIXEL * (1 + 1e-5)


def test_a_recipe_may_have_its_own_rate():
    _, figures = train(smooth(), crop_set(), epochs=1, train_recipe=recipe(learning_rate=0.5, epochs=1))
    assert figures[0].learning_rate == pytest.approx(cosine_rate(3, total=4, highest=0.5, lowest=1e-6))


def test_training_learns():
    _, figures = train(smooth(), crop_set(), train_recipe=recipe(epochs=12))
    assert figures[-1].losses["total"] < 0.6 * figures[0].losses["total"]


def test_a_loss_that_is_no_number_is_told_with_epoch_step_and_crops():
    crops = crop_set()
    network = smooth()
    train_settings = settings()
    batches = epoch_batches(crops.labels, crops.methods, batch_size=8, seed=24, epoch=0, balance=True)
    calls = []

    def poison(module, inputs, output):
        calls.append(1)
        return output * float("nan") if len(calls) == 3 else output

    network.register_forward_hook(poison)
    with pytest.raises(NonFiniteLoss, match=r"epoch 0, step 2 \(crops of v") as told:
        train(network, crops, epochs=1, train_settings=train_settings)
    named = str(told.value).split("crops of ")[1].split(")")[0].split(", ")
    assert set(named) <= set(crops.video_ids[batches[2]]) and "lower the learning rate or epsilon" in str(told.value)
    assert told.value.batch == {"epoch": 0, "step": 2, "crops": crops.ids(batches[2])}


def test_bfloat16_trains():
    training, figures = train(smooth(), crop_set(), epochs=1, train_recipe=recipe(**ATTACKED, lipschitz={"weight": 0.01}), train_settings=settings(precision="bfloat16"))
    assert np.isfinite(figures[0].losses["total"]) and all(parameter.dtype == torch.float32 for parameter in training.network.parameters())
