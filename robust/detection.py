"""One video or photograph to a verdict, along the very path of training and evaluation.

Frames, faces, the followed person and the crop come from `robust.data.extraction`, the model's input from
`robust.data.inputs`; nothing of it is defined a second time here. A photograph is a video of one frame.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from robust.config import ExtractConfig, StorageConfig
from robust.config_identity import science
from robust.data.decoder_process import DecodeLimits, shared_decoder
from robust.data.extraction import Source, decode_source, faces_of, read_source
from robust.data.faces import Face, FaceDetector
from robust.data.images import decode_image
from robust.data.inputs import to_input
from robust.data.rows import REAL, VideoRow
from robust.data.tree import is_video
from robust.data.video import MAX_PIXELS, DecodedVideo, unreadable
from robust.errors import UserError
from robust.evaluation.metrics import video_scores
from robust.models.detector import Detector
from robust.storage import MissingObject

Boxes = tuple[tuple[np.ndarray, ...], ...]
"""Of each frame, (4,) boxes x0, y0, x1, y1 in its pixels."""

VIDEO, IMAGE = "video", "image"
VERDICTS = ("fake", "real", "undecided")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
BATCH = 32
MAX_IMAGE_BYTES = 8 * MAX_PIXELS
"""Of a photograph's file: one of MAX_PIXELS with four channels of 16 bits each, not compressed."""
CROP_SETTINGS = (
    "detector", "decoder", "margin", "min_score", "min_face", "detect_size", "align", "filter", "image_format",
    "jpeg_quality", "max_crop",
)
"""The settings of `extract` that decide what a crop looks like."""


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Scores above `logit` are called fake; `rule` says where it comes from."""

    logit: float
    rule: str


@dataclasses.dataclass(frozen=True)
class FrameScore:
    """One sampled frame; `logit`, `box` and `face_score` are None where the person's face was not found.

    Args:
        frame_index: in the video, from 0.
        logit: of the face crop, positive for fake.
        box: x0, y0, x1, y1, pixels of the frame.
        face_score: the face detector's probability that it is a face.
    """

    frame_index: int
    timestamp_s: float
    logit: float | None = None
    box: tuple[float, ...] | None = None
    face_score: float | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the detector says of one file.

    Args:
        verdict: "fake", "real", or "undecided" (no face, unreadable).
        status: the extraction's: ok, partial, no_face or unreadable.
        reason: why it is undecided, or what else should be known (damage, frames without a face, faces not judged).
        score: mean of the frames' logits, of several judged people the highest; None if undecided.
        people: how many were judged; more than one only with extract.people=all.
        frames_with_face, frames: of the person whose score it is.
        other_faces: most faces in one frame that are not this person's.
    """

    name: str
    uri: str
    kind: str
    verdict: str
    status: str
    reason: str
    score: float | None
    threshold: float
    frames_decoded: int
    frames_with_face: int
    people: int
    other_faces: int
    frames: tuple[FrameScore, ...]

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Examination:
    """A verdict and what it was given on.

    Args:
        pictures: (N, H, W, 3) uint8, the sampled frames, in the order of `verdict.frames`.
        other_boxes: of each frame, the boxes of faces that are not the person's whose score it is.
    """

    verdict: Verdict
    pictures: np.ndarray
    other_boxes: Boxes


