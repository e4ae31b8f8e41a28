"""Videos to face-crop shards: `python -m jobs.extract [--verify | --sheet | --remove-stale] [--config F] [KEY=VALUE ...]`.

    rows -> decode -> detect, follow, crop, encode -> write -> status rows

Detection on GPUs is an actor pool fed by decoding tasks on CPUs; without GPUs each actor decodes for itself, so that no
raw frame leaves its process. Running the job again does only what is missing or has changed (docs/extraction.md). What a
video yields is decided in robust/data/extraction.py, what a shard holds in robust/data/shard_plan.py; here is how the work
is spread. `--verify` is in jobs/extract_verify.py, the contact sheet in jobs/extract_sheet.py.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import ray
import ray.data

from cluster.demands import WRITE_CPUS, demand_of
from jobs import telemetry
from jobs.actor_pool import Pool, data_context
from jobs.cli import Variant, run_job
from jobs.demo_data import make_demo_data
from jobs.extract_sheet import keep_sheet
from jobs.extract_stages import Decode, DecodeAndDetect, Detect, Write, plan_table, rows_of_a_shard
from jobs.extract_tally import Watch
from jobs.progress import Progress
from jobs.room import require_room
from jobs.video_tasks import tasks_of, videos_of_a_task
from robust.config import Config
from robust.config_identity import fingerprint
from robust.data.dataset import Dataset, load_dataset
from robust.data.rows import VideoRow
from robust.data.shard_plan import ShardPlan, plan_shards, stale_rows, videos_of_a_shard
from robust.data.shards import STATUSES, Committed, plan_of, read_committed
from robust.data.stale import count_reasons, describe_stale, mark_stale, remove_stale
from robust.errors import UserError
from robust.storage import Storage

VIDEOS_OF_A_TASK = 16
"""At most so many."""
STALE = "extraction"
"""Under this name the result's problems tell what is stale."""
SHEET = "contact sheet"
"""And under this one why there is none."""
MOST_NOTES, NOTE_LENGTH = 12, 400
"""Of what is told of the data on the terminal; all is in result.json."""


def extract(config: Config, storage: Storage) -> dict:
    """Extracts every configured video that has no crops, or those of another file; returns what result.json holds.

    What no longer counts is marked and told, not removed.

    Raises:
        UserError: a data set or the storage cannot be reached, or the cluster is too small for the settings.
    """
    result, committed = _extract(config, storage)
    return _with_sheet(result, committed, config, storage)


def _extract(config: Config, storage: Storage) -> tuple[dict, Committed]:
    if config.data.demo.enabled:
        make_demo_data(config)
    dataset, rows = videos_of(config)
    run, settings = config.run.name, extraction_fingerprint(config)
    committed = read_committed(storage, run)
    stale = stale_rows(committed.table, rows, fingerprint=settings, files=dataset.files)
    committed = mark_stale(storage, run, committed, stale)
    done = set(committed.current().column("video_id").to_pylist())
    missing = [row for row in rows if row.video_id not in done]
    taken = {plan_of(shard) for shard in committed.table.column("shard").unique().to_pylist()}
    plans = plan_shards(missing, videos_per_shard=videos_of_a_shard(config.extract), fingerprint=settings,
                        files=dataset.files, taken=taken)
    if plans:
        run_pipeline(plans, config, storage, settings)
        committed = read_committed(storage, run)
    require_complete(committed.current(), rows)
    return result_of(committed, dataset, extracted=len(missing)), committed


def _with_sheet(result: dict, committed: Committed, config: Config, storage: Storage) -> dict:
    """After all that changes the table: the contact sheet is of it, and the notes are of what is left."""
    if told := keep_sheet(config, storage, committed):
        result["problems"][SHEET] = told
    for note in notes_of(result):
        print(f"extract: note: {note}", flush=True)
    return result


def videos_of(config: Config) -> tuple[Dataset, list[VideoRow]]:
    """The configured data sets, and the videos of them that are extracted."""
    dataset = load_dataset(
        config.data, storage=config.storage, seed=config.run.seed, fakes_needed=config.train.self_blend.share < 1
    )
    return dataset, [row for row in dataset.rows if row.split != "excluded"]


def extraction_fingerprint(config: Config) -> str:
    """Of everything that decides what a video's crops look like."""
    return fingerprint(config, ["extract"])


def extract_and_remove_stale(config: Config, storage: Storage) -> dict:
    """`--remove-stale`: extracts what is missing, then removes what no longer counts."""
    result, _ = _extract(config, storage)
    removed = remove_stale(storage, config.run.name)
    told = (f"{removed.rows} stale status rows removed ({removed.shards} shards gone, {removed.rewritten} rewritten), "
            f"{removed.leftovers} uncommitted objects removed")
    problems = {name: told for name, told in result["problems"].items() if name != STALE}
    result = {**result, "stale": {}, "problems": problems, "removed": dataclasses.asdict(removed),
              "summary": f"{result['summary']}; {told}"}
    return _with_sheet(result, read_committed(storage, config.run.name), config, storage)


# ---------------------------------------------------------------------------------------------------- the pipeline


