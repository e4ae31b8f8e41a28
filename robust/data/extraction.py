"""One video to face crops: read, decode, detect, follow people, crop, encode. Pure and in-process.

`extract_video` is the whole of it. jobs/extract.py runs its two halves, `decode_source` and `faces_of`, on different
machines; what passes between them are encoded crops wherever possible, because raw frames are a hundred times larger.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import datetime, timezone

import numpy as np
import pyarrow.fs

from robust.data.align import aligned_crop, aligned_matrix, aligned_side
from robust.data.appearance import embedded
from robust.data.crop import crop_window, shrink
from robust.data.decoded import NOT_OPENED
from robust.data.decoder_process import DecodeLimits, shared_decoder
from robust.data.faces import Face, FaceDetector
from robust.data.images import encode_image
from robust.data.quality import BRIEF, REASONS, refusal, sharpness, yaw
from robust.data.rows import VideoRow
from robust.data.tracking import Track, choose_subject, link_tracks
from robust.data.video import WHOLE_BYTES, DecodedVideo, unreadable
from robust.storage import MissingObject, explain_arrow, find_input


@dataclasses.dataclass(frozen=True)
class Source:
    """A video file as it was found.

    Args:
        content: its bytes, its local path, or, of a large object in a bucket, the open file, to be read in pieces.
        size: bytes.
        version: the time of its last change; tells a replaced file from the one that was extracted.
    """

    content: bytes | str | pyarrow.NativeFile
    size: int
    version: str | None


def frames_wanted(row: VideoRow, config) -> int:
    """How many frames of this video `config` (ExtractConfig) asks for."""
    return config.frames_test if row.split == "test" else config.frames_train


def read_source(uri: str, storage_config, *, whole_bytes: int | None = None) -> Source:
    """Finds a video on disk, or fetches it from a bucket.

    Args:
        whole_bytes: a larger object is not fetched, but opened; None: WHOLE_BYTES.
    Raises:
        MissingObject: it is not there, or no file.
        UserError: the bucket cannot be reached or refuses.
    """
    filesystem, info = find_input(uri, storage_config)
    version = info.mtime.astimezone(timezone.utc).isoformat() if isinstance(info.mtime, datetime) else None
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        return Source(info.path, info.size or 0, version)
    if info.type != pyarrow.fs.FileType.File:
        raise MissingObject(f"{uri} is no file")
    with explain_arrow(uri, storage_config):
        if info.size > (WHOLE_BYTES if whole_bytes is None else whole_bytes):
            return Source(filesystem.open_input_file(info.path), info.size, version)
        with filesystem.open_input_stream(info.path) as stream:
            content = stream.read()
    return Source(content, len(content), version)


def decode_source(
    row: VideoRow, *, count: int, storage_config, limits: DecodeLimits
) -> tuple[DecodedVideo, Source | None]:
    """The sampled frames of a video; whatever is wrong with the file, or it does to its decoder, is told with them.

    Without a Source where there is no file, or it may not be opened: then no size or version is noted, and the next run looks again.

    Raises:
        UserError: storage cannot be reached, or this machine lacks something: that says nothing about this video, and the
            job must not go on.
    """
    try:
        source = read_source(row.uri, storage_config)
        with explain_arrow(row.uri, storage_config):
            decoded = shared_decoder(limits).read_frames(source.content, count=count)
    except MissingObject:
        return unreadable("the file does not exist"), None
    return decoded, None if decoded.reason.startswith(NOT_OPENED) else source


def extract_video(
    row: VideoRow, config, detector: FaceDetector, *, storage_config, fingerprint: str
) -> tuple[list[dict], dict]:
    """Face crops and the status of one video.

    Args:
        config: an ExtractConfig.
        detector: from `robust.data.faces.build_detector`.
        storage_config: a StorageConfig, for videos in a bucket.
        fingerprint: of the extraction settings, kept in the status row.
    Returns:
        (rows of FACE_SCHEMA, a row of STATUS_SCHEMA without its shard).
    """
    decoded, source = decode_source(
        row, count=frames_wanted(row, config), storage_config=storage_config, limits=DecodeLimits.of(config))
    return faces_of(row, decoded, config, detector, source=source, fingerprint=fingerprint)


def faces_of(
    row: VideoRow, decoded: DecodedVideo, config, detector: FaceDetector, *, source: Source | None, fingerprint: str
) -> tuple[list[dict], dict]:
    """The second half of `extract_video`: from frames to crops."""
    people, refused = _people(decoded.frames, config, detector)
    seen = [(position, person, face) for person in people for position, face in person.faces.items()]
    seen.sort(key=lambda one: (one[0], one[1].number))
    faces = [_face_row(row, decoded, position, face, person, config) for position, person, face in seen]
    found = len(people[0].faces) if people else 0
    status, reason = _judge(decoded, faces_found=found, refused=refused)
    return faces, {
        **_labels(row),
        "uri": row.uri,
        "status": status,
        "reason": reason,
        "frames_asked": frames_wanted(row, config),
        "frames_decoded": len(decoded.frames),
        "frames_found": found,
        "people": len(people),
        "refused": {name: refused[name] for name in REASONS},
        "shard": None,
        "source_bytes": source.size if source else None,
        "source_etag": source.version if source else None,
        "fingerprint": fingerprint,
    }


def _people(frames: np.ndarray, config, detector: FaceDetector) -> tuple[list[Track], Counter]:
    """The tracks to cut out, the subject first, and how many of their faces were refused, by reason.

    With `people: all`, somebody of whom no face is left is not there. The subject alone is never replaced by somebody else.
    """
    if len(frames) == 0:
        return [], Counter()
    height, width = frames.shape[1:3]
    detections = [[face for face in faces if _is_inside(face, height, width)] for faces in detector.detect(frames)]
    tracks = link_tracks(embedded(frames, detections, config.embedding))
    if config.people == "subject":
        subject = choose_subject(tracks)
        tracks = [] if subject is None else [subject]
    people, refused = [], Counter()
    for track in tracks:
        kept = {}
        for position, face in track.faces.items():
            brief = len(track.faces) < config.filter.min_frames
            reason = BRIEF if brief else refusal(face, frames[position], config.filter)
            if reason is None:
                kept[position] = face
            else:
                refused[reason] += 1
        if kept:
            people.append(Track(len(people), kept))
    return people, refused


def _is_inside(face: Face, height: int, width: int) -> bool:
    """Whether the middle of the face is in the frame."""
    x, y = (face.box[:2] + face.box[2:]) / 2
    return bool(0 <= x < width and 0 <= y < height)


def _labels(row: VideoRow) -> dict:
    return {
        "video_id": row.video_id,
        "dataset": row.dataset,
        "method": row.method,
        "label": row.label,
        "identities": list(row.identities),
        "split": row.split,
    }


def _face_row(row: VideoRow, decoded: DecodedVideo, position: int, face: Face, person: Track, config) -> dict:
    frame = decoded.frames[position]
    crop, place = cut_out(frame, face, config)
    return {
        **_labels(row),
        "frame_index": int(decoded.indices[position]),
        "timestamp_s": float(decoded.timestamps_s[position]),
        "box": face.box.tolist(),
        "landmarks": face.landmarks.reshape(-1).tolist(),
        **place,
        "score": face.score,
        "sharpness": sharpness(frame, face.box),
        "yaw": yaw(face.landmarks),
        "track": person.number,
        "image": encode_image(crop, image_format=config.image_format, jpeg_quality=config.jpeg_quality),
        "height": crop.shape[0],
        "width": crop.shape[1],
    }


def cut_out(frame: np.ndarray, face: Face, config) -> tuple[np.ndarray, dict]:
    """The crop of a face as `config` (ExtractConfig) wants it, and where in the frame it comes from.

    Returns:
        (H, W, 3) uint8, and {"window", "matrix"}, one of them None: the pixels that were cut out, or how they were moved.
    """
    window = left, top, right, bottom = crop_window(face.box, height=frame.shape[0], width=frame.shape[1], margin=config.margin)
    if config.align:
        try:
            side = min(aligned_side(face.landmarks, margin=config.margin), config.max_crop)
            matrix = aligned_matrix(face.landmarks, side=side, margin=config.margin)
            crop = aligned_crop(frame, face.landmarks, side=side, margin=config.margin)
            return crop, {"window": None, "matrix": matrix.reshape(-1).tolist()}
        except ValueError:
            pass  # landmarks that tell no pose: as without alignment
    return shrink(frame[top:bottom, left:right], longer_side=config.max_crop), {"window": list(window), "matrix": None}


def _judge(decoded: DecodedVideo, *, faces_found: int, refused: Counter) -> tuple[str, str]:
    """The status of a video and its reason, as in the status table."""
    frames = len(decoded.frames)
    if decoded.status == "unreadable":
        return "unreadable", decoded.reason
    without = [f"{refused[reason]} {reason}" for reason in REASONS if refused[reason]]
    filtered = f"faces refused by extract.filter: {', '.join(without)}" if without else ""
    if faces_found == 0:
        found = filtered or f"no face in any of {frames} frames"
        return "no_face", "; ".join(filter(None, [found, decoded.reason]))
    if decoded.status == "partial":
        return "partial", "; ".join(filter(None, [decoded.reason, filtered]))
    missing = "" if faces_found == frames else f"the subject's face in {faces_found} of {frames} frames"
    return "ok", "; ".join(filter(None, [missing, filtered]))
