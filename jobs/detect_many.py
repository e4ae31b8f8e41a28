"""Verdicts for all videos below a folder or bucket prefix: `python -m jobs.detect_many detect.input=s3://bucket/prefix`.

    listing -> decode -> find faces, judge -> write -> counts

Face detection and the model share an actor; on GPUs decoding tasks on CPUs feed it, without GPUs each actor decodes for
itself, so that no raw frame leaves its process. Running the job again judges only what is new or has changed
(docs/detection.md). A verdict is that of jobs.detect; what a shard holds is in robust/verdict_shards.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from cluster.demands import WRITE_CPUS, demand_of
from jobs import telemetry
from jobs.actor_pool import Pool, data_context
from jobs.cli import run_job
from jobs.detect import checkpoint_facts, find_checkpoint
from jobs.detect_stages import (
    DecodeAndJudge,
    DecodeVideos,
    Detection,
    JudgeVideos,
    WriteVerdicts,
    plan_tasks,
    weights_sha256,
)
from jobs.progress import Progress
from jobs.room import require_room
from jobs.run_folder import RunFolder
from jobs.video_tasks import videos_of_a_task
from robust.config import Config
from robust.config_identity import science
from robust.data.video_listing import Listing, sort_out
from robust.detection import VIDEO, crop_differences, thresholds_of
from robust.detection_summary import counts_of, most_suspicious, table
from robust.errors import ConfigError, UserError
from robust.models.checkpoint import CARD
from robust.storage import MissingObject, Storage, find_input
from robust.verdict_shards import FACTS, SKIPPED, Comparison, compare, list_shards, read_verdicts, write_stale

VIDEOS_OF_A_TASK = 64
"""At most so many; a lost task costs minutes."""
OF_EXTRACTION_ALONE = ("frames_train", "frames_test", "videos_per_shard")
"""Settings of `extract` that decide nothing here."""


def main(config: Config, storage: Storage) -> dict:
    result = detect_many(config, storage)
    print(table(result), flush=True)
    return result


def detect_many(config: Config, storage: Storage) -> dict:
    """Judges every video of detect.input that has no verdict of this model, or one of another file; returns the counts.

    Raises:
        ConfigError: detect.input is not set.
        UserError: no input, no video in it, no checkpoint, or the cluster is too small for the settings.
    """
    source = require_input(config)
    place, key = find_checkpoint(config, storage)
    card = read_card(place, key)
    warnings = crop_differences(card, config.extract)
    for warning in warnings:  # now, not after a million videos
        print(f"warning: {warning}", flush=True)
    detection = with_fingerprint(Detection(
        root=source.uri().rstrip("/"), place=place, key=key, sha256=weights_sha256(place, key),
        thresholds=thresholds_of(card, config.detect.threshold), frames=config.detect.frames, extract=config.extract,
        storage=config.storage, settings=""), card)
    folder = RunFolder(storage, config).key("detect_many", detection.settings)
    listing = list_input(config, source, storage)
    shards = list_shards(storage, folder)
    known = set(shards)
    rows = read_verdicts(storage, folder, shards=shards, columns=FACTS)
    before = compare(listing.videos, rows)
    write_about(storage, folder, config, detection, card)
    storage.write_table(f"{folder}/{SKIPPED}", listing.skipped)
    write_stale(storage, folder, before.stale)
    after = before
    if len(before.missing):
        run_pipeline(before.missing, detection, known, config, storage, folder)
        added = [shard for shard in list_shards(storage, folder) if shard not in known]
        rows = pa.concat_tables([rows, read_verdicts(storage, folder, shards=added, columns=FACTS)])
        after = compare(listing.videos, rows, with_vanished=True)
        require_complete(after, storage, folder)
        write_stale(storage, folder, after.stale)
    result = {**result_of(after, listing, storage.uri(folder), judged=len(before.missing)),
              "checkpoint": {"uri": place.uri(key), **checkpoint_facts(card), "sha256": detection.sha256},
              "thresholds": {VIDEO: dataclasses.asdict(detection.thresholds[VIDEO])},
              "warnings": warnings}
    storage.write_json(f"{folder}/result.json", result)
    return result


# ---------------------------------------------------------------------------------------------------- what to judge


def require_input(config: Config) -> Storage:
    """detect.input as a Storage, which is only read.

    Raises:
        ConfigError: it is not set.
        UserError: there is nothing there.
    """
    uri = config.detect.input
    if uri is None:
        raise ConfigError(
            "detect.input: give a folder of videos or a bucket prefix, as in detect.input=s3://bucket/videos")
    source = Storage.from_config(config.storage.model_copy(update={"uri": uri}))
    try:
        _, found = find_input(uri, config.storage)
    except MissingObject as error:
        raise UserError(f"detect.input: {error}") from None
    if found.is_file:
        raise UserError(f"detect.input: {uri} is one file; python -m jobs.detect judges it")
    return source


def list_input(config: Config, source: Storage, storage: Storage) -> Listing:
    """Everything below detect.input, but what this run writes there itself.

    Raises:
        UserError: there is no video.
    """
    run, root = storage.uri(config.run.name), source.uri().rstrip("/")
    own = run.removeprefix(f"{root}/") if run.startswith(f"{root}/") else None
    with Progress("detect_many: list", unit="files") as progress:
        listing = sort_out(source.scan(), own=own, told=progress.advance)
    if len(listing.videos) == 0:
        raise UserError(f"detect.input: no video in {root} ({len(listing.skipped)} other files)")
    return listing


def read_card(place: Storage, key: str) -> dict:
    try:
        return place.read_json(f"{key}/{CARD}")
    except MissingObject as error:
        raise UserError(
            f"detect.checkpoint: {error} A checkpoint is a folder with model.safetensors and {CARD}.") from None


def with_fingerprint(detection: Detection, card: dict) -> Detection:
    """Fills in `settings`: a hash of the input's address and of everything that decides a verdict."""
    extract = {name: value for name, value in science(detection.extract).items() if name not in OF_EXTRACTION_ALONE}
    decides = {
        "schema": 1, "root": detection.root, "model": detection.sha256, "architecture": card.get("architecture"),
        "threshold": detection.thresholds[VIDEO].logit, "frames": detection.frames, "extract": extract}
    text = json.dumps(decides, sort_keys=True)
    return dataclasses.replace(detection, settings=hashlib.sha256(text.encode()).hexdigest()[:16])