def run_pipeline(plans: Sequence[ShardPlan], config: Config, storage: Storage, settings: str) -> None:
    """Streams the planned videos through the cluster; only status rows come back, the crops are in storage."""
    nodes, pool = require_room(config, "extract"), pool_of(config)
    actors = pool.size(nodes)
    total = sum(len(plan.rows) for plan in plans)
    per_shard = rows_of_a_shard(plans, most=videos_of_a_shard(config.extract))
    most = videos_of_a_task(total, sum(cpus for cpus, _ in nodes), limit=VIDEOS_OF_A_TASK)
    tasks = tasks_of(plan_table(plans, per_shard), videos_per_shard=per_shard, most=most)
    watch = Watch(config.run.name, sum(cpus for cpus, _ in nodes))
    tell = watch.teller
    with data_context(), Progress("extract", total=total, unit="videos", poll=watch.poll,
                                  observe=telemetry.progress_of(config, "extract")):
        videos = ray.data.from_items(tasks, override_num_blocks=len(tasks))
        crops = pool.work(videos, actors, decode=Decode(config.extract, config.storage, tell),
                          whole=(DecodeAndDetect, (config.extract, config.storage, settings, pool.threads, tell)),
                          rest=(Detect, (config.extract, settings, pool.threads, tell)))
        written = crops.map_batches(Write(storage, config.run.name, tell), batch_size=per_shard, batch_format="pyarrow",
                                    zero_copy_batch=True, num_cpus=WRITE_CPUS)
        for statuses in written.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            found = sum(statuses.column("frames_found").to_pylist())
            telemetry.videos_written(config.run.name, statuses.column("status").to_pylist(), found)
            watch.written += len(statuses)


def pool_of(config: Config) -> Pool:
    """Actors that detect faces."""
    return Pool(demand_of(config, "extract"), config.extract.detect_actors, config.extract.decode_cpus)


# ---------------------------------------------------------------------------------------------------- the result


def require_complete(status: pa.Table, rows: Sequence[VideoRow]) -> None:
    """Videos in = status rows out, always."""
    known = set(status.column("video_id").to_pylist())
    lost = [row.video_id for row in rows if row.video_id not in known]
    if lost:
        raise UserError(f"{len(lost)} of {len(rows)} videos have no status row, e.g. {lost[0]}; run jobs.extract again")


def result_of(committed: Committed, dataset: Dataset, *, extracted: int) -> dict:
    """Counts, every video that is not ok with its reason, and what is stale."""
    status, stale = committed.current(), committed.stale
    columns = ["video_id", "dataset", "method", "label", "split", "status", "reason", "frames_found"]
    records = status.select(columns).to_pylist()
    by_status = Counter(record["status"] for record in records)
    not_ok = [[one["video_id"], one["status"], one["reason"]] for one in records if one["status"] != "ok"]
    faces = sum(record["frames_found"] for record in records)
    problems = dict(dataset.problems)
    if stale:
        problems[STALE] = describe_stale(stale)
    return {
        "summary": f"{len(records)} videos ({extracted} of them now), {faces} faces, {len(not_ok)} videos not ok"
                   + (f"; {len(stale)} stale status rows left in storage (see --remove-stale)" if stale else ""),
        "videos": len(records),
        "extracted_now": extracted,
        "faces": faces,
        "by_status": {name: by_status[name] for name in STATUSES},
        "by_group": _by_group(records),
        "stale": count_reasons(stale),
        "not_ok": not_ok,
        "excluded": sorted(row.video_id for row in dataset.rows if row.split == "excluded"),
        "splits": dataset.split_report,
        "problems": problems,
    }


def notes_of(result: dict) -> list[str]:
    """What people should know of their data before they believe a figure: few lines, each of some length at most."""
    notes = [f"splits: {told}" for told in result["splits"]["notes"]]
    if result["excluded"]:
        why = "; ".join(f"{reason} ({count})" for reason, count in result["splits"]["excluded"].items())
        notes.insert(0, f"splits: {len(result['excluded'])} videos are in no split and not extracted: {why}")
    notes += [f"{name}: {told}" for name, problems in result["problems"].items() if name != SHEET for told in problems]
    more = len(notes) - MOST_NOTES
    return [*(note if len(note) <= NOTE_LENGTH else f"{note[:NOTE_LENGTH]} ..." for note in notes[:MOST_NOTES]),
            *([f"and {more} more in result.json (problems, splits)"] if more > 0 else [])]


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
    # By their modules' names: Ray's workers cannot import from __main__.
    from jobs import extract_sheet, extract_verify
    from jobs.extract import extract as main
    from jobs.extract import extract_and_remove_stale as main_and_remove

    sys.exit(run_job("extract", main, variants={
        "verify": Variant(extract_verify.verify, "check every shard against its checksum, its table and the data set; "
                          "changes nothing, exit code 1 if something is wrong", writes=False),
        "sheet": Variant(extract_sheet.make_sheet, "make the contact sheet anew (faces/sheet.html); extracts nothing",
                         writes=False, needs_ray=False),
        "remove-stale": Variant(main_and_remove, "also remove crops that no longer count: of videos that changed or are gone"),
    }))
