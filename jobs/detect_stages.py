"""The stages of jobs.detect_many as Ray Data runs them: Arrow tables with one row a video."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import cv2
import pyarrow as pa

from jobs import telemetry
from jobs.extract_stages import decoded_of, frames_record, only_shard, with_frames
from jobs.video_tasks import rows_of, tasks_of
from robust.config import ExtractConfig, StorageConfig
from robust.data.decoder_process import DecodeLimits, shared_decoder
from robust.data.extraction import Source, decode_source
from robust.data.faces import build_detector
from robust.data.video import DecodedVideo
from robust.data.video_listing import VIDEO_SCHEMA
from robust.detection import VIDEO, Examiner, Threshold, video_row
from robust.errors import UserError
from robust.models.checkpoint import WEIGHTS, load_checkpoint
from robust.storage import Storage
from robust.verdict_shards import VERDICT_SCHEMA, plan_key, verdict_row, write_verdicts

TASK_SCHEMA = pa.schema([*VIDEO_SCHEMA, ("shard", pa.string()), ("shard_videos", pa.int32())])
JUDGED_SCHEMA = pa.schema([*VERDICT_SCHEMA, ("shard_videos", pa.int32())])


@dataclasses.dataclass(frozen=True)
class Detection:
    """Everything that decides a verdict; small, as it goes to every worker.

    Args:
        root: what paths are relative to.
        place, key: the checkpoint's; sha256: of its weights.
        thresholds: of `robust.detection.thresholds_of`.
        frames: sampled frames of a video.
        settings: fingerprint of all this, kept in each row.
    """

    root: str
    place: Storage
    key: str
    sha256: str
    thresholds: dict[str, Threshold]
    frames: int
    extract: ExtractConfig
    storage: StorageConfig
    settings: str

    def uri(self, path: str) -> str:
        return f"{self.root}/{path}"

    def examiner(self, *, device: str, threads: int) -> Examiner:
        """Raises: UserError: the checkpoint is another one by now."""
        model, _ = load_checkpoint(self.place, self.key, sha256=self.sha256)
        detector = build_detector(self.extract, device=device, threads=threads)
        return Examiner(model.to(device), self.thresholds, self.extract, self.frames, detector, self.storage)


def weights_sha256(place: Storage, key: str) -> str:
    return hashlib.sha256(place.read_bytes(f"{key}/{WEIGHTS}")).hexdigest()


# ---------------------------------------------------------------------------------------------------- the input


def plan_tasks(
    missing: pa.Table, *, videos_per_shard: int, most: int, settings: str, taken: set[str]
) -> list[dict]:
    """The videos in order, cut into shards and these into tasks of TASK_SCHEMA (jobs/video_tasks.py).

    Args:
        missing: VIDEO_SCHEMA, sorted by path.
        most: videos of a task.
        taken: names of shards that are there already.
    """
    tasks = []
    for start in range(0, len(missing), videos_per_shard):
        videos = missing.slice(start, videos_per_shard)
        shard = pa.repeat(plan_key(videos, settings, taken), len(videos))
        count = pa.repeat(pa.scalar(len(videos), pa.int32()), len(videos))
        table = pa.table([*videos.columns, shard, count], schema=TASK_SCHEMA)
        tasks += tasks_of(table, videos_per_shard=videos_per_shard, most=most)
    return tasks


# ---------------------------------------------------------------------------------------------------- the work


class DecodeVideos:
    """Tasks -> TASK_SCHEMA with frames, one video at a time: raw frames are large. Feeds actors on GPUs."""

    def __init__(self, detection: Detection):
        self.detection = detection

    def __call__(self, tasks: pa.Table) -> Iterator[pa.Table]:
        cv2.setNumThreads(1)
        for video in rows_of(tasks):
            yield with_frames(video, frames_record(*_decode(self.detection, video)))


class JudgeVideos:
    """TASK_SCHEMA with frames -> JUDGED_SCHEMA; face detector and model are loaded once an actor."""

    def __init__(self, detection: Detection, device: str, threads: int):
        import torch  # not above: decoding and writing do without, and start sooner

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        self.detection, self.failure = detection, None
        try:
            self.examiner = detection.examiner(device=device, threads=threads)
        except UserError as error:  # of what a constructor raises, Ray keeps the text alone; `judge` tells it
            self.failure = error

    def __call__(self, videos: pa.Table) -> Iterator[pa.Table]:
        for number in range(len(videos)):
            video = videos.slice(number, 1)
            yield self.judge(video, *decoded_of(video))

    def judge(self, video: pa.Table, decoded: DecodedVideo, source: Source | None) -> pa.Table:
        """JUDGED_SCHEMA of one video, with the listing's version: the next run finds a file that changed since."""
        if self.failure is not None:
            raise self.failure
        (task,) = video.select(TASK_SCHEMA.names).to_pylist()
        verdict = self.examiner.judge(task["path"], self.detection.uri(task["path"]), VIDEO, decoded, source).verdict
        size, version = (task["size"], task["version"]) if source else (None, None)
        row = verdict_row(verdict, size=size, version=version, model=self.detection.sha256,
                          settings=self.detection.settings, shard=task["shard"])
        return pa.Table.from_pylist([{**row, "shard_videos": task["shard_videos"]}], schema=JUDGED_SCHEMA)


class DecodeAndJudge(JudgeVideos):
    """Tasks -> JUDGED_SCHEMA in one process: without a GPU to feed, frames need not travel."""

    def __init__(self, detection: Detection, device: str, threads: int):
        shared_decoder(DecodeLimits.of(detection.extract)).start()  # it comes up while the models are loaded
        super().__init__(detection, device, threads)

    def __call__(self, tasks: pa.Table) -> Iterator[pa.Table]:
        for video in rows_of(tasks):
            yield self.judge(video, *_decode(self.detection, video))


def _decode(detection: Detection, video: pa.Table) -> tuple[DecodedVideo, Source | None]:
    path = video.column("path")[0].as_py()
    return decode_source(video_row(path, detection.uri(path)), count=detection.frames,
                         storage_config=detection.storage, limits=DecodeLimits.of(detection.extract))


class WriteVerdicts:
    """JUDGED_SCHEMA of exactly one shard -> what progress shows of it, after it is in storage."""

    def __init__(self, storage: Storage, folder: str, run: str):
        self.storage, self.folder, self.run = storage, folder, run

    def __call__(self, rows: pa.Table) -> pa.Table:
        shard = only_shard(rows.column("shard").to_pylist(), expected=rows.column("shard_videos").to_pylist())
        telemetry.hear_storage(self.run)
        write_verdicts(self.storage, self.folder, shard, rows)
        return rows.select(["verdict"])
