"""One video to face crops and a status row, in this process."""

import os
import signal

import numpy as np
import pytest

from robust.config import ExtractConfig, StorageConfig
from robust.data import extraction
from robust.data.crop import crop_face
from robust.data.decoder_process import DecodeLimits, shared_decoder
from robust.data.extraction import extract_video
from robust.data.faces import Face
from robust.data.rows import VideoRow
from robust.data.shards import FACE_SCHEMA, STATUS_SCHEMA, decode_image
from robust.data.video import read_frames
from robust.errors import UserError
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

    monkeypatch.setattr(extraction, "open_input", refuse)
    with pytest.raises(UserError, match="access denied"):
        run(tmp_path, clips.counting(5))


@pytest.mark.parametrize("whole_bytes", [10**6, 1000], ids=["whole", "in pieces"])
def test_a_video_in_a_bucket_gives_what_the_file_gives(tmp_path, s3, monkeypatch, whole_bytes):
    from robust.storage import Storage

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
