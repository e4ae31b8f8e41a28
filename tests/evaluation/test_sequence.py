"""Sequential suites: what is skipped changes no rate, every key tells of what came before, passes are counted."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks.small_detector import SmallDetector, make_images
from robust.attacks.minimal_norm import fmn, minimal_perturbation
from robust.attacks.threat import Linf
from robust.data.inputs import to_tensor
from robust.evaluation import sequence
from robust.evaluation.attack_block import Cell, logits
from robust.evaluation.blocks import Block, result_name
from robust.evaluation.metrics import auc, fake_to_real, video_scores
from robust.evaluation.passes import Counted, passes_of
from robust.evaluation.predictions import check_predictions, frame_scores
from robust.evaluation.protocol import build_tables
from robust.evaluation.sequence import Curve, OnRobust, plan_items, settled
from robust.evaluation.summary import find
from robust.evaluation.worst_case import with_worst_case

THRESHOLDS = {"frame": 0.2, "frame_fpr_5": -0.2, "video": 0.15, "video_fpr_5": 0.05}
EPSILONS = (1.0, 2.0, 3.0)
CELLS = [
    Cell(name, epsilon, *budget)
    for name, budget in (("apgd", (4, 2)), ("fmn", (4,)), ("square", (12,)), ("apgd_ce", (5,)))
    for epsilon in EPSILONS
]
VIDEOS, FRAMES = 10, 3


@pytest.fixture(scope="module")
def model():
    """Not trained: its middle logit on `crops` is 0, and what it says is made to be mostly right there."""
    torch.manual_seed(3)
    model = SmallDetector(width=6).eval()
    with torch.no_grad():
        logit = model(make_images(VIDEOS * FRAMES, generator=torch.Generator().manual_seed(5))[0])
        model.head.weight.mul_(1 / logit.std())
        model.head.bias.copy_((model.head.bias - logit.median()) / logit.std())
    return model


@pytest.fixture(scope="module")
def crops(model):
    """10 videos of 3 frames, all frames of a video of one label, four frames on the wrong side."""
    x = make_images(VIDEOS * FRAMES, generator=torch.Generator().manual_seed(5))[0]
    order = np.argsort(logits(model, x))
    half = len(order) // 2
    order = np.concatenate([order[2:half], order[half : half + 2], order[:2], order[half + 2 :]])
    labels = np.arange(len(order)) // half
    names = [f"d/{'swap' if label else 'real'}/{index // FRAMES:02d}" for index, label in enumerate(labels)]
    table = pa.table(
        {
            "video_id": names,
            "frame_index": pa.array(np.arange(len(order)) % FRAMES, pa.int32()),
            "label": pa.array(labels, pa.int8()),
            "method": [name.split("/")[1] for name in names],
            "identities": [[name] for name in names],
        }
    )
    return table, (x[order].permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


def run(model, crops, items, *, seed=1):
    results = {}
    for item in items:
        before = [results[one] for one in item.after]
        results[item] = sequence.measure(model, *crops, item, before, batch_size=16, seed=seed)
    return results


@pytest.fixture(scope="module")
def results(model, crops):
    """On all crops, and sequential."""
    return [run(model, crops, plan_items(CELLS, thresholds)) for thresholds in (None, THRESHOLDS)]


@pytest.fixture(scope="module")
def predictions(results):
    tables = [
        check_predictions(
            pa.concat_tables(
                rows for item, result in part.items() for rows in sequence.as_predictions(result, "m", item)
            )
        )
        for part in results
    ]
    return [tables[0], sequence.accumulate(tables[1], ["apgd", "fmn", "square", "apgd_ce"])]


def test_settled_by_hand():
    videos = np.array(["a", "a", "b", "b", "c", "d", "e"])
    labels = np.array([1, 1, 1, 1, 0, 0, 1])
    values = np.array([-1.0, -2, -1, 3, 0.6, 0.4, -0.2])
    # a: all turned. b: its mean, 1, holds out, so both its frames stay. c: above all. d: not above 0.5. e: not at -0.5.
    assert settled(values, labels, videos, (-0.5, 0.0, 0.5), (0.0,)).tolist() == [
        True,
        True,
        False,
        False,
        True,
        False,
        False,
    ]
    assert settled(values, labels, videos, (0.0,), (-1.6,)).tolist() == [False, False, False, False, True, True, False]
    edge = settled(np.array([0.0, 0.0]), np.array([1, 0]), np.array(["x", "y"]), (0.0,), (0.0,))
    assert edge.tolist() == [True, False]  # a logit at the threshold is called real


def test_settled_with_several_people_by_hand():
    videos, tracks = np.array(["a"] * 4 + ["b"] * 3), np.array([0, 0, 1, 1, 0, 0, 1])
    labels = np.array([1, 1, 1, 1, 0, 0, 0])
    values = np.array([-1.0, -2, -1, 3, -4, 0.5, 0.7])
    # a: its second person, at a mean of 1, holds out for all of them. b: the second is called fake, so the video is.
    assert settled(values, labels, videos, (0.0,), (0.0,), tracks).tolist() == [False] * 4 + [False, True, True]
    values[3] = 0.5  # a mean of -0.25: nobody is called fake, but this frame is
    expected = [True, True, True, False, False, True, True]
    assert settled(values, labels, videos, (0.0,), (0.0,), tracks).tolist() == expected


def test_while_one_person_holds_out_all_crops_of_the_video_are_attacked(model, crops):
    first, second = Cell("pgd", 1.0, 2), OnRobust("square", 1.0, 2, after=(Cell("pgd", 1.0, 2),))
    people = pa.array([0, 0, 1, 1], pa.int32())
    table, pixels = crops[0].slice(len(crops[0]) - 4), crops[1][-4:]
    table = table.set_column(0, "video_id", pa.array(["d/swap/x"] * 4))
    labels, found = table.column("label").to_numpy(), []
    assert set(labels) == {1}
    clean = logits(model, to_tensor(pixels))
    before = table.append_column("clean", pa.array(clean))
    before = before.append_column("adversarial", pa.array([-3.0, -3, -1, 1.5], pa.float32()))
    for rows in (table.append_column("track", people), table):
        result = sequence.measure(model, rows, pixels, second, [before], batch_size=4, seed=0)
        found.append(result.column("attacked").to_pylist())
    # The worst so far: whoever is caught as they are stays so only where the attack before did less.
    worst = sequence.worse(clean, np.array([-3.0, -3, -1, 1.5]), labels)
    assert worst[2:].mean() > 0 > worst.mean()
    assert found == [[True] * 4, (worst > 0).tolist()] and first in second.after


def test_a_sequential_suite_turns_the_same_videos_of_several_people(model, crops):
    table, pixels = crops
    tracks = pa.array([number % FRAMES == 2 for number in range(len(table))]).cast(pa.int32())
    with_people = table.append_column("track", tracks), pixels
    whole, sequential = (
        check_predictions(
            pa.concat_tables(
                rows
                for item, result in run(model, with_people, plan_items(CELLS, thresholds)).items()
                for rows in sequence.as_predictions(result, "m", item)
            )
        )
        for thresholds in (None, THRESHOLDS)
    )
    sequential = sequence.accumulate(sequential, ["apgd", "fmn", "square", "apgd_ce"])
    skipped = 0
    for epsilon in sorted({cell.epsilon for cell in CELLS}):
        cells = [frame_scores(with_worst_case(part), "m", "worst", epsilon).videos() for part in (whole, sequential)]
        skipped += int(cells[1].skipped.sum())
        for threshold in (0.0, *(value for name, value in THRESHOLDS.items() if name.startswith("video"))):
            shares = [fake_to_real(one.clean, one.adversarial, one.labels, threshold=threshold) for one in cells]
            assert shares[0].hits.tolist() == shares[1].hits.tolist() and shares[0].among.any()
    assert skipped


def test_every_rate_of_the_worst_case_is_the_one_of_attacks_on_all_crops(predictions):
    off, on = (build_tables(table, {"m": THRESHOLDS}, resamples=10, seed=0)["attacks"] for table in predictions)
    skipped = ~predictions[1].column("attacked").to_numpy()
    assert 0.2 < skipped.mean() < 0.9
    bounds = []
    for level in ("frame", "video"):
        for epsilon in EPSILONS:
            where = {"attack": "worst", "epsilon": epsilon, "level": level, "group": "all"}
            one, other = find(on, **where), find(off, **where)
            for threshold, rates in other["at"].items():
                for name in ("fake_to_real", "real_to_fake", "robust_accuracy"):
                    assert one["at"][threshold][name] == rates[name], (level, epsilon, threshold, name)
            bounds.append(one["robust_auc"]["value"] - one["robust_auc"].get("at_least", 1))
            assert one["robust_auc"].get("at_least", 0) <= other["robust_auc"]["value"] <= one["robust_auc"]["value"]
            assert "at_least" not in other["robust_auc"]
    assert max(bounds) > 0  # the AUC is what skipping can change, which is why its lower bound is there


def test_the_lower_bound_of_the_auc_puts_skipped_samples_past_all_others(predictions):
    scores = frame_scores(with_worst_case(predictions[1]), "m", "worst", 2.0)
    by_hand = np.where(scores.skipped, np.where(scores.labels == 1, -1e6, 1e6), scores.adversarial)
    assert auc(scores.attacked_on(), scores.labels) == auc(by_hand, scores.labels)
    assert auc(by_hand, scores.labels) < auc(scores.adversarial, scores.labels)
    videos = scores.videos()
    assert set(videos.video_ids[videos.skipped]) == set(scores.video_ids[scores.skipped])


def test_rows_of_a_sequential_suite_are_after_all_attacks_so_far(predictions, results):
    rows = {name: frame_scores(predictions[1], "m", name, 2.0) for name in ("apgd", "fmn", "square", "apgd_ce")}
    last = rows["apgd"]
    for name in ("fmn", "square", "apgd_ce"):
        margins = [np.where(part.labels == 1, -1, 1) * part.adversarial for part in (last, rows[name])]
        assert (margins[1] >= margins[0]).all() and (rows[name].skipped >= last.skipped).all()
        last = rows[name]
    # A crop that an attack skips was settled by those before, and keeps its logit.
    item = next(item for item in results[1] if item.attack == "square" and item.epsilon == 2.0)
    kept = results[1][item]
    idle = ~kept.column("attacked").to_numpy()
    np.testing.assert_array_equal(
        kept.column("adversarial").to_numpy()[idle], rows["fmn"].adversarial.astype(np.float32)[idle]
    )
    means = dict(zip(*video_scores(rows["fmn"].adversarial, rows["fmn"].video_ids), strict=True))
    for crop, video, label in zip(rows["fmn"].adversarial, rows["fmn"].video_ids, rows["fmn"].labels, strict=True):
        done = (crop <= -0.2 and means[video] <= 0) if label else (crop > 0.2 and means[video] > 0.15)
        assert done == idle[list(rows["fmn"].adversarial).index(crop)]


def test_only_what_is_not_settled_costs_passes(results, crops):
    off, on = results
    for item, result in on.items():
        count = passes_of(result)
        if item.attack == "apgd":
            scored_before, attacked = len(crops[0]), int(result.column("attacked").to_numpy().sum())
            assert count.attacked == attacked and count.crops == len(crops[0])
            assert count.gradients == 2 * 4 * attacked
            assert count.forwards == scored_before + (1 + 2 * (4 + 1) + 2) * attacked
    total = [
        sum((passes_of(result) for result in part.values()), start=passes_of(next(iter(part.values()))))
        for part in results
    ]
    assert total[1].forwards < 0.8 * total[0].forwards and total[1].gradients < 0.8 * total[0].gradients


def test_a_minimal_norm_attack_runs_once_and_gives_every_epsilon(model, crops, results):
    for part in results:
        (item,) = [item for item in part if item.attack == "fmn"]
        assert isinstance(item, Curve) and item.epsilons == EPSILONS
        result = part[item]
        for epsilon in item.epsilons:
            x, y = to_tensor(crops[1]), torch.tensor(crops[0].column("label").to_numpy())
            alone = logits(
                model, fmn(model, x, y, Linf.from_255(epsilon), steps=4, generator=torch.Generator().manual_seed(1))
            )
            np.testing.assert_allclose(sequence.adversarial_of(item, result, epsilon), alone, atol=2e-4)
        # The search, then one look at the crops, one at the flipped ones, and at each epsilon at those that lie beyond it.
        counted, forwards = Counted(model), 0
        for start in range(0, len(x), 16):
            seeded = torch.Generator().manual_seed(1)
            _, length = minimal_perturbation(
                counted, x[start : start + 16], y[start : start + 16], Linf, steps=4, generator=seeded
            )
            beyond = [(length > epsilon / 255) & length.isfinite() for epsilon in item.epsilons]
            forwards += len(length) + int((length > 0).sum()) + int(torch.stack(beyond).sum())
        assert passes_of(result).forwards == counted.forwards + forwards < counted.forwards + 4 * len(x)
        # Turned at an epsilon exactly where the distance is not larger.
        distance, labels = result.column("distance").to_numpy(), crops[0].column("label").to_numpy()
        inside = sequence.adversarial_of(item, result, 2.0)
        assert ((labels == 1) == (inside > 0))[distance > 2.01].all() and not ((labels == 1) == (inside > 0))[
            distance < 1.99
        ].any()
        assert ((distance > 2) & (distance < 3)).any()


def test_a_result_is_named_after_all_attacks_before_it():
    block = Block("shard", ("a",), 3, "content")

    def names(cells, thresholds):
        return {
            (item.attack, item.epsilon): result_name(block, item, model="m", batch_size=8, seed=0)
            for item in plan_items(cells, thresholds)
        }

    first = names(CELLS, THRESHOLDS)
    longer = names(
        [dataclasses.replace(cell, steps=9) if cell.attack == "apgd" else cell for cell in CELLS], THRESHOLDS
    )
    changed = {key for key in first if first[key] != longer[key]}
    assert changed == {key for key in first if key[0] != "fmn"}  # fmn runs on all crops whatever comes before
    other_fmn = names(
        [dataclasses.replace(cell, steps=9) if cell.attack == "fmn" else cell for cell in CELLS], THRESHOLDS
    )
    assert {key[0] for key in first if first[key] != other_fmn[key]} == {"fmn", "square", "apgd_ce"}
    elsewhere = names(CELLS, THRESHOLDS | {"video": 0.31})
    assert {key[0] for key in first if first[key] != elsewhere[key]} == {"apgd", "square", "apgd_ce"}
    assert len(set(first.values())) == len(first) == 3 * 3 + 1
    plain = plan_items(CELLS, None)
    assert not any(isinstance(item, OnRobust) for item in plain) and len(plain) == 10
    order = plan_items(CELLS, THRESHOLDS)
    assert all(order.index(one) < order.index(item) for item in order for one in item.after)


def test_an_attack_that_is_not_in_the_suite_is_named():
    with pytest.raises(ValueError, match=r"predictions of \['cw'\], which are not among the attacks \['pgd'\]"):
        sequence.accumulate(pa.table({"attack": ["pgd", "cw"]}), ["pgd"])
