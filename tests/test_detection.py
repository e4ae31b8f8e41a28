"""robust/detection.py and its picture, with planted faces and models whose logits are known."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from robust import detection
from robust.config import ExtractConfig, StorageConfig
from robust.contact_strip import FAKE_COLOUR, LINE, MARGIN, REAL_COLOUR, colour, contact_strip
from robust.data import extraction
from robust.data.decoder_process import DecodeLimits, shared_decoder
from robust.data.extraction import extract_video
from robust.data.faces import Face
from robust.data.images import decode_image
from robust.data.inputs import to_input
from robust.data.rows import VideoRow
from robust.detection import IMAGE, VIDEO, Examiner, crop_differences, kind_of, score_crops, thresholds_of
from robust.errors import UserError
from robust.models.detector import Architecture, empty_detector
from robust.storage import Storage
from tests import clips

SIZE = 32
CARD = {"threshold": 0.5, "frame_threshold": 0.9, "threshold_rule": "FPR 1 % on clean validation videos"}


class Redness(nn.Module):
    """Logit = mean of the red channel of what it is given, plus a bias."""

    input_size = SIZE

    def __init__(self, bias=0.0):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, x):
        return x[:, 0].mean((1, 2)) + self.bias


class Planted:
    """Finds the same faces in every frame, but none in the frames of a video that are `lost`."""

    def __init__(self, *boxes, lost=()):
        self.boxes, self.lost = boxes, lost

    def detect(self, frames):
        planted = [Face(np.array(box, np.float32), 0.99, np.zeros((5, 2), np.float32)) for box in self.boxes]
        return [[] if number in self.lost else planted for number in range(len(frames))]


def write_clip(path, frames):
    path.write_bytes(clips.clip(frames))
    return str(path)


def red_square(level, *, size=(80, 120), box=(20, 10, 60, 50)):
    """A blue frame with a red square of this level."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[..., 2] = 255
    x0, y0, x1, y1 = box
    frame[y0:y1, x0:x1] = (level, 0, 0)
    return frame


def examiner(faces, model=None, *, margin=0.0, frames=6, card=CARD, override=None, people="subject"):
    extract = ExtractConfig(margin=margin, frames_train=3, frames_test=4, people=people)
    return Examiner((model or Redness()).eval(), thresholds_of(card, override), extract, frames, faces, StorageConfig())


def test_a_photograph_gives_the_known_logit_of_its_face(tmp_path):
    path = tmp_path / "face.png"
    Image.fromarray(red_square(200)).save(path)
    verdict = examiner(Planted((20, 10, 60, 50))).examine("face.png", str(path), IMAGE).verdict
    # The crop is the red square and nothing else: its place, the channels and the scale are right.
    assert verdict.score == pytest.approx(200 / 255, abs=1e-6)
    assert (verdict.verdict, verdict.threshold) == ("real", 0.9)
    (frame,) = verdict.frames
    assert (frame.frame_index, frame.timestamp_s, frame.box) == (0, 0.0, (20, 10, 60, 50))


