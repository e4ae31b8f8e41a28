"""The right person through the sampled frames."""

import numpy as np

from robust.data.faces import Face
from robust.data.tracking import choose_subject, link_tracks, overlap


def face(x, y, size, score=0.99, looks=None):
    box = np.array([x - size / 2, y - size / 2, x + size / 2, y + size / 2], np.float32)
    return Face(box, score, np.zeros((5, 2), np.float32), looks)


ANNA, BERT = np.eye(2)
"""Two embeddings that are nothing alike."""


def frames_of(track):
    return sorted(track.faces)


def test_overlap_of_known_boxes():
    a = np.array([0, 0, 10, 10], np.float32)
    assert overlap(a, a) == 1
    assert overlap(a, a + [5, 0, 5, 0]) == 50 / 150
    assert overlap(a, a + 20) == 0


def test_two_people_keep_their_tracks_whatever_the_order_of_detections():
    rng = np.random.default_rng(0)
    detections = []
    for i in range(10):
        pair = [face(100 + 3 * i, 80, 60), face(300 - 3 * i, 90, 50)]
        detections.append([pair[j] for j in rng.permutation(2)])
    left, right = link_tracks(detections)
    assert [float(left.faces[i].box[0]) for i in range(10)] == [70 + 3 * i for i in range(10)]
    assert frames_of(left) == frames_of(right) == list(range(10))
    assert [left.number, right.number] == [0, 1]


def test_a_larger_passer_by_does_not_become_the_subject():
    # In frames 4 and 5 the other face is larger and scores higher: frame by frame, the wrong person would be cropped.
    detections = [[face(100, 100, 60, 0.95)] for _ in range(10)]
    for i in (4, 5):
        detections[i] = [face(300, 100, 90, 0.999), detections[i][0]]
    subject = choose_subject(link_tracks(detections))
    assert frames_of(subject) == list(range(10))
    assert all(one.box[0] == 70 for one in subject.faces.values())


def test_a_small_face_in_the_background_all_the_time_is_not_the_subject():
    detections = [[face(20, 20, 15, 1.0)] + ([face(100, 100, 80, 0.99)] if i % 5 else []) for i in range(10)]
    assert choose_subject(link_tracks(detections)).faces[1].box[0] == 60


def test_a_face_missed_in_some_frames_is_one_track():
    detections = [[face(100, 100, 60)] if i not in (3, 4) else [] for i in range(10)]
    tracks = link_tracks(detections)
    assert len(tracks) == 1 and frames_of(tracks[0]) == [0, 1, 2, 5, 6, 7, 8, 9]


def test_a_track_does_not_jump_to_another_place_or_size():
    elsewhere = [[face(100, 100, 60)]] * 5 + [[face(400, 100, 60)]] * 4
    assert [frames_of(track) for track in link_tracks(elsewhere)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    zoomed = [[face(100, 100, 30)]] * 5 + [[face(100, 100, 90)]] * 5
    assert len(link_tracks(zoomed)) == 2


def test_after_a_long_absence_it_is_another_track():
    detections = [[face(100, 100, 60)]] * 2 + [[]] * 6 + [[face(100, 100, 60)]] * 2
    assert len(link_tracks(detections)) == 2


def test_a_cut_to_another_person_in_the_same_place_splits_the_track_where_looks_are_known():
    places = [face(100, 100, 60, looks=ANNA)] * 6 + [face(103, 99, 58, looks=BERT)] * 4
    assert [frames_of(track) for track in link_tracks([[one] for one in places])] == [list(range(6)), [6, 7, 8, 9]]
    blind = [[face(100, 100, 60)]] * 6 + [[face(103, 99, 58)]] * 4
    assert len(link_tracks(blind)) == 1


def test_people_who_swap_places_between_two_frames_are_told_apart_by_their_looks():
    detections = [[face(100, 100, 60, looks=ANNA), face(150, 100, 60, looks=BERT)] for _ in range(6)]
    detections[3:] = [[face(100, 100, 60, looks=BERT), face(150, 100, 60, looks=ANNA)] for _ in range(3)]
    anna, bert = sorted(link_tracks(detections), key=lambda track: track.faces[0].box[0])
    assert all(one.embedding is ANNA for one in anna.faces.values()) and all(one.embedding is BERT for one in bert.faces.values())
    assert frames_of(anna) == frames_of(bert) == list(range(6))


def test_a_head_that_turns_slowly_stays_one_person():
    angles = np.radians(np.linspace(0, 170, 10))  # each is like the last, the last nothing like the first
    turned = [[face(100, 100, 60, looks=np.array([np.cos(a), np.sin(a)]))] for a in angles]
    assert len(link_tracks(turned)) == 1
    back = turned[:5] + [[face(100, 100, 60, looks=-turned[4][0].embedding)]] + turned[4:]  # one frame of somebody else
    assert frames_of(link_tracks(back)[0]) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


def test_nobody_gives_no_subject():
    assert link_tracks([[], [], []]) == []
    assert choose_subject([]) is None
