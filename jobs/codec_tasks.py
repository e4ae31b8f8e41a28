"""The codec in the loop, on the cluster: attacked faces of test fakes put back into their videos, which are shared."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import nn

from jobs.block_tasks import measured
from jobs.candidates import Candidate
from jobs.run_folder import RunFolder
from robust.attacks.registry import NEEDS_SURROGATES
from robust.config import Config, ExtractConfig
from robust.data.decoder_process import DecodeLimits
from robust.data.extraction import decode_source, frames_wanted
from robust.data.face_table import read_shard
from robust.data.faces import FaceDetector, build_detector
from robust.data.rows import VideoRow
from robust.data.shards import status_key
from robust.errors import ConfigError, UserError
from robust.evaluation import blocks
from robust.evaluation.attack_block import Cell
from robust.evaluation.blocks import SPLIT, Block
from robust.evaluation.codec import LOSSLESS, Channel, Footage, Sharing, share_video
from robust.evaluation.codec_table import CODEC_SCHEMA, codec_figures
from robust.storage import Storage


def measure_codecs(
    config: Config, storage: Storage, candidates: Sequence[Candidate], status: pa.Table, attacks: Sequence[Cell], *,
    run: Callable,
) -> dict | None:
    """The figures for summary.json, or None if it is switched off; each logit stays in the run folder.

    Args:
        attacks: from `shared_attacks`; their epsilons are set by `evaluate.codec.epsilons`.
        run: run(config, storage, tasks, unit=...) does the tasks and returns when all are done.
    Raises:
        UserError: the test split has no fakes with a face, or a video is not there any more.
    """
    if not config.evaluate.codec.enabled:
        return None
    items = trials(config, attacks)
    rows = shared_rows(config, storage, candidates, status, items, run=run)
    storage.write_table(RunFolder(storage, config).key("evaluate", "codec.parquet"), rows)
    return codec_figures(rows, [candidate.name for candidate in candidates], items,
                         resamples=config.evaluate.bootstrap, seed=config.run.seed)


def shared_rows(
    config: Config, storage: Storage, candidates: Sequence[Candidate], status: pa.Table, items: Sequence[Sharing], *,
    run: Callable,
) -> pa.Table:
    """CODEC_SCHEMA: the logits of every shared crop, those that are missing computed first; `run` as of measure_codecs."""
    settings = config.evaluate.codec
    plan = blocks.plan_blocks(some_fakes(status, settings.videos, seed=config.run.seed), split=SPLIT,
                              block_size=config.evaluate.block_size, max_frames=settings.frames_per_video)
    if not plan:
        raise UserError(f"the {SPLIT} split has no fakes with a face to share; set evaluate.codec.enabled=false")
    results = measured(config, storage, candidates, plan, share_crops, items, read=read_boxes, run=run, unit="shared crops")
    rows = pa.concat_tables(
        blocks.named(result, CODEC_SCHEMA, model=candidate.name, attack=item.cell.attack, epsilon=item.cell.epsilon)
        for candidate, item, result in results)
    return rows.sort_by([(name, "ascending") for name in CODEC_SCHEMA.names[:7]])


def shared_attacks(config: Config, headline: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """The attacks of `evaluate.codec.attacks`, or the headline's and, if the suite has it, EOT.

    Args:
        headline: the attack of the headline.
        cells: of the suite.
    Raises:
        ConfigError: one sees other models only.
    """
    of_suite = {cell.attack: cell for cell in cells}
    if config.evaluate.codec.attacks is None:
        return [headline, *(of_suite[name] for name in ("eot",) if name in of_suite and name != headline.attack)]
    names = list(dict.fromkeys(config.evaluate.codec.attacks))
    if blind := NEEDS_SURROGATES.intersection(names):
        raise ConfigError(f"evaluate.codec.attacks: {', '.join(sorted(blind))} sees other models only; "
                          "name attacks that see the model")
    return [of_suite[name] for name in names]


def trials(config: Config, attacks: Sequence[Cell]) -> list[Sharing]:
    """Each attack at each epsilon, with all channels."""
    settings = config.evaluate.codec
    channels = (LOSSLESS, *(Channel("h264", crf) for crf in sorted(set(settings.crf))),
                *(Channel("jpeg", quality) for quality in sorted(set(settings.jpeg_quality), reverse=True)))
    return [Sharing(dataclasses.replace(cell, epsilon=epsilon), channels)
            for cell in attacks for epsilon in sorted(set(settings.epsilons))]


def some_fakes(status: pa.Table, count: int | None, *, seed: int) -> pa.Table:
    """At most so many fakes of the test split that have a face, drawn by a hash of their ids."""
    fakes = status.filter((pc.field("split") == SPLIT) & (pc.field("label") == 1) & (pc.field("frames_found") > 0))
    drawn = [hashlib.sha256(f"{seed} {video_id}".encode()).digest() for video_id in fakes.column("video_id").to_pylist()]
    order = sorted(range(len(fakes)), key=drawn.__getitem__)
    return fakes.take(pa.array(sorted(order[:count]), pa.int64()))


def read_boxes(config: Config, storage: Storage, block: Block, model: nn.Module) -> tuple[pa.Table, None]:
    """The crops of a block without their pixels, but with their boxes and where their videos lie."""
    run = config.run.name
    crops = read_shard(storage, run, block.shard, block.video_ids, columns=(*blocks.RESULT_COLUMNS, "box"),
                       max_frames_per_video=config.evaluate.codec.frames_per_video, subject_only=True)
    crops = crops.sort_by([("video_id", "ascending"), ("frame_index", "ascending")])
    status = storage.read_table(status_key(run, block.shard)).to_pylist()
    source = {row["video_id"]: (row["uri"], row["source_bytes"]) for row in status}
    of_crop = [source[video_id] for video_id in crops.column("video_id").to_pylist()]
    crops = crops.append_column("uri", pa.array([uri for uri, _ in of_crop], pa.string()))
    return crops.append_column("source_bytes", pa.array([size for _, size in of_crop], pa.int64())), None


def share_crops(model: nn.Module, crops: pa.Table, _: None, item: Sharing, config: Config, device: str) -> pa.Table:
    """The logits of a block's crops after attack and sharing, one row a crop and channel."""
    cv2.setNumThreads(max(1, int(config.evaluate.cpus_per_task)))
    detector, kept = _detector(config.extract, device), []
    for rows in _by_video(crops.to_pylist()):
        footage = _footage(config, rows)
        facts = {name: rows[0][name] for name in ("video_id", "method", "identities")}
        for one in share_video(model, footage, item, detector, config.extract, seed=config.run.seed, device=device):
            kept.append({**facts, "frame_index": one.frame_index, "codec": one.channel.codec, "quality": one.channel.quality,
                         "clean": one.clean, "adversarial": one.adversarial})
    return pa.Table.from_pylist(kept, schema=pa.schema([field for field in CODEC_SCHEMA if field.name in kept[0]]))