def test_a_video_is_judged_by_the_mean_over_the_frames_with_a_face(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", [red_square(level) for level in range(60, 240, 3)])
    judge = examiner(Planted((20, 10, 60, 50), lost=(2,)))
    verdict = judge.examine("clip.mp4", path, VIDEO).verdict
    assert [frame.frame_index for frame in verdict.frames] == [5, 15, 25, 35, 45, 55]
    assert [frame.timestamp_s for frame in verdict.frames] == pytest.approx([0.25, 0.75, 1.25, 1.75, 2.25, 2.75])
    assert [frame.logit is None for frame in verdict.frames] == [False, False, True, False, False, False]
    expected = [(60 + 3 * index) / 255 for index in (5, 15, 35, 45, 55)]
    assert [frame.logit for frame in verdict.frames if frame.box] == pytest.approx(expected, abs=0.02)
    assert verdict.score == pytest.approx(np.mean([frame.logit for frame in verdict.frames if frame.box]))
    assert (verdict.verdict, verdict.frames_with_face, verdict.frames_decoded) == ("fake", 5, 6)
    assert "5 of 6 frames" in verdict.reason


def test_detection_scores_the_very_crops_of_extraction(tmp_path):
    rng = np.random.default_rng(0)
    path = write_clip(tmp_path / "clip.mp4", [rng.integers(0, 255, (96, 128, 3), np.uint8) for _ in range(9)])
    torch.manual_seed(0)
    model = empty_detector(Architecture("meso_inception4", SIZE, (0.5,) * 3, (0.5,) * 3, None)).eval()
    faces = Planted((70, 30, 120, 90))
    verdict = examiner(faces, model, margin=0.3, frames=4).examine("clip.mp4", path, VIDEO).verdict
    row = VideoRow("set/fake/clip", path, 1, "set", "fake", ("set:a",), "test")
    settings = ExtractConfig(margin=0.3, frames_test=4)
    crops, _ = extract_video(row, settings, faces, storage_config=StorageConfig(), fingerprint="f")
    with torch.no_grad():
        logits = model(to_input([decode_image(crop["image"]) for crop in crops], SIZE)).tolist()
    assert [frame.logit for frame in verdict.frames] == pytest.approx(logits, abs=1e-6)
    assert [frame.frame_index for frame in verdict.frames] == [crop["frame_index"] for crop in crops]


def test_a_large_photograph_in_a_bucket_is_read_whole_and_one_too_large_not_at_all(s3, monkeypatch):
    storage, picture = Storage.from_config(s3), io.BytesIO()
    Image.fromarray(red_square(200)).save(picture, "PNG")
    storage.write_bytes("face.png", picture.getvalue())
    monkeypatch.setattr(extraction, "WHOLE_BYTES", 10)
    judge = dataclasses.replace(examiner(Planted((20, 10, 60, 50))), storage=s3)
    assert judge.examine("f", storage.uri("face.png"), IMAGE).verdict.score == pytest.approx(200 / 255, abs=1e-6)
    monkeypatch.setattr(detection, "MAX_IMAGE_BYTES", 100)
    verdict = judge.examine("f", storage.uri("face.png"), IMAGE).verdict
    assert verdict.verdict == "undecided" and verdict.reason.startswith(f"{len(picture.getvalue())} bytes, more than an image")


def test_a_score_at_the_threshold_is_real_and_above_it_fake(tmp_path):
    path = tmp_path / "face.png"
    Image.fromarray(red_square(255)).save(path)
    for override, expected in ((1.0, "real"), (0.999, "fake")):
        found = examiner(Planted((20, 10, 60, 50)), override=override).examine("f", str(path), IMAGE)
        assert found.verdict.verdict == expected


def test_only_the_main_person_is_judged_and_the_others_are_told(tmp_path):
    path = tmp_path / "two.png"
    Image.fromarray(red_square(255)).save(path)
    found = examiner(Planted((90, 10, 110, 30), (20, 10, 60, 50))).examine("two", str(path), IMAGE)
    assert found.verdict.frames[0].box == (20, 10, 60, 50) and found.verdict.other_faces == 1
    assert "only the main person is judged" in found.verdict.reason
    assert [box.tolist() for box in found.other_boxes[0]] == [[90, 10, 110, 30]]


def test_with_everybody_judged_the_most_fake_looking_person_decides(tmp_path):
    frame = red_square(90, size=(80, 200))  # the main person looks real, a smaller one fake
    frame[15:45, 140:170] = (200, 0, 0)
    path = write_clip(tmp_path / "v.mp4", [frame] * 4)
    faces = Planted((20, 10, 60, 50), (140, 15, 170, 45))
    alone = examiner(faces).examine("v", path, VIDEO).verdict
    found = examiner(faces, people="all").examine("v", path, VIDEO)
    assert (alone.verdict, alone.people) == ("real", 1) and (found.verdict.verdict, found.verdict.people) == ("fake", 2)
    assert all(score.box == (140, 15, 170, 45) for score in found.verdict.frames)
    assert found.verdict.score == pytest.approx(200 / 255, abs=0.05) and found.verdict.frames_with_face == 4
    assert "2 people are judged" in found.verdict.reason and [len(boxes) for boxes in found.other_boxes] == [1] * 4


def test_what_cannot_be_judged_is_undecided_with_the_reason(tmp_path):
    empty, text, blank = tmp_path / "empty.mp4", tmp_path / "text.jpg", tmp_path / "blank.png"
    empty.touch()
    text.write_text("no image at all")
    Image.fromarray(red_square(0)).save(blank)
    judge = examiner(Planted())
    found = {kind: judge.examine(str(path), str(path), kind) for path, kind in ((empty, VIDEO), (text, IMAGE))}
    assert [one.verdict.status for one in found.values()] == ["unreadable"] * 2
    assert [one.verdict.reason for one in found.values()] == ["empty file (0 bytes)", "not an image"]
    for one in found.values():
        assert one.verdict.score is None and one.verdict.verdict == "undecided" and contact_strip(one) is None
    no_face = judge.examine("blank", str(blank), IMAGE).verdict
    assert (no_face.verdict, no_face.status) == ("undecided", "no_face") and "no face" in no_face.reason
    gone = judge.examine("gone", str(tmp_path / "gone.png"), IMAGE).verdict
    assert (gone.status, gone.reason) == ("unreadable", "the file does not exist")


def test_a_diverged_model_is_an_error_not_a_verdict(tmp_path):
    path = tmp_path / "face.png"
    Image.fromarray(red_square(200)).save(path)
    with pytest.raises(UserError, match="not finite"):
        examiner(Planted((20, 10, 60, 50)), Redness(float("nan"))).examine("face.png", str(path), IMAGE)


def test_thresholds_are_the_cards_for_videos_and_for_single_frames():
    told = thresholds_of(CARD, None)
    assert (told[VIDEO].logit, told[IMAGE].logit) == (0.5, 0.9)
    assert told[VIDEO].rule.startswith(CARD["threshold_rule"]) and "single frames" in told[IMAGE].rule
    assert thresholds_of({"threshold": 0.5}, None)[IMAGE].logit == 0.5
    assert {(one.logit, one.rule) for one in thresholds_of(CARD, -2).values()} == {(-2.0, "detect.threshold")}
    for card in ({}, {"threshold": None}, {"threshold": float("nan")}):
        with pytest.raises(UserError, match="detect.threshold"):
            thresholds_of(card, None)


def test_other_crops_than_the_models_own_are_told():
    card = {"extract": {"margin": 0.3, "detector": "mtcnn", "frames_test": 20}}
    assert crop_differences(card, ExtractConfig(frames_test=3)) == []
    told = crop_differences(card, ExtractConfig(margin=0.5))
    assert told == ["extract.margin is 0.5, the checkpoint was trained with 0.3"]
    assert crop_differences({}, ExtractConfig(margin=0.5)) == []
    assert len(crop_differences({"extract": {"decoder": "decord"}}, ExtractConfig(decoder="av"))) == 1


def test_a_photograph_is_decoded_in_the_process_of_videos(tmp_path, monkeypatch):
    path = tmp_path / "face.png"
    Image.fromarray(red_square(200)).save(path)
    judge = examiner(Planted((20, 10, 60, 50)))
    monkeypatch.setattr("robust.data.video.read_image", None)  # as this process would find it
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("decoded in this process"))
    decoded, _ = judge.decode("face.png", str(path), IMAGE)
    assert np.array_equal(decoded.frames, red_square(200)[None]) and decoded.status == "ok"
    path.write_bytes(path.read_bytes()[:40])
    assert judge.decode("face.png", str(path), IMAGE)[0].reason == "not an image"


