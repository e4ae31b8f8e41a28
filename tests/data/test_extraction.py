"""One video to face crops and a status row, in this process."""

import os
import signal
from fractions import Fraction

import numpy as np
import pytest

from robust.config import ExtractConfig, FilterConfig, StorageConfig
from robust.data import extraction
from robust.data.crop import crop_face
from robust.data.decoder_process import DecodeLimits, shared_decoder
from robust.data.extraction import extract_video, read_source
from robust.data.faces import Face
from robust.data.images import decode_image
from robust.data.rows import VideoRow
from robust.data.shards import FACE_SCHEMA, STATUS_SCHEMA
from robust.data.video import read_frames
from robust.errors import UserError
from robust.object_stores.s3_arrow import S3FileSystem
from robust.storage import Storage
from tests import clips

CONFIG = ExtractConfig(frames_train=6, frames_test=4, max_crop=512)


class Corner:
    """Stands for a detector: a face at a place given for each frame, or none."""

    def __init__(self, boxes=lambda i: (10, 10, 40, 40)):
        self.boxes = boxes

    def detect(self, frames):
        boxes = [self.boxes(i) for i in range(len(frames))]
        points = np.zeros((5, 2), np.float32)
        return [[] if box is None else [Face(np.array(box, np.float32), 0.9, points)] for box in boxes]


def row(path, **changes):
    return VideoRow(**{"video_id": "d/m/v", "uri": str(path), "label": 1, "dataset": "d", "method": "m",
                       "identities": ("d:a", "d:b"), "split": "train", **changes})


def run(tmp_path, data=None, detector=None, config=CONFIG, **changes):
    path = tmp_path / "v.mp4"
    if data is not None:
        path.write_bytes(data)
    return extract_video(
        row(path, **changes), config, detector or Corner(), storage_config=StorageConfig(), fingerprint="f")


def test_crops_are_the_pixels_of_the_frames_and_rows_are_complete(tmp_path):
    data = clips.noisy(30)
    faces, status = run(tmp_path, data)
    frames = read_frames(data, count=6, name="v")
    assert [face["frame_index"] for face in faces] == frames.indices.tolist()
    for face, frame in zip(faces, frames.frames):
        crop = decode_image(face["image"])
        assert np.array_equal(crop, crop_face(frame, (10, 10, 40, 40), margin=0.3))
        assert crop.shape == (face["height"], face["width"], 3) == (39, 39, 3)
        left, top, right, bottom = face["window"]
        assert np.array_equal(crop, frame[top:bottom, left:right])
        assert set(face) == set(FACE_SCHEMA.names)
    assert set(status) == set(STATUS_SCHEMA.names)
    assert (status["status"], status["reason"], status["frames_asked"], status["frames_found"]) == ("ok", "", 6, 6)
    assert status["source_bytes"] == len(data) and status["fingerprint"] == "f"


def test_test_videos_have_their_own_number_of_frames(tmp_path):
    assert len(run(tmp_path, clips.counting(30), split="test")[0]) == 4
    assert len(run(tmp_path, clips.counting(30), split="val")[0]) == 6


def test_large_crops_are_shrunk_and_keep_their_aspect(tmp_path):
    faces, _ = run(tmp_path, clips.counting(30), Corner(lambda i: (0, 0, 90, 90)), changed(max_crop=64))
    assert (faces[0]["height"], faces[0]["width"]) == (43, 64)  # of 64 x 96: the frame is smaller than the window


def changed(**changes):
    return CONFIG.model_copy(update=changes)


def test_a_subject_seen_in_some_frames_gives_no_whole_frames_for_the_rest(tmp_path):
    faces, status = run(tmp_path, clips.counting(30), Corner(lambda i: (10, 10, 40, 40) if i % 2 else None))
    assert len(faces) == status["frames_found"] == 3 and status["status"] == "ok"
    assert status["reason"] == "the subject's face in 3 of 6 frames"


def test_a_face_outside_the_frame_is_no_face(tmp_path):
    faces, status = run(tmp_path, clips.counting(30), Corner(lambda i: (-60, 10, -5, 60)))
    assert faces == [] and status["status"] == "no_face"


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [(clips.audio_only(), "unreadable", "audio only"), (b"", "unreadable", "empty file"),
     (None, "unreadable", "does not exist")],
    ids=["audio", "empty", "missing"],
)
def test_files_without_frames(tmp_path, data, status, reason):
    faces, found = run(tmp_path, data)
    assert faces == [] and found["status"] == status and reason in found["reason"]
    assert (found["frames_decoded"], found["frames_found"]) == (0, 0)


