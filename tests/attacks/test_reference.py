"""Our attacks against the field's: at equal budget at least as strong as torchattacks' and foolbox's.

ROBUST_REFERENCE_CHECKPOINT (a checkpoint folder) and ROBUST_REFERENCE_FACES (an .npz with x and y) add a real model.
"""

import os

import pytest
import torch

from benchmarks.attack_reference import EPSILONS, LIBRARIES, STRONG, TRANSFER, compare, load_checkpoint_and_faces
from benchmarks.small_detector import make_images, train_small_detector

pytestmark = pytest.mark.reference


def assert_at_least_as_strong(rows, count):
    by_epsilon = {epsilon: {row.library: row for row in rows if row.epsilon == epsilon} for epsilon in EPSILONS}
    for epsilon, libraries in by_epsilon.items():
        assert set(libraries) == set(LIBRARIES)
        for row in libraries.values():
            assert row.largest_change <= epsilon + 1e-3, row  # else the comparison is not at equal budget
        theirs = min(libraries[name].robust_accuracy for name in ("torchattacks", "foolbox"))
        assert libraries["ours"].robust_accuracy <= theirs + 1 / count + 1e-6, libraries
    return by_epsilon


def test_on_a_small_net(trained_detector):
    x, y = make_images(128, generator=torch.Generator().manual_seed(99))
    by_epsilon = assert_at_least_as_strong(compare(trained_detector, x, y, steps=20), len(x))
    accuracies = [by_epsilon[epsilon]["torchattacks"].robust_accuracy for epsilon in EPSILONS]
    assert accuracies[0] > 0.8 and accuracies[-1] < 0.5  # the comparison is where attacks can differ


def test_strong_attacks_on_a_small_net(trained_detector):
    x, y = make_images(128, generator=torch.Generator().manual_seed(99))
    rows = compare(trained_detector, x, y, steps=20, attacks=STRONG)
    gradients = {row.library: row.gradients for row in rows}
    # FMN and FAB leave images alone that are wrong already; FAB differentiates both logits.
    assert gradients["ours APGD"] == 20 <= gradients["torchattacks APGD"]
    assert gradients["torchattacks FAB"] == pytest.approx(2 * gradients["ours FMN"]) and 15 < gradients["ours FMN"] <= 20
    for epsilon in EPSILONS:
        robust = {row.library: row.robust_accuracy for row in rows if row.epsilon == epsilon}
        assert all(row.largest_change <= epsilon + 1e-3 for row in rows if row.epsilon == epsilon)
        lowest = min(accuracy for name, accuracy in robust.items() if name.startswith("torchattacks"))
        assert robust["ours APGD"] <= lowest + 1 / len(x) + 1e-6, (epsilon, robust)
        assert robust["ours FMN"] <= robust["torchattacks FAB"] + 1 / len(x) + 1e-6, (epsilon, robust)
        assert robust["ours Square"] <= robust["torchattacks Square"] + 2 / len(x) + 1e-6, (epsilon, robust)


def test_nested_balls_save_passes_and_lose_no_success(trained_detector):
    x, y = make_images(64, generator=torch.Generator().manual_seed(99))
    attacks, seen = ("ours APGD", "torchattacks FAB", "ART PGD"), []
    apart = compare(trained_detector, x, y, steps=5, attacks=attacks)
    nested = compare(trained_detector, x, y, steps=5, attacks=attacks, nested=True, on_row=seen.append)
    assert sorted(map(id, seen)) == sorted(map(id, nested)) and len(nested) == len(apart) == 3 * len(EPSILONS)
    with torch.no_grad():
        right = ((trained_detector(x) > 0).long() == y).nonzero().flatten().tolist()
    for one, other in zip(nested, apart, strict=True):
        assert (one.library, one.epsilon) == (other.library, other.epsilon) and one.largest_change <= one.epsilon + 1e-3
        assert one.robust_accuracy <= other.robust_accuracy + 1 / len(x) + 1e-6  # a chain of restarts, on other batches
        assert one.robust_accuracy == pytest.approx(len(one.still_right) / len(x)) and set(one.still_right) <= set(right)
    for name in attacks:
        left = [set(row.still_right) for row in nested if row.library == name]
        assert all(later <= earlier for earlier, later in zip(left, left[1:], strict=False))


def test_transfer_on_a_small_net(trained_detector):
    x, y = make_images(128, generator=torch.Generator().manual_seed(99))
    rows = compare(trained_detector, x, y, steps=10, attacks=TRANSFER, target=train_small_detector(seed=1))
    for epsilon in EPSILONS:
        found = {row.library: row for row in rows if row.epsilon == epsilon}
        assert all(row.largest_change <= epsilon + 1e-3 for row in found.values())
        ours, theirs = found["ours MI-FGSM"], found["torchattacks MI-FGSM"]
        assert ours.robust_accuracy <= theirs.robust_accuracy + 1 / len(x) + 1e-6, found
        assert ours.mean_margin == pytest.approx(theirs.mean_margin, abs=0.01)
        ours, theirs = found["ours M-DI-FGSM"], found["torchattacks M-DI-FGSM"]  # draws differ: theirs has one for a batch
        assert ours.robust_accuracy <= theirs.robust_accuracy + 0.06 and ours.mean_margin > theirs.mean_margin - 0.05, found
    assert found["ours MI-FGSM"].robust_accuracy < 0.5  # at the largest epsilon: the images do turn another model


@pytest.mark.skipif("ROBUST_REFERENCE_CHECKPOINT" not in os.environ, reason="no ROBUST_REFERENCE_CHECKPOINT given")
def test_on_a_saved_model():
    model, x, y = load_checkpoint_and_faces(
        os.environ["ROBUST_REFERENCE_CHECKPOINT"], os.environ["ROBUST_REFERENCE_FACES"]
    )
    assert_at_least_as_strong(compare(model, x, y, steps=10, threads=os.cpu_count()), len(x))
