"""The table of predictions: what it refuses, and how frames become videos."""

import numpy as np
import pyarrow as pa
import pytest
from made_up import made_up_predictions

from robust.errors import UserError
from robust.evaluation import minimal_distances
from robust.evaluation.attack_block import Cell
from robust.evaluation.gallery import choose_examples, make_strips
from robust.evaluation.predictions import (
    FULL_SCHEMA,
    PREDICTION_SCHEMA,
    cells_of,
    check_predictions,
    frame_scores,
    models_of,
)


@pytest.fixture(scope="module")
def table():
    return made_up_predictions(identities=6, frames=2)


def replaced(table, column, row, value):
    values = table.column(column).to_pylist()
    values[row] = value
    index = table.schema.get_field_index(column)
    return table.set_column(index, column, pa.array(values, PREDICTION_SCHEMA.field(column).type))


def test_order_of_the_work_does_not_matter(table):
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    assert check_predictions(shuffled).equals(check_predictions(table))


def test_models_and_cells(table):
    assert models_of(table) == ["baseline", "defended"]
    assert cells_of(table)[:2] == [("fgsm", 0.5), ("fgsm", 1.0)] and len(cells_of(table)) == 10


def test_a_video_is_the_mean_of_its_attacked_frames(table):
    frames = frame_scores(table, "baseline", "pgd", 1.0)
    videos = frames.videos()
    assert len(frames) == 2 * len(videos) == 2 * 15
    for video_id, clean, adversarial, label in zip(videos.video_ids, videos.clean, videos.adversarial, videos.labels):
        own = frames.video_ids == video_id
        assert clean == pytest.approx(frames.clean[own].mean())
        assert adversarial == pytest.approx(frames.adversarial[own].mean())
        assert set(frames.labels[own]) == {label}


def test_a_logit_that_is_not_finite_names_its_crop(table):
    bad = replaced(table, "adversarial", 7, float("nan"))
    row = table.slice(7, 1).to_pylist()[0]
    with pytest.raises(UserError, match=f"{row['video_id']} frame {row['frame_index']}.*not finite"):
        check_predictions(bad)


def test_a_model_that_is_random_is_refused(table):
    bad = replaced(table, "clean", 3, table.column("clean")[3].as_py() + 0.1)
    with pytest.raises(UserError, match="random or changes"):
        check_predictions(bad)


def test_a_lost_block_is_noticed(table):
    with pytest.raises(UserError, match="incomplete"):
        check_predictions(table.slice(1))


def test_nothing_is_an_error(table):
    with pytest.raises(UserError, match="no predictions"):
        check_predictions(table.slice(0, 0))


@pytest.fixture
def with_people(table):
    """To every video somebody else in its second frame and one of their own, whose logits are 3 higher."""
    rows = [{**row, "track": 0, "distance": 1.0, "attacked": True} for row in table.to_pylist()]
    others = [{**row, "track": 1, "frame_index": 5 * row["frame_index"] + 1, "clean": row["clean"] + 3,
               "adversarial": row["adversarial"] + 3, "distance": 0.1} for row in rows]
    return pa.Table.from_pylist(rows + others, schema=FULL_SCHEMA)


def test_of_several_people_the_one_who_looks_most_fake_is_the_video_and_frames_are_the_subjects(table, with_people):
    checked = check_predictions(with_people)
    assert len(checked) == 2 * len(table)
    alone, together = (frame_scores(check_predictions(part), "baseline", "pgd", 1.0) for part in (table, with_people))
    for name, values in vars(alone).items():
        np.testing.assert_array_equal(getattr(together.subjects(), name), values)
    np.testing.assert_allclose(together.videos().clean, alone.videos().clean + 3, atol=1e-5)
    np.testing.assert_allclose(together.videos().adversarial, alone.videos().adversarial + 3, atol=1e-5)
    assert together.videos().video_ids.tolist() == alone.videos().video_ids.tolist()
    with pytest.raises(UserError, match="incomplete"):
        check_predictions(with_people.slice(0, len(with_people) - 1))


def test_measured_distances_and_the_gallery_are_the_subjects(table, with_people):
    checked = check_predictions(with_people)
    frames = frame_scores(checked, "baseline", "pgd", 1.0).subjects()
    assert minimal_distances.of_frames(checked, "baseline").tolist() == [1.0] * len(frames)
    cell = Cell("pgd", 1.0, 20)
    chosen = [choose_examples(check_predictions(part), "baseline", cell, 6) for part in (table, with_people)]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 6
    pictures = {"baseline": [(b"", b"", b"")] * 6}
    alone = make_strips(chosen[0], pictures, check_predictions(table), cell)
    assert alone == make_strips(chosen[1], pictures, checked, cell)
