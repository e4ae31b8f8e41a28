"""The bound on what torchattacks' Square leaves: who is attacked, what counts, and that a stopped run goes on."""

import pytest
import torch

from benchmarks import square_bound
from benchmarks.attack_reference import EPSILONS, Row
from benchmarks.attack_strength import cells
from benchmarks.small_detector import SmallDetector, make_images
from benchmarks.square_bound import SQUARE, Bound, square_bounds


def row(epsilon, library, still_right, images=8):
    return Row(epsilon, library, len(still_right) / images, 0.0, 0.0, 0.0, 0.0, 0.0, still_right)


def test_the_bar_is_held_against_the_least_that_square_can_leave():
    rows = [row(epsilon, library, [0, 1, 2, 3]) for epsilon in EPSILONS for library in ("ours APGD", "foolbox", "torchattacks APGD")]
    assert all(cell["met"] and cell["square"] is None for cell in cells(rows, [], 8))
    bounds = [Bound(epsilon, [0, 1, 2, 3], turned, 0.0) for epsilon, turned in zip(EPSILONS, ([], [2], [1, 2], [0, 1, 2, 3]), strict=True)]
    found = cells(rows, bounds, 8)
    assert [cell["square"]["at_least"] for cell in found] == [4 / 8, 3 / 8, 2 / 8, 0]
    assert [cell["met"] for cell in found] == [True, True, False, False]  # one image is allowed


LEFT = {2.0: [0, 1, 2, 3, 4], 6.0: [1, 3, 5], 16.0: []}  # ours turned image 5 at 2, and another of ours left it at 6
TURNED = {2.0: [1, 4, 5], 6.0: [3]}  # by a made-up Square


@pytest.fixture
def asked(monkeypatch):
    """(epsilon, images) of each call of a made-up Square; an image's values are its place."""
    calls = []

    def made_up(model, x, y, *, queries, epsilons, attacks, on_row):
        assert (queries, attacks) == (30, (SQUARE,))
        epsilon, = epsilons
        places = x[:, 0, 0, 0].int().tolist()
        calls.append((epsilon, places))
        return [row(epsilon, SQUARE, [at for at, place in enumerate(places) if place not in TURNED[epsilon]], len(places))]

    monkeypatch.setattr(square_bound, "compare", made_up)
    return calls


def made_up_bounds(storage, left=LEFT, sha256="a" * 64):
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 2, 2)
    return square_bounds(storage, "square.json", None, sha256, x, torch.ones(6), left, queries=30)


def test_it_is_asked_only_about_what_ours_left_and_what_it_turned_stays_turned(asked, local_storage):
    bounds = made_up_bounds(local_storage)
    assert asked == [(2.0, [0, 1, 2, 3, 4, 5]), (6.0, [3])]  # 5 at 2 too, where a Square on all images might turn it
    assert [(bound.left, bound.turned, bound.at_least) for bound in bounds] == [
        ([0, 1, 2, 3, 4], [1, 4], 3), ([1, 3, 5], [1, 3, 5], 0), ([], [], 0)]


def test_bounds_are_kept_after_each_epsilon_and_gone_on_from(asked, local_storage):
    def calls_of(**changes):
        asked.clear()
        return made_up_bounds(local_storage, **changes), [epsilon for epsilon, _ in asked]

    first, _ = calls_of()
    assert calls_of() == (first, [])
    document = local_storage.read_json("square.json")
    local_storage.write_json("square.json", {**document, "turned": [1, 4, 5], "bounds": document["bounds"][:1]})  # stopped after the first
    assert calls_of() == (first, [6.0])
    assert calls_of(sha256="b" * 64) == (first, [2.0, 6.0])
    assert calls_of(left={2.0: [0], 6.0: [], 16.0: []})[1] == [2.0]


@pytest.mark.reference
def test_it_is_torchattacks_square(local_storage):
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model, (x, _) = SmallDetector().eval(), make_images(24, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        model.head.bias.sub_(model(x).median())
        y = (model(x) > 0).long()
    seen: list[Row] = []
    bound, = square_bounds(local_storage, "square.json", model, "a" * 64, x, y, {6.0: range(20)}, queries=30, on_row=seen.append)
    assert 0 < len(bound.turned) < 20 and bound.cpu_seconds > 0
    measured, = seen
    assert len(measured.still_right) == bound.at_least and measured.gradients == 0 < measured.largest_change <= 6 + 1e-3