def write_about(storage: Storage, folder: str, config: Config, detection: Detection, card: dict) -> None:
    """What the folder's verdicts were given with, for people; its name is a hash of that."""
    storage.write_json(f"{folder}/about.json", {
        "input": detection.root,
        "checkpoint": {"uri": detection.place.uri(detection.key), **checkpoint_facts(card), "sha256": detection.sha256},
        "threshold": dataclasses.asdict(detection.thresholds[VIDEO]),
        "settings": {"frames": detection.frames, "extract": science(config.extract)},
        "fingerprint": detection.settings})


# ---------------------------------------------------------------------------------------------------- the pipeline


def run_pipeline(
    missing: pa.Table, detection: Detection, taken: set[str], config: Config, storage: Storage, folder: str
) -> None:
    """Streams the videos through the cluster; only statuses and verdicts come back, the rows are in storage."""
    detect, run = config.detect, config.run.name
    nodes, pool = require_room(config, "detect_many"), pool_of(config)
    actors = pool.size(nodes)
    most = videos_of_a_task(len(missing), sum(cpus for cpus, _ in nodes), limit=VIDEOS_OF_A_TASK)
    tasks = plan_tasks(missing, videos_per_shard=detect.videos_per_shard, most=most,
                       settings=detection.settings, taken=taken)
    with data_context(), Progress("detect_many", total=len(missing), unit="videos",
                                  observe=telemetry.progress_of(config, "detect_many")) as progress:
        videos = ray.data.from_items(tasks, override_num_blocks=len(tasks))
        del tasks  # they are in Ray's object store now
        judged = pool.work(videos, actors, decode=DecodeVideos(detection),
                           whole=(DecodeAndJudge, (detection, "cpu", pool.threads)),
                           rest=(JudgeVideos, (detection, "cuda", pool.threads)))
        written = judged.map_batches(WriteVerdicts(storage, folder, run), batch_size=detect.videos_per_shard,
                                     batch_format="pyarrow", zero_copy_batch=True, num_cpus=WRITE_CPUS)
        fakes = 0
        for rows in written.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            fakes += telemetry.videos_judged(run, rows["verdict"].to_pylist())["fake"]
            progress.advance(len(rows), note=f"{fakes} fake")


def pool_of(config: Config) -> Pool:
    """Actors that find faces and judge them."""
    return Pool(demand_of(config, "detect_many"), config.detect.actors, config.extract.decode_cpus)


# ---------------------------------------------------------------------------------------------------- the result


def require_complete(after: Comparison, storage: Storage, folder: str) -> None:
    """Videos in = rows out, always."""
    if len(after.missing):
        raise UserError(f"{len(after.missing)} listed videos have no verdict in {storage.uri(folder)}, e.g. "
                        f"{after.missing['path'][0]}; run jobs.detect_many again")


def result_of(after: Comparison, listing: Listing, folder: str, *, judged: int) -> dict:
    """Counts of what is current, and where it lies."""
    counts = counts_of(after.current)
    told = ", ".join(f"{number} {name}" for name, number in counts["counts"].items())
    skipped = {one["values"]: one["counts"] for one in pc.value_counts(listing.skipped["reason"]).to_pylist()}
    stale = f"; {len(after.stale)} rows of changed or removed videos no longer count" if len(after.stale) else ""
    videos = f"{len(after.current)} videos ({judged} of them now)"
    return {
        "summary": f"{videos}: {told}; {len(listing.skipped)} other files{stale}. {folder}",
        "videos": len(after.current),
        "judged_now": judged,
        **counts,
        "skipped": dict(sorted(skipped.items())),
        "stale": len(after.stale),
        "most_suspicious": most_suspicious(after.current),
        "folder": folder,
    }


if __name__ == "__main__":
    # By its module's name: Ray's workers cannot import from __main__.
    from jobs.detect_many import main as job

    sys.exit(run_job("detect_many", job))
