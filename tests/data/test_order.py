"""robust/data/order.py: an epoch's draws are the same for a seed, balanced, and belong to places, not to workers."""

from collections import Counter

import numpy as np

from robust.data.order import draw_seeds, epoch_batches

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
    # Worker r takes batch[r::n]: with fixed places one worker would see reals only.
    share = LABELS[np.concatenate([batches(epoch=epoch) for epoch in range(40)])].mean(axis=0)
    assert share.min() > 0.3 and share.max() < 0.7


def test_without_balance_an_epoch_is_one_pass():
    drawn = batches(balance=False)
    assert len(np.unique(drawn)) == drawn.size == 56


def test_fewer_crops_than_a_batch_still_make_one():
    drawn = epoch_batches(LABELS[8:12], METHODS[8:12], batch_size=16, seed=0, epoch=0, balance=True)
    assert drawn.shape == (1, 16) and LABELS[8:12][drawn].sum() == 8


def test_seeds_belong_to_places_whichever_worker_computes_them():
    whole = draw_seeds(2, 5, np.arange(8), seed=24, batch_size=8)
    for rank in (0, 1):
        assert np.array_equal(draw_seeds(2, 5, np.arange(rank, 8, 2), seed=24, batch_size=8), whole[rank::2])


def test_no_two_draws_share_a_seed():
    seeds = [draw_seeds(epoch, step, np.arange(8), seed=seed, batch_size=8) for seed in (0, 24) for epoch in range(5) for step in range(20)]
    low = np.concatenate(seeds) % 2**32  # what an augmentation takes
    assert len(np.unique(np.concatenate(seeds))) == len(low) == len(np.unique(low))
