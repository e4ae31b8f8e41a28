"""Videos to face-crop shards: `python -m jobs.extract [--config F] [section.key=value ...]`.

    rows -> decode -> detect, follow, crop, encode -> write -> status rows

Detection on GPUs is an actor pool fed by decoding tasks on CPUs; without GPUs each actor decodes for itself, so that no
raw frame leaves its process. Running the job again does only what is missing. What a video yields is decided in
robust/data/extraction.py, what a shard holds in robust/data/shard_plan.py; here is how the work is spread.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
import ray
import ray.data

from jobs import telemetry
from jobs.cli import run_job
from jobs.demo_data import make_demo_data
from jobs.extract_stages import Decode, DecodeAndDetect, Detect, Write, plan_table, tasks_of
from jobs.progress import Progress
from robust.config import Config, ExtractConfig, fingerprint
from robust.data.dataset import Dataset, load_dataset
from robust.data.rows import VideoRow
from robust.data.shard_plan import ShardPlan, plan_shards, stale_shards
from robust.data.shards import STATUSES, delete_shard, read_status
from robust.errors import UserError
from robust.storage import Storage

VIDEOS_OF_A_TASK = 16
"""At most so many, that a lost task costs little; fewer in small sets, so that every CPU has TASKS_OF_A_CPU."""
TASKS_OF_A_CPU = 8
WRITE_CPUS = 0.1
"""Of a writing task, which mostly waits for the storage; actors on CPUs leave that much free."""


def extract(config: Config, storage: Storage) -> dict:
    """Extracts every configured video that has no crops yet; returns what result.json holds.

    Raises:
        UserError: a data set or the storage cannot be reached, or the cluster is too small for the settings.
    """
    if config.data.demo.enabled:
        make_demo_data(config)
    dataset = load_dataset(
        config.data, storage=config.storage, seed=config.run.seed, fakes_needed=config.train.self_blend.share < 1
    )
    rows = [row for row in dataset.rows if row.split != "excluded"]
    settings = fingerprint(config, ["extract"])
    anew = take_back_stale(storage, config.run.name, rows, settings)
    done = set(read_status(storage, config.run.name).column("video_id").to_pylist())
    missing = [row for row in rows if row.video_id not in done]
    plans = plan_shards(missing, videos_per_shard=config.extract.videos_per_shard, fingerprint=settings)
    if plans:
        run_pipeline(plans, config, storage, settings)
    status = read_status(storage, config.run.name)
    require_complete(status, rows)
    return result_of(status, dataset, extracted=len(missing), anew=anew)


def take_back_stale(storage: Storage, run: str, rows: Sequence[VideoRow], settings: str) -> list[str]:
    """Deletes shards that no longer agree with the data sets; they are extracted anew. Returns a sentence for each."""
    stale = stale_shards(read_status(storage, run), rows, fingerprint=settings)
    for shard in stale:
        delete_shard(storage, run, shard)
    return [f"shard {shard} was taken back, its videos are done anew: {why}" for shard, why in sorted(stale.items())]


# ---------------------------------------------------------------------------------------------------- the pipeline


def run_pipeline(plans: Sequence[ShardPlan], config: Config, storage: Storage, settings: str) -> None:
    """Streams the planned videos through the cluster; only status rows come back, the crops are in storage."""
    cluster = ray.cluster_resources()
    cpus, gpus = cluster.get("CPU", 0), cluster.get("GPU", 0)
    actors = detector_actors(config.extract, cpus=cpus, gpus=gpus)
    total, per_shard = sum(len(plan.rows) for plan in plans), config.extract.videos_per_shard
    most = min(VIDEOS_OF_A_TASK, int(total / (TASKS_OF_A_CPU * cpus)))
    tasks = tasks_of(plan_table(plans, config.extract), videos_per_shard=per_shard, most=most)
    with _data_context(), Progress("extract", total=total, unit="videos",
                                  observe=telemetry.progress_of(config, "extract")) as progress:
        videos = ray.data.from_items(tasks, override_num_blocks=len(tasks))
        crops = _crops(videos, config, settings, actors)
        written = crops.map_batches(Write(storage, config.run.name), batch_size=per_shard, batch_format="pyarrow",
                                    zero_copy_batch=True, num_cpus=WRITE_CPUS)
        faces = 0
        for statuses in written.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            found = sum(statuses.column("frames_found").to_pylist())
            faces += found
            telemetry.videos_written(config.run.name, statuses.column("status").to_pylist(), found)
            progress.advance(len(statuses), note=f"{faces} faces")


def _crops(videos: ray.data.Dataset, config: Config, settings: str, actors: int) -> ray.data.Dataset:
    extract = config.extract
    arrow = dict(batch_size=None, batch_format="pyarrow", zero_copy_batch=True)
    pool = ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2)
    threads = max(1, int(extract.detect_cpus))
    if extract.detect_gpus == 0:
        return videos.map_batches(
            DecodeAndDetect, fn_constructor_args=(extract, config.storage, settings, threads),
            num_cpus=extract.detect_cpus * (1 - WRITE_CPUS), compute=pool, **arrow)
    decoded = videos.map_batches(Decode(extract, config.storage), num_cpus=extract.decode_cpus, **arrow)
    return decoded.map_batches(
        Detect, fn_constructor_args=(extract, settings, threads),
        num_cpus=extract.detect_cpus, num_gpus=extract.detect_gpus, compute=pool, **arrow)


def detector_actors(extract: ExtractConfig, *, cpus: float, gpus: float) -> int:
    """Actors that detect faces: as configured, or as many as the cluster has room for.

    Raises:
        UserError: the cluster has less than they need: Ray would wait for it without end.
    """
    on_gpu = extract.detect_gpus > 0
    room = int(cpus // extract.detect_cpus) if not on_gpu else int(gpus // extract.detect_gpus)
    actors = extract.detect_actors or max(room, 1)
    needed_cpus = actors * extract.detect_cpus + (extract.decode_cpus + WRITE_CPUS if on_gpu else 0)
    needed_gpus = actors * extract.detect_gpus
    if needed_cpus > cpus or needed_gpus > gpus:
        raise UserError(
            f"extraction with extract.detect_actors={actors} needs {needed_cpus:g} CPUs and {needed_gpus:g} GPUs, "
            f"the cluster has {cpus:g} and {gpus:g}; lower extract.detect_actors, detect_cpus, detect_gpus or "
            "decode_cpus, or join a larger cluster")
    return actors


@contextlib.contextmanager
def _data_context() -> Iterator[None]:
    """Settings of Ray Data for this job alone: quiet, in order, and a lost block is an error."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    bars, errors, level = context.enable_progress_bars, context.max_errored_blocks, logger.level
    order = context.execution_options.preserve_order
    context.enable_progress_bars, context.max_errored_blocks = False, 0
    context.execution_options.preserve_order = True
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.max_errored_blocks = bars, errors
        context.execution_options.preserve_order = order
        logger.setLevel(level)