def test_a_damaged_video_is_partial_with_a_face_and_no_face_without(tmp_path):
    data = clips.noisy(40)
    faces, status = run(tmp_path, data[: len(data) // 2])
    assert status["status"] == "partial" and "damaged" in status["reason"]
    assert len(faces) == status["frames_decoded"] > 0
    _, status = run(tmp_path, data[: len(data) // 2], Corner(lambda i: None))
    assert status["status"] == "no_face" and "damaged" in status["reason"]


def test_a_decoder_that_dies_is_this_videos_fault_alone(tmp_path):
    config = changed(decode_timeout_s=4)  # a decoder of its own
    assert run(tmp_path, clips.counting(5), config=config)[1]["status"] == "ok"
    os.kill(shared_decoder(DecodeLimits.of(config)).pid, signal.SIGSTOP)
    _, status = run(tmp_path, clips.counting(5), config=config)
    assert (status["status"], status["reason"]) == ("unreadable", "decoding took longer than 4 s")
    assert run(tmp_path, clips.counting(5), config=config)[1]["status"] == "ok"


def test_a_storage_that_cannot_be_reached_is_not_the_videos_fault(tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("access denied")

    monkeypatch.setattr(extraction, "find_input", refuse)
    with pytest.raises(UserError, match="access denied"):
        run(tmp_path, clips.counting(5))


@pytest.mark.parametrize("whole_bytes", [10**6, 1000], ids=["whole", "in pieces"])
def test_an_object_deleted_after_it_was_found_is_missing_and_one_refused_is_told(s3, monkeypatch, whole_bytes):
    storage = Storage.from_config(s3)
    storage.write_bytes("v.mp4", clips.counting(5))
    find = extraction.find_input
    monkeypatch.setattr(extraction, "WHOLE_BYTES", whole_bytes)

    def found_then(change):
        def found(uri, config):
            filesystem, info = find(uri, config)
            change()
            return filesystem, info

        return found

    monkeypatch.setattr(extraction, "find_input", found_then(lambda: storage.delete("v.mp4")))
    _, status = extract_video(row(storage.uri("v.mp4")), CONFIG, Corner(), storage_config=s3, fingerprint="f")
    assert (status["status"], status["reason"]) == ("unreadable", "the file does not exist")

    storage.write_bytes("v.mp4", clips.counting(5))
    far = s3.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "max_attempts": 1, "connect_timeout_s": 1})
    monkeypatch.setattr(extraction, "find_input", lambda uri, config: (S3FileSystem(far), find(uri, config)[1]))
    with pytest.raises(UserError, match=r"cannot read s3://.*v.mp4; .* does not answer"):
        read_source(storage.uri("v.mp4"), s3)


def test_a_file_that_could_not_be_opened_keeps_no_version_so_that_the_next_run_looks_again(tmp_path, monkeypatch):
    (tmp_path / "v.mp4").write_bytes(b"0123456789")
    statuses = []
    for mend in (lambda: None, (tmp_path / "v.mp4").unlink):
        source = extraction.read_source(str(tmp_path / "v.mp4"), StorageConfig())
        monkeypatch.setattr(extraction, "read_source", lambda uri, config, source=source, mend=mend: (mend(), source)[1])
        _, status = extract_video(row(str(tmp_path / "v.mp4")), CONFIG, Corner(), storage_config=StorageConfig(), fingerprint="f")
        monkeypatch.undo()
        statuses.append((status["status"], status["reason"], status["source_bytes"], status["source_etag"] is None))
    assert statuses[0][0] == "unreadable" and statuses[0][2:] == (10, False)
    assert statuses[1] == ("unreadable", "cannot be read: No such file or directory", None, True)


@pytest.mark.parametrize("whole_bytes", [10**6, 1000], ids=["whole", "in pieces"])
def test_a_video_in_a_bucket_gives_what_the_file_gives(tmp_path, s3, monkeypatch, whole_bytes):
    data = clips.noisy(20)
    storage = Storage.from_config(s3)
    storage.write_bytes("videos/v.mp4", data)
    monkeypatch.setattr(extraction, "WHOLE_BYTES", whole_bytes)
    local, status = run(tmp_path, data)
    remote, status_remote = extract_video(
        row(storage.uri("videos/v.mp4")), CONFIG, Corner(), storage_config=s3, fingerprint="f")
    assert [face["image"] for face in remote] == [face["image"] for face in local]
    assert [face["frame_index"] for face in remote] == [face["frame_index"] for face in local]
    assert status_remote["source_bytes"] == len(data) and status_remote["source_etag"]


# ---------------------------------------------------------------------------------------------------- several people


class Crowd:
    """Stands for a detector: for each frame the faces of a function."""

    def __init__(self, faces):
        self.faces = faces

    def detect(self, frames):
        return [self.faces(i) for i in range(len(frames))]


def person(x, *, size=30, score=0.95, turned=0.0):
    """A face with landmarks; `turned` moves the nose from the middle of the eyes by half eye distances."""
    box = np.array([x, 20, x + size, 20 + size], np.float32)
    points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5 + 0.2 * turned, 0.6], [0.35, 0.8], [0.65, 0.8]])
    return Face(box, score, (points * size + box[:2]).astype(np.float32))


