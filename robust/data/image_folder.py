"""A plain folder of face crops as the rows of a run, for an evaluation without videos: `evaluate.images`.

real/**.png               each image by itself, or real/<video>/*.png: the frames of a video
fake/*.png                method "fake"; fake/<method>/*.png; fake/<method>/<video>/*.png
identities.csv (optional) columns image,identities: path below the root of an image or of a video's folder, the people
                          in it separated by ";"

The faces are cut out already: nothing is searched or cropped, PNG, JPEG and WebP files are kept byte for byte. They become
face shards of the run (dataset "image_folder", split "test") named by a hash of their content, so what is there already
is not written again, and what is no longer in the folder is taken out.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from robust.config import Config
from robust.data.images import decode_image, encode_image
from robust.data.layouts.matching import describe_missing, listed, read_csv
from robust.data.rows import FAKE, REAL, VideoRow, make_row
from robust.data.shards import STATUS_SUFFIX, delete_plan, read_status, shard_key, status_key, write_shard
from robust.data.tree import FileTree
from robust.errors import UserError

DATASET = "image_folder"
SPLIT = "test"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
KEPT_FORMATS = ("PNG", "JPEG", "WEBP")
IMAGES_OF_A_SHARD = 256
MAX_PIXELS = 64 * 2**20
IDENTITIES = "identities.csv"
ALONE = f"{DATASET}:alone/"
"""Prefix of the identity of an image or video that nobody has told a person of."""


def import_images(storage, config: Config) -> tuple[pa.Table, list[str]]:
    """Makes the folder's images the run's face crops; returns their status table, and what is wrong with identities.csv.

    Raises:
        UserError: no folder, no real or no fake images in it, an identities.csv that names none of them, or a run that
            has crops of videos already.
    """
    run, tree = config.run.name, FileTree.open(config.evaluate.images, config.storage)
    _require_own_run(storage, run)
    videos = _videos(tree)
    people = _people(tree)
    unmatched = _unmatched(tree, people, videos)
    kept = [_import_shard(storage, run, tree, part, people) for part in _parts(videos)]
    for shard in {key.removeprefix(f"{run}/faces/").removesuffix(STATUS_SUFFIX) for key in _status_keys(storage, run)} - set(kept):
        delete_plan(storage, run, shard)
    return read_status(storage, run), listed(f"records of {IDENTITIES} that are no image by itself and no folder of frames, left out", unmatched)


def note_of(videos: Sequence[Mapping]) -> str:
    """What the report says of the intervals where identities are not known; "" where all are."""
    whose = [any(person.startswith(ALONE) for person in video["identities"]) for video in videos]
    alone = sum(nobody and video["frames_found"] > 0 for nobody, video in zip(whose, videos, strict=True))
    if not alone:
        return ""
    why = f"no {IDENTITIES}" if all(whose) else f"not in {IDENTITIES}"  # one that names none of them is refused
    return (f"The people in {alone} images or sub-folders of images are not known ({why}), so the intervals take each for a person of its own: "
            "if people occur more than once, or a fake beside the face it was made from, the true intervals are wider.")


def _status_keys(storage, run: str) -> list[str]:
    return [key for key in storage.list(f"{run}/faces/{DATASET}") if key.endswith(STATUS_SUFFIX)]


def _require_own_run(storage, run: str) -> None:
    others = [key for key in storage.list(f"{run}/faces") if not key.startswith(f"{run}/faces/{DATASET}/")]
    if others:
        raise UserError(f"evaluate.images: run {run} has face crops of videos ({others[0]}), which would be mixed with the images; "
                        "give the images a run of their own: run.name=...")


def _videos(tree: FileTree) -> dict[tuple[str, str], list[str]]:
    """Paths of the images by (method, name), in order: of one image, or of a folder of frames.

    Raises:
        UserError: not real and fake images there.
    """
    videos: dict[tuple[str, str], list[str]] = {}
    for top in ("real", "fake"):
        paths = tree.below(top)
        if not any(path.lower().endswith(SUFFIXES) for path in paths):
            raise UserError(f"evaluate.images: no images in {tree.uri(top)} ({describe_missing(tree, top)}); it needs real/ and fake/ (or fake/<method>/) "
                            f"with {', '.join(SUFFIXES)}")
        for path in paths:
            _, *between, name = path.split("/")
            method = between.pop(0) if top == "fake" and between else top
            videos.setdefault((top, method, "__".join(between) or name), []).append(path)
    return dict(sorted(videos.items()))


def _people(tree: FileTree) -> dict[str, list[str]]:
    if not tree.has_file(IDENTITIES):
        return {}
    records = read_csv(tree, IDENTITIES, ["image", "identities"])
    return {record["image"]: [one.strip() for one in record["identities"].split(";") if one.strip()] for record in records}


def _unmatched(tree: FileTree, people: Mapping[str, list[str]], videos: Mapping[tuple[str, str, str], list[str]]) -> set[str]:
    """Records of identities.csv that are no image by itself and no folder of frames.

    Raises:
        UserError: all of them.
    """
    keys = {_key(name, paths) for (_, _, name), paths in videos.items()}
    unmatched = people.keys() - keys
    if people and unmatched == people.keys():
        raise UserError(f"{tree.uri(IDENTITIES)} names no image of the folder: it has {min(unmatched)!r}, where the folder has {min(keys)!r}; "
                        "write paths below the folder, of an image by itself or of a folder of frames")
    return unmatched


def _key(name: str, paths: Sequence[str]) -> str:
    """How identities.csv calls a video: by its one image, or by the folder of its frames."""
    return paths[0] if posixpath.basename(paths[0]) == name else posixpath.dirname(paths[0])


def _parts(videos: Mapping[tuple, list[str]]) -> Iterator[dict[tuple, list[str]]]:
    """Whole videos, at most IMAGES_OF_A_SHARD images at once where a video is not longer."""
    part: dict[tuple, list[str]] = {}
    for key, paths in videos.items():
        if part and sum(map(len, part.values())) + len(paths) > IMAGES_OF_A_SHARD:
            yield part
            part = {}
        part[key] = paths
    yield part


def _import_shard(storage, run: str, tree: FileTree, part: Mapping[tuple, list[str]], people: Mapping[str, list[str]]) -> str:
    """Writes a shard unless one of the same content is there; returns its key."""
    contents = {path: tree.read_bytes(path) for paths in part.values() for path in paths}
    rows = {key: _row(tree, key, paths, people) for key, paths in part.items()}
    told = "".join(f"{path} {hashlib.sha256(data).hexdigest()}\n" for path, data in contents.items()) + str([row.identities for row in rows.values()])
    fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]
    shard = shard_key(DATASET, [row.video_id for row in rows.values()], fingerprint)
    if not storage.exists(status_key(run, shard)):
        made = [_video(rows[key], paths, contents, fingerprint) for key, paths in part.items()]
        write_shard(storage, run, shard, [face for faces, _ in made for face in faces], [status for _, status in made])
    return shard


def _row(tree: FileTree, key: tuple[str, str, str], paths: Sequence[str], people: Mapping[str, list[str]]) -> VideoRow:
    top, method, name = key
    known = people.get(_key(name, paths))
    return make_row(dataset=DATASET, method=method, name=name, uri=tree.uri(paths[0]), label=FAKE if top == "fake" else REAL,
                    people=known or [f"alone/{top}/{method}/{name}"], split=SPLIT)


def _video(row: VideoRow, paths: Sequence[str], contents: Mapping[str, bytes], fingerprint: str) -> tuple[list[dict], dict]:
    """Rows of FACE_SCHEMA and of STATUS_SCHEMA."""
    facts = {"video_id": row.video_id, "dataset": row.dataset, "method": row.method, "label": row.label,
             "identities": list(row.identities), "split": row.split}
    faces, reasons = [], []
    for index, path in enumerate(paths):
        try:
            data, (height, width) = _stored(contents[path], path)
        except ValueError as error:
            reasons.append(f"{path}: {error}")
            continue
        faces.append({**facts, "frame_index": index, "timestamp_s": None, "box": [0, 0, width, height], "landmarks": None,
                      "window": [0, 0, width, height], "score": None, "track": 0, "image": data, "height": height, "width": width})
    status = "unreadable" if not faces else "partial" if reasons else "ok"
    return faces, {**facts, "uri": row.uri, "status": status, "reason": "; ".join(reasons)[:500], "frames_asked": len(paths), "frames_decoded": len(faces),
                   "frames_found": len(faces), "shard": None, "source_bytes": sum(len(contents[path]) for path in paths),
                   "source_etag": None, "fingerprint": fingerprint}


def _stored(data: bytes, path: str) -> tuple[bytes, tuple[int, int]]:
    """The bytes to keep of an image file, and its (height, width).

    Raises:
        ValueError: no image, a damaged one, or one of more than MAX_PIXELS.
    """
    if not path.lower().endswith(SUFFIXES):
        raise ValueError("is not named as an image")
    try:
        with Image.open(io.BytesIO(data)) as picture:
            kind, (width, height) = picture.format, picture.size
            if width * height > MAX_PIXELS:  # known from the header, before anything is unpacked
                raise ValueError(f"has {width} x {height} pixels; a face crop has at most {MAX_PIXELS}")
            picture.load()  # tells a truncated file, whose missing part OpenCV fills with grey
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"is not a whole image that can be read ({type(error).__name__})") from None
    try:
        image: np.ndarray = decode_image(data)
    except (ValueError, cv2.error) as error:
        raise ValueError(f"can not be decoded ({error})") from None
    return (data if kind in KEPT_FORMATS else encode_image(image)), image.shape[:2]