# ---------------------------------------------------------------------------------------------------- the result


def require_complete(status: pa.Table, rows: Sequence[VideoRow]) -> None:
    """Videos in = status rows out, always."""
    known = set(status.column("video_id").to_pylist())
    lost = [row.video_id for row in rows if row.video_id not in known]
    if lost:
        raise UserError(f"{len(lost)} of {len(rows)} videos have no status row, e.g. {lost[0]}; run jobs.extract again")


def result_of(status: pa.Table, dataset: Dataset, *, extracted: int, anew: list[str]) -> dict:
    """Counts, and every video that is not ok with its reason."""
    columns = ["video_id", "dataset", "method", "label", "split", "status", "reason", "frames_found"]
    records = status.select(columns).to_pylist()
    by_status = Counter(record["status"] for record in records)
    not_ok = [[one["video_id"], one["status"], one["reason"]] for one in records if one["status"] != "ok"]
    faces = sum(record["frames_found"] for record in records)
    problems = dict(dataset.problems)
    if anew:
        problems["extraction"] = anew
    return {
        "summary": f"{len(records)} videos ({extracted} of them now), {faces} faces, {len(not_ok)} videos not ok",
        "videos": len(records),
        "extracted_now": extracted,
        "faces": faces,
        "by_status": {name: by_status[name] for name in STATUSES},
        "by_group": _by_group(records),
        "not_ok": not_ok,
        "excluded": sorted(row.video_id for row in dataset.rows if row.split == "excluded"),
        "splits": dataset.split_report,
        "problems": problems,
    }


def _by_group(records: list[dict]) -> list[dict]:
    """Videos and faces of every (data set, split, label, method)."""
    keys = ("dataset", "split", "label", "method")
    groups: dict[tuple, dict] = {}
    for record in records:
        key = tuple(record[name] for name in keys)
        group = groups.setdefault(key, {**dict(zip(keys, key)), "videos": 0, "with_faces": 0, "faces": 0})
        group["videos"] += 1
        group["with_faces"] += record["frames_found"] > 0
        group["faces"] += record["frames_found"]
    return [groups[key] for key in sorted(groups, key=lambda key: tuple(map(str, key)))]


if __name__ == "__main__":
    from jobs.extract import extract as main  # by its module's name: Ray's workers cannot import from __main__

    sys.exit(run_job("extract", main))