def two_people(i):
    """The subject in all frames, a smaller one from the third on, in front of it in the list."""
    return ([person(4, size=20)] if i >= 2 else []) + [person(55)]


def test_everybody_is_kept_if_asked_each_with_a_number_and_the_subject_is_0(tmp_path):
    faces, status = run(tmp_path, clips.noisy(30), Crowd(two_people), config=changed(people="all"))
    places = [(face["frame_index"], face["track"], face["box"][0]) for face in faces]
    indices = read_frames(clips.noisy(30), count=6, name="v").indices.tolist()
    assert places == [(index, track, x) for i, index in enumerate(indices) for track, x in [(0, 55), (1, 4)][:1 + (i >= 2)]]
    assert (status["frames_found"], status["people"], status["reason"]) == (6, 2, "")
    only, status = run(tmp_path, clips.noisy(30), Crowd(two_people))
    assert only == [face for face in faces if face["track"] == 0] and status["people"] == 1


def test_several_people_of_a_video_share_its_split_and_a_reader_can_have_the_subject_alone(tmp_path, local_storage):
    from robust.data.face_table import read_faces
    from robust.data.shards import read_status, write_shard

    everybody = changed(people="all")
    train, status = run(tmp_path, clips.noisy(30), Crowd(two_people), config=everybody, split="train")
    test, other = run(tmp_path, clips.noisy(30), Crowd(two_people), config=everybody, split="test", video_id="d/m/w",
                      identities=("d:c",))
    write_shard(local_storage, "r", "d/0", train[::-1], [status])
    write_shard(local_storage, "r", "d/1", test, [other])
    for split, identities, frames in (("train", ["d:a", "d:b"], 6), ("test", ["d:c"], 4)):
        rows = read_faces(local_storage, "r", split=split).to_pylist()
        assert {track for track in (row["track"] for row in rows)} == {0, 1}
        assert all(row["identities"] == identities and row["split"] == split for row in rows)
        assert [(row["frame_index"], row["track"]) for row in rows] == sorted((row["frame_index"], row["track"]) for row in rows)
        subjects = read_faces(local_storage, "r", split=split, subject_only=True, columns=["video_id", "frame_index", "track"])
        assert len(subjects) == frames and set(subjects.column("track").to_pylist()) == {0}
    few = read_faces(local_storage, "r", split="train", max_frames_per_video=2, subject_only=True)
    assert len(few) == 2
    assert read_status(local_storage, "r").column("people").to_pylist() == [2, 2]


# ---------------------------------------------------------------------------------------------------- filters


def bounded(**bounds):
    return changed(filter=FilterConfig(**bounds))


def test_refused_faces_are_counted_with_their_reason(tmp_path):
    detector = Crowd(lambda i: [person(55, turned=2.0 if i in (1, 4) else 0.0)])
    faces, status = run(tmp_path, clips.noisy(30), detector, config=bounded(max_yaw=45))
    assert len(faces) == status["frames_found"] == 4 and status["status"] == "ok"
    assert status["refused"] == {"small": 0, "blurred": 0, "turned": 2, "brief": 0}
    assert status["reason"] == "the subject's face in 4 of 6 frames; faces refused by extract.filter: 2 turned"
    assert run(tmp_path, clips.noisy(30), detector)[1]["refused"]["turned"] == 0