def test_a_video_is_decoded_as_the_settings_say(tmp_path, monkeypatch):
    path, asked = write_clip(tmp_path / "v.mp4", [red_square(90)] * 4), []
    monkeypatch.setattr(extraction, "shared_decoder", lambda limits: asked.append(limits) or shared_decoder(limits))
    settings = ExtractConfig(decoder="av", decode_timeout_s=7, decode_memory_mb=99)
    judge = dataclasses.replace(examiner(Planted((20, 10, 60, 50))), extract=settings)
    assert judge.examine("v", path, VIDEO).verdict.frames_decoded == 4
    assert asked == [DecodeLimits(timeout_s=7, memory_mb=99, decord=False)]
    shared_decoder(asked[0]).close()


def test_many_crops_of_many_sizes_are_scored_in_order():
    crops = [np.full((10 + n % 7, 12, 3), n, np.uint8) for n in range(70)]
    assert score_crops(Redness(), crops) == pytest.approx(np.arange(70) / 255)
    assert score_crops(Redness(), []).shape == (0,)


def test_kinds_are_told_by_name():
    names = ("a.MP4", "b/c.JPG", "d.webp", "e.txt", "mp4")
    assert [kind_of(name) for name in names] == [VIDEO, IMAGE, IMAGE, None, None]


