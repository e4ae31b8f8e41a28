"""robust/data/crops.py: the same pixels from memory and from encoded crops, and a fair choice of some of them."""

import numpy as np
import pyarrow as pa
import pytest

from robust.data import crops as module
from robust.data.crop import shrink
from robust.data.crops import CropSet
from robust.data.images import encode_image


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    shapes = [(40, 40), (50, 30), (16, 16), (20, 24)]
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    return pa.table({"image": [encode_image(image) for image in images], "label": pa.array([0, 1, 1, 0], pa.int8()),
                     "video_id": ["a", "b", "b", "c"], "method": ["real", "fine", "fine", "real"]})


def test_decoded_and_encoded_sets_give_the_same_pixels(table, monkeypatch):
    kept = CropSet.from_table(table, 16)
    monkeypatch.setattr(module, "MEMORY_LIMIT", 100)
    encoded = CropSet.from_table(table, 16)
    assert kept.pixels is not None and encoded.pixels is None
    indices = np.array([3, 0, 1, 1])
    assert np.array_equal(kept.batch(indices), encoded.batch(indices)) and kept.batch(indices).shape == (4, 16, 16, 3)
    assert kept.labels.tolist() == [0, 1, 1, 0] and len(kept) == 4


def test_a_crop_is_named_by_its_video_and_frame(table):
    assert CropSet.from_table(table, 16).ids([1]) == [{"video_id": "b", "frame_index": None}]
    framed = CropSet.from_table(table.append_column("frame_index", pa.array([0, 3, 7, 1], pa.int32())), 16)
    assert framed.ids(np.array([2, 0])) == [{"video_id": "b", "frame_index": 7}, {"video_id": "a", "frame_index": 0}]


def test_each_crop_is_augmented_with_its_own_seed(table):
    crops, seen = CropSet.from_table(table, 16), []
    crops.batch(np.array([2, 0]), np.array([7, 9], np.uint64), lambda image, seed: seen.append(seed) or image)
    assert seen == [7, 9]


def made_of(*videos):
    """A set without pixels: (name, label, crops) of each video."""
    labels = np.concatenate([[label] * count for _, label, count in videos])
    return CropSet(labels, np.concatenate([[name] * count for name, _, count in videos]).astype(object), np.array([""] * len(labels)), 16)


def test_a_choice_takes_one_crop_of_each_video_before_a_second():
    crops = made_of(("a", 0, 5), ("b", 0, 2), ("c", 1, 5), ("d", 1, 1))
    names = crops.video_ids[crops.evenly_over_videos(8)].tolist()
    assert names == ["a", "a", "b", "b", "c", "c", "c", "d"]
    assert crops.evenly_over_videos(100).tolist() == list(range(13))


def test_a_choice_of_few_of_many_videos_has_both_labels_and_the_whole_range():
    # Ids are sorted by data set and method: the first ones would all be real, of one data set.
    crops = made_of(*[(f"r{i:03}", 0, 2) for i in range(100)], *[(f"s{i:03}", 1, 2) for i in range(900)])
    chosen = crops.evenly_over_videos(40)
    assert len(chosen) == len(set(crops.video_ids[chosen])) == 40 and crops.labels[chosen].sum() == 20
    assert crops.video_ids[chosen].tolist()[:2] == ["r000", "r005"] and crops.video_ids[chosen][-1] == "s855"


def test_a_rare_label_leaves_its_places_to_the_other():
    crops = made_of(("a", 0, 2), *[(f"f{i}", 1, 3) for i in range(9)])
    assert crops.labels[crops.evenly_over_videos(12)].tolist() == [0] * 2 + [1] * 10


def test_landmarks_follow_the_crop_to_the_models_input():
    # Dots in a frame, cut out, shrunk to half and made square: where the dots are seen in the end is where the landmarks must be.
    frame = np.zeros((200, 160, 3), np.uint8)
    points = np.array([[60, 50], [100, 54], [80, 90], [64, 120], [98, 122]], float)
    for x, y in points.astype(int):
        frame[y - 3:y + 4, x - 3:x + 4] = 255
    window = (40, 30, 120, 150)
    crop = shrink(frame[30:150, 40:120], longer_side=60)
    rows = {"image": [encode_image(crop)] * 2, "label": pa.array([0, 0], pa.int8()), "video_id": ["a", "b"], "method": ["real"] * 2,
            "landmarks": [points.reshape(-1).tolist(), None], "window": [window] * 2, "height": [60] * 2, "width": [40] * 2}
    made = CropSet.from_table(pa.table(rows), 48)
    seen = made.pixels[0, :, :, 0].astype(float)
    for x, y in made.landmarks[0]:
        left, top = round(float(x)) - 4, round(float(y)) - 4
        part = seen[top:top + 9, left:left + 9]
        ys, xs = np.mgrid[top:top + part.shape[0], left:left + part.shape[1]]
        assert abs((part * xs).sum() / part.sum() - x) < 0.15 and abs((part * ys).sum() / part.sum() - y) < 0.15
    assert np.isnan(made.landmarks[1]).all()
    assert CropSet.from_table(pa.table({name: rows[name] for name in ("image", "label", "video_id", "method")}), 48).landmarks is None