def test_a_subject_that_is_refused_is_not_replaced_by_a_bystander(tmp_path):
    crowd = Crowd(lambda i: [person(4, size=20), person(55, turned=2.0)])
    faces, status = run(tmp_path, clips.noisy(30), crowd, config=bounded(max_yaw=45))
    assert faces == [] and status["status"] == "no_face" and status["people"] == 0
    assert status["reason"] == "faces refused by extract.filter: 6 turned"
    faces, status = run(tmp_path, clips.noisy(30), crowd, config=bounded(max_yaw=45).model_copy(update={"people": "all"}))
    assert {(face["track"], face["box"][0]) for face in faces} == {(0, 4)} and status["refused"]["turned"] == 6


def test_somebody_seen_in_a_few_frames_can_be_refused(tmp_path):
    config = bounded(min_frames=5).model_copy(update={"people": "all"})
    faces, status = run(tmp_path, clips.noisy(30), Crowd(two_people), config=config)
    assert {face["track"] for face in faces} == {0} and status["refused"]["brief"] == 4


# ---------------------------------------------------------------------------------------------------- alignment, geometry


def test_an_aligned_crop_says_where_it_comes_from(tmp_path):
    from robust.data.align import TEMPLATE, aligned_crop

    data = clips.noisy(30)
    faces, _ = run(tmp_path, data, Crowd(two_people), config=changed(align=True))
    frame = read_frames(data, count=6, name="v").frames[0]
    crop, landmarks = decode_image(faces[0]["image"]), np.reshape(faces[0]["landmarks"], (5, 2))
    assert faces[0]["window"] is None and faces[0]["height"] == faces[0]["width"] == crop.shape[0]
    assert np.array_equal(crop, aligned_crop(frame, landmarks, side=crop.shape[0], margin=0.3))
    matrix = np.reshape(faces[0]["matrix"], (2, 3))
    shown = landmarks @ matrix[:, :2].T + matrix[:, 2]
    wanted = (TEMPLATE + 0.5 + 0.15 * 112) * crop.shape[0] / (1.3 * 112) - 0.5
    assert np.abs(shown - wanted).mean() < 0.05 * crop.shape[0]
    flat, _ = run(tmp_path, data, config=changed(align=True))  # its landmarks are all in one place
    assert flat[0]["matrix"] is None and flat[0]["window"] is not None


def test_a_thousand_crops_hold_exactly_the_pixels_of_a_direct_computation():
    # Exact fractions, every position tried: of all squares inside the frame the one whose centre is nearest to the box's.
    rng = np.random.default_rng(8)
    at_border = 0
    for _ in range(1000):
        height, width = (int(value) for value in rng.integers(20, 90, 2))
        frame = np.stack(np.broadcast_arrays(*np.ogrid[:height, :width], 7), -1).astype(np.uint8)  # a pixel is its own address
        size = rng.uniform(3, 60, 2)
        corner = rng.uniform([-size[0] / 2, -size[1] / 2], [width - size[0] / 2, height - size[1] / 2])
        box = np.concatenate([corner, corner + size]).astype(np.float32)
        margin = float(rng.choice([0, 0.25, 0.3, 1]))
        crop, place = extraction.cut_out(frame, Face(box, 0.9, np.zeros((5, 2))), changed(margin=margin))
        x0, y0, x1, y1 = (Fraction(float(value)) for value in box)
        side = round(max(x1 - x0, y1 - y0) * (1 + Fraction(margin)))
        tops, lefts = (_nearest(low, high, side, limit) for low, high, limit in ((y0, y1, height), (x0, x1, width)))
        assert crop.shape == (min(side, height), min(side, width), 3)
        assert crop[0, 0, 0] in tops and crop[0, 0, 1] in lefts
        top, left = int(crop[0, 0, 0]), int(crop[0, 0, 1])
        assert np.array_equal(crop, frame[top:top + side, left:left + side])
        assert place["window"] == [left, top, left + crop.shape[1], top + crop.shape[0]]
        at_border += left == 0 or top == 0 or place["window"][2] == width or place["window"][3] == height
    assert at_border > 300


def _nearest(low, high, side, limit):
    """The starts of the intervals inside [0, limit) whose centre is nearest to that of [low, high]: one, or two of a tie."""
    side = min(side, limit)
    distances = {start: abs(start + Fraction(side, 2) - (low + high) / 2) for start in range(limit - side + 1)}
    return [start for start, distance in distances.items() if distance == min(distances.values())]