@dataclasses.dataclass(frozen=True)
class Examiner:
    """Everything that a verdict takes; `examine` gives one.

    Args:
        model: in eval mode, on its device.
        thresholds: by kind, from `thresholds_of`.
        extract: settings of the crops; the model's training and evaluation used the same ones.
        frames: sampled frames of a video.
        face_detector: from `robust.data.faces.build_detector`.
        storage: for files in a bucket.
    """

    model: Detector
    thresholds: dict[str, Threshold]
    extract: ExtractConfig
    frames: int
    face_detector: FaceDetector
    storage: StorageConfig

    def examine(self, name: str, uri: str, kind: str) -> Examination:
        """The verdict on one file; whatever is wrong with the file is told in it.

        Args:
            name: how to call it; uri: a local path or s3://; kind: VIDEO or IMAGE.
        Raises:
            UserError: storage cannot be reached, or the model's output is not finite.
        """
        decoded, source = self.decode(name, uri, kind)
        return self.judge(name, uri, kind, decoded, source)

    def decode(self, name: str, uri: str, kind: str) -> tuple[DecodedVideo, Source | None]:
        """The first half of `examine`: the sampled frames, and the file they are from, if there is one."""
        row, limits = video_row(name, uri), DecodeLimits.of(self.extract)
        if kind == VIDEO:
            return decode_source(row, count=self.frames, storage_config=self.storage, limits=limits)
        return _decode_image(row, self.storage, limits)

    def judge(self, name: str, uri: str, kind: str, decoded: DecodedVideo, source: Source | None) -> Examination:
        """The second half, which needs no storage and may be on another machine."""
        found = find_faces(name, uri, kind, decoded, source, self.extract, self.face_detector)
        logits = score_crops(self.model, [decode_image(crop) for crop in found.images])
        return conclude(found, logits, self.thresholds[kind])


@dataclasses.dataclass(frozen=True)
class FoundFaces:
    """What lies between `find_faces` and `conclude`: the frames of a file and the crops that a model is to score.

    Args:
        crops, status: of `robust.data.extraction.faces_of`.
        faces: of each frame, all that the face detector found.
    """

    row: VideoRow
    kind: str
    decoded: DecodedVideo
    crops: list[dict]
    status: dict
    faces: list[list[Face]]

    @property
    def images(self) -> list[bytes]:
        """The crops, encoded."""
        return [crop["image"] for crop in self.crops]


def find_faces(
    name: str, uri: str, kind: str, decoded: DecodedVideo, source: Source | None, extract: ExtractConfig,
    face_detector: FaceDetector
) -> FoundFaces:
    """The crops to be judged, on a machine that may have no model."""
    row, seen = video_row(name, uri), _Seen(face_detector)
    crops, status = faces_of(row, decoded, extract, seen, source=source, fingerprint="")
    return FoundFaces(row, kind, decoded, crops, status, seen.found)


def conclude(found: FoundFaces, logits: np.ndarray, threshold: Threshold) -> Examination:
    """The verdict, from the (N,) logits of the N crops in their order.

    Raises:
        UserError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise UserError(f"{found.row.video_id}: the model's logit is not finite; the checkpoint has diverged, use another")
    decoded = found.decoded
    crops, logits = _most_fake_person(found.crops, logits)
    other_boxes = _other_boxes(found.faces, decoded, crops)
    frames = _frame_scores(decoded, crops, logits)
    return Examination(_judge(found.row, found.kind, threshold, found.status, frames, other_boxes), decoded.frames, other_boxes)


def kind_of(path: str) -> str | None:
    """VIDEO or IMAGE by the name of a file, None for anything else."""
    if is_video(path):
        return VIDEO
    return IMAGE if path.lower().endswith(IMAGE_SUFFIXES) else None


def thresholds_of(card: dict, override: float | None) -> dict[str, Threshold]:
    """The threshold for each kind: the card's for video scores and for single frames, or `override` (a logit) for both.

    Raises:
        UserError: the card has none.
    """
    if override is not None:
        given = Threshold(float(override), "detect.threshold")
        return {VIDEO: given, IMAGE: given}
    video, frame = card.get("threshold"), card.get("frame_threshold", card.get("threshold"))
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in (video, frame)):
        raise UserError("the checkpoint's card.json has no threshold; set detect.threshold, a logit (0 for even odds)")
    rule = card.get("threshold_rule", "card.json, whose rule it does not tell")
    per_frame = "single frames" if "frame_threshold" in card else "video scores: the card has none for single frames"
    return {
        VIDEO: Threshold(float(video), f"{rule}, video scores"),
        IMAGE: Threshold(float(frame), f"{rule}, {per_frame}"),
    }


def crop_differences(card: dict, extract: ExtractConfig) -> list[str]:
    """Settings of the crops that differ from those the model was trained with, where its card tells them."""
    trained, now = card.get("extract") or {}, science(extract)
    return [f"extract.{name} is {now[name]!r}, the checkpoint was trained with {trained[name]!r}"
            for name in CROP_SETTINGS if name in trained and trained[name] != now[name]]


@torch.inference_mode()
def score_crops(model: Detector, crops: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) float64 logits of N uint8 (H, W, 3) face crops of any sizes."""
    device = next(model.parameters()).device
    logits = [np.zeros(0)]
    for start in range(0, len(crops), BATCH):
        x = to_input(crops[start:start + BATCH], model.input_size).to(device)
        logits.append(model(x).double().cpu().numpy())
    return np.concatenate(logits)