@functools.lru_cache(maxsize=1)
def _detector(extract: ExtractConfig, device: str) -> FaceDetector:
    return build_detector(extract, device=device)


def _by_video(rows: Sequence[dict]) -> Iterator[list[dict]]:
    """The rows of each video; they come ordered by it."""
    for _, group in itertools.groupby(rows, key=lambda row: row["video_id"]):
        yield list(group)


def _footage(config: Config, rows: Sequence[dict]) -> Footage:
    """The frames of a video that its crops were cut from.

    Raises:
        UserError: the file is gone or not the one that was extracted.
    """
    first = rows[0]
    video = VideoRow(first["video_id"], first["uri"], first["label"], first["video_id"].split("/")[0], first["method"],
                     tuple(first["identities"]), SPLIT)
    decoded, source = decode_source(video, count=frames_wanted(video, config.extract), storage_config=config.storage,
                                    limits=DecodeLimits.of(config.extract))
    place = {int(index): number for number, index in enumerate(decoded.indices)}
    indices = tuple(row["frame_index"] for row in rows)
    changed = source is not None and first["source_bytes"] not in (None, source.size)
    if changed or not place.keys() >= set(indices):
        why = "is not the file that was extracted" if changed else decoded.reason or "has other frames than when it was extracted"
        raise UserError(f"evaluate.codec needs the video of {video.video_id}, but {video.uri} {why}; put it back, extract it again, "
                        "or set evaluate.codec.enabled=false")
    boxes = np.array([row["box"] for row in rows], np.float32)
    return Footage(video, decoded.frames[[place[index] for index in indices]], indices, boxes)