def test_the_picture_boxes_the_judged_face_in_the_colour_of_its_score(tmp_path):
    path = tmp_path / "face.png"
    Image.fromarray(red_square(100, size=(400, 600), box=(200, 100, 400, 300))).save(path)
    for override, expected in ((-50, FAKE_COLOUR), (50, REAL_COLOUR)):
        found = examiner(Planted((200, 100, 400, 300)), override=override).examine("face.png", str(path), IMAGE)
        sheet = np.asarray(Image.open(io.BytesIO(contact_strip(found))).convert("RGB"))
        picture = sheet[2 * MARGIN + 2 * LINE:, MARGIN:][:400, :600]  # 600 pixels are not shrunk
        rows, columns = np.nonzero((picture == expected).all(-1))
        assert (columns.min(), rows.min(), columns.max(), rows.max()) == (200, 100, 400, 300)
    assert colour(0.3, 0.3) not in (FAKE_COLOUR, REAL_COLOUR)


def test_the_strip_of_a_video_has_a_tile_for_every_sampled_frame(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", [red_square(level, size=(96, 240)) for level in range(0, 120, 3)])
    found = examiner(Planted((20, 10, 60, 50), lost=(0,)), frames=7).examine("clip.mp4", path, VIDEO)
    sheet = np.asarray(Image.open(io.BytesIO(contact_strip(found))).convert("RGB")).astype(int)
    assert sheet.shape[:2] == (2 * MARGIN + 2 * LINE + 2 * (96 + LINE + MARGIN), MARGIN + 5 * (240 + MARGIN))
    blue = (sheet[..., 2] > 200) & (sheet[..., 0] < 60)
    assert blue.sum() == pytest.approx(7 * (96 * 240 - 40 * 40), rel=0.02)


def test_decoding_is_as_the_settings_of_extraction_say(monkeypatch, tmp_path):
    asked = []

    def spied(limits):
        asked.append(limits)
        return shared_decoder(limits)

    monkeypatch.setattr("robust.data.extraction.shared_decoder", spied)
    (tmp_path / "a.mp4").write_bytes(clips.counting(3))
    extract = ExtractConfig(decoder="av", decode_timeout_s=77, decode_memory_mb=512)
    judge = dataclasses.replace(examiner(Planted()), extract=extract)
    assert judge.examine("a", str(tmp_path / "a.mp4"), VIDEO).verdict.frames_decoded == 3
    assert asked == [DecodeLimits(77, 512, False)]
