"""benchmarks/faces.py: what counts as found, who walks in where, and what a planted detector scores."""

import numpy as np

from benchmarks.face_truth import CLIPS, PHOTOGRAPHS
from benchmarks.faces import PRESENT, Clip, _cut, matched, subject_check, with_walker
from robust.data.faces import Face
from robust.data.tracking import link_tracks


def face(x0, y0, x1, y1):
    return Face(np.array([x0, y0, x1, y1], np.float32), 0.9, np.zeros((5, 2), np.float32))


def test_every_point_needs_a_box_of_its_own():
    assert matched([face(0, 0, 10, 10)], [(5, 5), (6, 6)]) == (1, 0)
    assert matched([face(0, 0, 10, 10), face(1, 1, 9, 9)], [(5, 5)]) == (1, 1)
    assert matched([face(0, 0, 10, 10), face(20, 0, 30, 10)], [(25, 5), (5, 5), (50, 50)]) == (2, 0)
    assert matched([], [(5, 5)]) == (0, 0) and matched([face(0, 0, 1, 1)], []) == (0, 1)


def test_the_walker_comes_in_beside_the_subject_and_never_covers_them():
    frames = np.zeros((25, 100, 200, 3), np.uint8)
    clip = Clip("c", frames, [(150, 50)] * 25)
    patch = np.full((50, 40, 3), 255, np.uint8)
    walked = with_walker(clip, {i: face(130, 30, 170, 70) for i in range(25)}, patch, 1.0)
    lit = [int((frame > 0).any((0, 2)).sum()) for frame in walked]
    assert [count > 0 for count in lit] == [i in PRESENT for i in range(25)]
    assert lit[8] < lit[9] < lit[10] == lit[17] and not walked[:, :, 130:].any() and walked[12, 50, :40].all()
    assert not frames.any()


def test_a_detector_that_follows_the_walker_fails_the_check():
    class Looks:
        """Finds the subject, and what is white."""

        def __init__(self, size):
            self.size = size

        def at(self, frames):
            return [[face(130, 30, 170, 70)]] * len(frames)

        def detector(self):
            return self

        def detect(self, frames):
            return [[face(130, 30, 170, 70), *([face(0, 0, self.size, self.size)] if frame.any() else [])] for frame in frames]

    clip = Clip("c", np.zeros((25, 100, 200, 3), np.uint8), [(150, 50)] * 25)
    assert all(row["right"] for row in subject_check(Looks(50), [clip]))
    rows = subject_check(Looks(125), [clip])  # so large that ten frames weigh more than twenty-five
    assert [row["right"] for row in rows] == [True, False, False] and [row["seen"] for row in rows] == [0, 10, 10]


def test_a_cut_puts_the_next_person_where_the_last_one_was():
    before, after = [[face(10, 10, 30, 30)]] * 25, [[face(100, 50, 180, 130)]] * 25
    cut = _cut(before, after)
    assert len(cut) == 25 and np.allclose(cut[15][0].box, [10, 10, 30, 30])
    assert len(link_tracks(cut)) == 1


def test_the_counted_faces_are_those_of_the_table():
    assert sum(len(points) for files in PHOTOGRAPHS.values() for points in files.values()) == 110
    assert sum(len(files) for files in PHOTOGRAPHS.values()) == 92
    assert sum(last - first + 1 for parts in CLIPS.values() for first, last, _, _ in parts) == 172 and len(CLIPS) == 9
