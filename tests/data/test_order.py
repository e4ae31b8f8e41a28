"""robust/data/order.py: an epoch's draws are the same for a seed, balanced, and belong to places, not to workers."""

from collections import Counter

import numpy as np
import pytest

from robust.data.order import draw_seeds, epoch_batches, places_of

LABELS = np.array([0] * 10 + [1] * 50)
METHODS = np.array(["real"] * 10 + ["coarse"] * 30 + ["blended"] * 15 + ["fine"] * 5, dtype=object)


def batches(*, seed=3, epoch=0, balance=True, batch_size=8):
    return epoch_batches(LABELS, METHODS, batch_size=batch_size, seed=seed, epoch=epoch, balance=balance)


def test_an_epoch_is_the_same_for_a_seed_and_another_for_the_next():
    assert np.array_equal(batches(), batches())
    assert not np.array_equal(batches(), batches(epoch=1)) and not np.array_equal(batches(), batches(seed=4))


def test_every_batch_is_half_real_and_fakes_come_evenly_from_their_methods():
    drawn = batches()
    assert drawn.shape == (60 // 8, 8)
    assert (LABELS[drawn].sum(axis=1) == 4).all()
    counts = Counter(METHODS[drawn[LABELS[drawn] == 1]])
    assert counts.keys() == {"coarse", "blended", "fine"} and max(counts.values()) - min(counts.values()) <= 1


def test_a_crop_comes_again_only_after_all_others_of_its_cell():
    for name in ("real", "coarse", "blended", "fine"):
        drawn = Counter(batches(batch_size=4)[METHODS[batches(batch_size=4)] == name].tolist())
        everything = {int(i): drawn.get(int(i), 0) for i in np.flatnonzero(METHODS == name)}
        assert max(everything.values()) - min(everything.values()) <= 1


def test_reals_and_fakes_do_not_have_fixed_places_in_a_batch():
    share = LABELS[np.concatenate([batches(epoch=epoch) for epoch in range(40)])].mean(axis=0)
    assert share.min() > 0.3 and share.max() < 0.7


def test_without_balance_an_epoch_is_one_pass():
    drawn = batches(balance=False)
    assert len(np.unique(drawn)) == drawn.size == 56


def test_fewer_crops_than_a_batch_still_make_one():
    drawn = epoch_batches(LABELS[8:12], METHODS[8:12], batch_size=16, seed=0, epoch=0, balance=True)
    assert drawn.shape == (1, 16) and LABELS[8:12][drawn].sum() == 8


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_workers_share_a_batch_and_each_label_of_it_evenly(world, share):
    labels = (np.random.default_rng(world).permutation(32) < 32 * share).astype(int)
    for step in range(2 * world):
        parts = [places_of(labels, step, rank=rank, world=world) for rank in range(world)]
        assert sorted(np.concatenate(parts)) == list(range(32))
        assert all((np.diff(part) > 0).all() for part in parts)  # one worker's batch is in its own order
        for counts in ([len(part) for part in parts], [labels[part].sum() for part in parts]):
            assert max(counts) - min(counts) <= 1


def test_no_worker_has_the_odd_crop_in_every_step():
    labels = np.array([0, 1, 0, 1, 0, 1])
    fakes = [[int(labels[places_of(labels, step, rank=rank, world=2)].sum()) for step in range(4)] for rank in (0, 1)]
    assert fakes == [[1, 2, 1, 2], [2, 1, 2, 1]]


def test_seeds_belong_to_places_whichever_worker_computes_them():
    whole = draw_seeds(2, 5, np.arange(8), seed=24, batch_size=8)
    for rank in (0, 1):
        assert np.array_equal(draw_seeds(2, 5, np.arange(rank, 8, 2), seed=24, batch_size=8), whole[rank::2])


def test_no_two_draws_share_a_seed():
    seeds = [draw_seeds(epoch, step, np.arange(8), seed=seed, batch_size=8) for seed in (0, 24) for epoch in range(5) for step in range(20)]
    low = np.concatenate(seeds) % 2**32  # what an augmentation takes
    assert len(np.unique(np.concatenate(seeds))) == len(low) == len(np.unique(low))


BLENDED_LABELS = np.concatenate([LABELS, np.ones(10, int)])
BLENDED_METHODS = np.concatenate([METHODS, np.array(["self_blend"] * 10, object)])


def blended(share, *, labels=BLENDED_LABELS, methods=BLENDED_METHODS, batch_size=8):
    return epoch_batches(labels, methods, batch_size=batch_size, seed=3, epoch=0, balance=True, self_blend=share)


@pytest.mark.parametrize("share, expected", [(0.0, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_every_batch_has_the_share_of_self_blends_each_beside_its_own_crop(share, expected):
    drawn = blended(share)
    assert drawn.shape == (70 // 8, 8) and (BLENDED_LABELS[drawn].sum(axis=1) == 4).all()
    assert ((drawn >= 60).sum(axis=1) == expected).all()
    for batch in drawn:
        assert set(batch[batch >= 60] - 60) <= set(batch[batch < 10])  # the k-th blend is of the k-th real crop, which is number k
    others = Counter(BLENDED_METHODS[drawn[(drawn >= 10) & (drawn < 60)]])
    assert max(others.values(), default=0) - min(others.values(), default=0) <= 1


def test_a_share_that_does_not_divide_a_batch_holds_over_the_epoch():
    assert (blended(0.3) >= 60).sum() == int(0.3 * 8 * 4)


def test_without_a_share_the_order_is_what_it_was_without_blends():
    assert np.array_equal(blended(0.0, labels=LABELS, methods=METHODS), batches())


def test_a_batch_of_an_odd_number_pairs_too():
    drawn = blended(1.0, batch_size=9)
    assert all(len(batch[batch >= 60]) == 4 and set(batch[batch >= 60] - 60) <= set(batch[batch < 10]) for batch in drawn)


def test_blends_alone_are_enough():
    kept = np.r_[0:10, 60:70]
    drawn = blended(1.0, labels=BLENDED_LABELS[kept], methods=BLENDED_METHODS[kept], batch_size=4)
    assert drawn.shape == (5, 4) and sorted(drawn.reshape(-1)) == list(range(20))
