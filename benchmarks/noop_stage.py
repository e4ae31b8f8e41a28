"""A stage of jobs.extract that decodes and detects nothing: each video has one made-up crop at once, or after a modelled time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pyarrow as pa

from jobs.extract_stages import CROPS_SCHEMA
from jobs.video_tasks import rows_of
from robust.data.quality import REASONS
from robust.data.rows import VideoRow, table_to_rows
from robust.data.tree import FoundFile

WORK_S = "NOOP_WORK_S"
"""In the environment of Ray's workers: seconds that a video takes, slept."""
IMAGE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000a49444154081d63000200000400010d3ba4b90000000049454e44ae426082")
"""A PNG of one pixel."""


def crops_and_status(row: VideoRow, fingerprint: str, file: FoundFile | None = None) -> tuple[dict, dict]:
    """A row of FACE_SCHEMA and one of STATUS_SCHEMA, as of an undamaged video with one face."""
    labels = {name: getattr(row, name) for name in ("video_id", "dataset", "method", "label", "split")}
    labels["identities"] = list(row.identities)
    face = {**labels, "frame_index": 0, "timestamp_s": 0.0, "box": [0.0, 0.0, 1.0, 1.0], "landmarks": [0.0] * 10, "window": [0, 0, 1, 1],
            "matrix": None, "score": 1.0, "sharpness": 1.0, "yaw": 0.0, "track": 0, "image": IMAGE, "height": 1, "width": 1}
    status = {**labels, "uri": row.uri, "status": "ok", "reason": "", "frames_asked": 1, "frames_decoded": 1, "frames_found": 1,
              "people": 1, "refused": dict.fromkeys(REASONS, 0), "shard": None, "source_bytes": file.size if file else None,
              "source_etag": file.version if file else None, "fingerprint": fingerprint}
    return face, status


class Nothing:
    """In the place of jobs.extract_stages.DecodeAndDetect."""

    def __init__(self, config, storage_config, settings: str, threads: int = 1, tell=None):
        self.settings, self.seconds = settings, float(os.environ.get(WORK_S, 0))

    def __call__(self, tasks: pa.Table) -> Iterator[pa.Table]:
        for plan in rows_of(tasks):
            faces, status = [], None
            if plan.column("video_id")[0].as_py():
                face, status = crops_and_status(table_to_rows(plan)[0], self.settings, FoundFile(1, None))
                faces = [face]
                time.sleep(self.seconds)
            shard = {name: plan.column(name)[0].as_py() for name in ("shard", "shard_videos")}
            yield pa.Table.from_pylist([{**shard, "faces": faces, "status": status}], schema=CROPS_SCHEMA)