# ---------------------------------------------------------------------------------------------------- its parts


class _Seen:
    """A face detector that remembers the faces it found, to tell of those that are not judged."""

    def __init__(self, detector: FaceDetector):
        self.detector = detector
        self.found: list[list[Face]] = []

    def detect(self, frames: np.ndarray) -> list[list[Face]]:
        self.found = self.detector.detect(frames)
        return self.found


def video_row(name: str, uri: str) -> VideoRow:
    """A file as extraction knows it; its label, people and split are not looked at."""
    return VideoRow(name, uri, REAL, "", "", ("unknown",), "test")


def _decode_image(
    row: VideoRow, storage: StorageConfig, limits: DecodeLimits
) -> tuple[DecodedVideo, Source | None]:
    try:
        source = read_source(row.uri, storage, whole_bytes=MAX_IMAGE_BYTES)
    except MissingObject:
        return unreadable("the file does not exist"), None
    if source.size > MAX_IMAGE_BYTES:
        return unreadable(f"{source.size} bytes, more than an image has ({MAX_IMAGE_BYTES})"), source
    return shared_decoder(limits).read_image(source.content), source


def _most_fake_person(crops: list[dict], logits: np.ndarray) -> tuple[list[dict], np.ndarray]:
    """The crops and logits of the person with the highest mean logit, whose score is the video's (`video_scores`)."""
    tracks = np.array([crop["track"] for crop in crops], np.int64)
    people, scores = video_scores(logits, tracks)
    chosen = np.flatnonzero(tracks == people[np.argmax(scores)]) if len(people) else []
    return [crops[i] for i in chosen], logits[chosen]


def _frame_scores(decoded: DecodedVideo, crops: list[dict], logits: np.ndarray) -> tuple[FrameScore, ...]:
    """One a decoded frame, in their order."""
    judged = {crop["frame_index"]: (crop, float(logit)) for crop, logit in zip(crops, logits, strict=True)}
    scores = []
    for index, time_s in zip(decoded.indices.tolist(), decoded.timestamps_s.tolist(), strict=True):
        if index not in judged:
            scores.append(FrameScore(index, time_s))
            continue
        crop, logit = judged[index]
        scores.append(FrameScore(index, time_s, logit, tuple(crop["box"]), crop["score"]))
    return tuple(scores)


def _other_boxes(found: list[list[Face]], decoded: DecodedVideo, crops: list[dict]) -> Boxes:
    subject = {crop["frame_index"]: crop["box"] for crop in crops}
    return tuple(tuple(face.box for face in faces if face.box.tolist() != subject.get(index))
                 for index, faces in zip(decoded.indices.tolist(), found))


def _judge(
    row: VideoRow, kind: str, threshold: Threshold, status: dict, frames: tuple[FrameScore, ...], other_boxes: Boxes
) -> Verdict:
    logits = [frame.logit for frame in frames if frame.logit is not None]
    score = float(np.mean(logits)) if logits else None
    others = max(map(len, other_boxes), default=0)
    remarks = [status["reason"]]
    if status["people"] > 1:
        remarks.append(f"{status['people']} people are judged, the score is that of the one who looks most fake")
    elif others and score is not None:
        remarks.append(f"only the main person is judged, up to {others} more in a frame")
    return Verdict(
        name=row.video_id,
        uri=row.uri,
        kind=kind,
        verdict="undecided" if score is None else "fake" if score > threshold.logit else "real",
        status=status["status"],
        reason="; ".join(filter(None, remarks)),
        score=score,
        threshold=threshold.logit,
        frames_decoded=len(frames),
        frames_with_face=len(logits),
        people=status["people"],
        other_faces=others,
        frames=frames,
    )
