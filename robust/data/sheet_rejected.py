"""Videos of which frames or faces are missing: why, how many of each kind, and what some of them look like."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from robust.data.decoder_process import DecodeLimits, DecoderProcess
from robust.data.extraction import read_source
from robust.data.shards import NUMBER
from robust.data.sheet_pictures import small_webp
from robust.errors import UserError
from robust.object_stores import MissingObject
from robust.storage import explain_arrow

REJECTED = ("unreadable", "no_face", "partial")
WHOLE_BYTES = 4 * 2**20
"""Of a larger object in a bucket only the parts around three frames are fetched."""
FRAMES = 3
DECODE_S, DECODE_MB, TOGETHER_S = 20.0, 1024, 60.0
"""Limits of one video, where the run's own are not lower; after TOGETHER_S no other one is begun."""
FRAME_SIDE, FRAME_BYTES = 256, 12000
REASON_LENGTH = 120


@dataclasses.dataclass(frozen=True)
class Reason:
    """Videos with one kind of reason; numbers in it are replaced by N."""

    status: str
    kind: str
    videos: int
    example: str


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A video that is not ok, with a frame of it as WebP, or why there is none."""

    record: Mapping
    picture: bytes | None
    without: str


def kind_of(reason: str) -> str:
    """A reason without what differs from video to video."""
    return re.sub(NUMBER, "N", reason)[:REASON_LENGTH]


def count_kinds(records: Iterable[Mapping]) -> list[Reason]:
    """Every kind of reason, the statuses in the order of REJECTED and then ok, the most frequent first.

    Args:
        records: rows of the status table with video_id, status, reason.
    """
    counts: Counter = Counter()
    examples: dict[tuple[str, str], str] = {}
    for record in records:
        if record["reason"] or record["status"] != "ok":
            key = record["status"], kind_of(record["reason"] or "")
            counts[key] += 1
            examples.setdefault(key, record["video_id"])
    order = {status: number for number, status in enumerate((*REJECTED, "ok"))}
    ranked = sorted(counts, key=lambda key: (order.get(key[0], len(order)), -counts[key], key))
    return [Reason(*key, counts[key], examples[key]) for key in ranked]


def choose_rejected(records: Iterable[Mapping], *, count: int, seed: int) -> list[Mapping]:
    """At most `count` videos that are not ok: of each kind of reason one, drawn by lot, then of each a second, and so on."""
    queues: dict[tuple[str, str], list[Mapping]] = {}
    for record in records:
        if record["status"] in REJECTED:
            queues.setdefault((record["status"], kind_of(record["reason"] or "")), []).append(record)
    ranked: list[tuple[int, int, tuple[str, str], Mapping]] = []
    for key in sorted(queues, key=lambda key: (REJECTED.index(key[0]), key)):
        queue = sorted(queues[key], key=lambda record: record["video_id"])
        for turn, record in enumerate(random.Random(f"{seed} {key}").sample(queue, min(count, len(queue)))):
            ranked.append((turn, len(ranked), key, record))
    kept = sorted(ranked, key=lambda one: one[:2])[:count]
    return [record for _, _, _, record in sorted(kept, key=lambda one: (REJECTED.index(one[2][0]), one[2], one[0]))]


def with_pictures(records: Sequence[Mapping], config, *, storage_config, most: int) -> list[Rejected]:
    """A frame of each video, of at most `most` of them, decoded in a process of its own with limits.

    Args:
        records: rows of the status table with uri, status, source_bytes.
        config: an ExtractConfig.
    """
    run = DecodeLimits.of(config)
    limits = DecodeLimits(min(DECODE_S, run.timeout_s), min(DECODE_MB, run.memory_mb), run.decord)
    decoder, deadline, tried = DecoderProcess(limits), time.monotonic() + TOGETHER_S, 0
    made = []
    with contextlib.closing(decoder):
        for record in records:
            if record["status"] == "unreadable":  # extraction found no frame
                made.append(Rejected(record, None, "no frame can be decoded"))
            elif tried == most or time.monotonic() > deadline:
                made.append(Rejected(record, None, "not decoded for this page"))
            else:
                tried += 1
                made.append(Rejected(record, *_picture(record, decoder, storage_config)))
    return made


def _picture(record: Mapping, decoder: DecoderProcess, storage_config) -> tuple[bytes | None, str]:
    """A frame from the middle, or why there is none."""
    uri = record["uri"]
    try:
        source = read_source(uri, storage_config, whole_bytes=WHOLE_BYTES)
        with contextlib.ExitStack() as stack:
            if isinstance(source.content, pa.NativeFile):
                stack.enter_context(source.content)
            if source.size != record["source_bytes"]:
                return None, "the file has changed since"
            with explain_arrow(uri, storage_config):
                frames = decoder.read_frames(source.content, count=FRAMES).frames
    except MissingObject:
        return None, "the file is not to be found from here"
    except UserError:
        return None, "the file cannot be read from here"
    if len(frames) == 0:
        return None, "no frame could be decoded for this page"
    return small_webp(frames[len(frames) // 2], side=FRAME_SIDE, most_bytes=FRAME_BYTES), ""
