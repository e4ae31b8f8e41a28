"""Time and money of large runs, from unit costs that other commands measured; every input can be changed.

    python -m benchmarks.noop_pipeline --out noop.json
    python -m benchmarks.crops_memory --out memory.json
    python -m benchmarks.scale --noop noop.json --memory memory.json [--videos 128000] [--gigabytes 470] [--trials 200] [--cpu-hour-price 0.045] ...

Extraction on C CPUs takes the longer of its work, videos x seconds / C, and of what the one driver does for it, videos x its
seconds and its fixed part. Training and search are counted in images. Prices are the reader's: the defaults are assumptions, no quotations.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.noop_pipeline import slope
from robust.config import Config
from robust.config_file import parse
from robust.data.crops import ENCODED_LIMIT
from robust.data.shard_plan import crop_bytes, videos_of_a_shard

CPUS = (16, 128, 1000, 16_000)
"""Of the cluster; the last: 1 000 nodes of 16."""
READ, WRITE = ("GET video", "GET run", "HEAD video", "HEAD run"), ("LIST", "PUT run", "POST run", "DELETE run")
"""How stores bill requests."""


def extraction(noop: dict, videos: int, work_s: float) -> list[dict]:
    """One row a size of cluster."""
    each, fixed, _ = slope(noop["ray"])
    rows = []
    for cpus in CPUS:
        work_h, driver_h = videos * work_s / cpus / 3600, (fixed + videos * each) / 3600
        rows.append({"cpus": cpus, "work_h": work_h, "driver_h": driver_h, "hours": max(work_h, driver_h),
                     "first": "the driver" if driver_h > work_h else "the work"})
    return rows


def requests_of(noop: dict, videos: int) -> dict[str, float]:
    """Requests of one extraction, by kind, from the larger of the counted sizes and what a worker asks for a video."""
    counted = max(noop["requests"], key=lambda one: one["rows"])
    sent: dict[str, float] = {}
    for kinds in (*counted["requests"].values(), {kind: number * counted["rows"] for kind, number in noop["others"]["video"].items()}):
        for kind, number in kinds.items():
            sent[kind] = sent.get(kind, 0) + number * videos / counted["rows"]
    return sent


def training(config: Config, videos: int, trials: int) -> dict:
    """Images of the two models and of a search that stops no trial early, and the bytes that a worker reads."""
    splits, frames = config.data.splits, config.extract.frames_train
    share = (1 - splits.test_fraction) * (1 - splits.val_fraction)
    crops = share * videos * frames
    return {"crops": crops, "bytes": crops * crop_bytes(config.extract), "all_bytes": videos * frames * crop_bytes(config.extract),
            "images": {"baseline": crops * config.train.baseline.epochs, "defended": crops * config.train.defended.epochs,
                       f"search of {trials}": crops * config.tune.epochs * trials}}


def told(arguments: argparse.Namespace, noop: dict, memory: Sequence[dict], config: Config) -> str:
    work_s = arguments.work_s or noop["work_s"]
    each, fixed, _ = slope(noop["ray"])
    lines = [f"EXTRACTION of {arguments.videos} videos, {arguments.gigabytes:g} GB: {work_s:.2f} s of CPU a video, driver {1e3 * each:.2f} ms a video and {fixed:.1f} s once",
             f"{'CPUs':>8}{'work, h':>10}{'driver, h':>11}{'hours':>8}{'money':>8}   gives way first"]
    for row in extraction(noop, arguments.videos, work_s):
        money = row["hours"] * row["cpus"] * arguments.cpu_hour_price
        lines.append(f"{row['cpus']:>8}{row['work_h']:>10.2f}{row['driver_h']:>11.2f}{row['hours']:>8.2f}{money:>8.0f}   {row['first']}")
    read_mb = 1e3 * arguments.gigabytes / arguments.videos / work_s
    lines.append(f"one driver keeps {work_s / each:.0f} CPUs busy; a CPU reads {read_mb:.2f} MB/s, {CPUS[-1]} of them {read_mb * CPUS[-1] / 1e3:.1f} GB/s")
    sent = requests_of(noop, arguments.videos)
    money = sum(number * (arguments.get_price if kind in READ else arguments.put_price) for kind, number in sent.items()) / 1e6
    lines.append("requests: " + ", ".join(f"{number:.0f} {kind}" for kind, number in sorted(sent.items())) + f"; money {money:.2f}")
    made = training(config, arguments.videos, arguments.trials)
    shards = arguments.videos / videos_of_a_shard(config.extract)
    lines.append(f"crops: at most {made['all_bytes'] / 1e9:.0f} GB in {shards:.0f} shards, {made['all_bytes'] / 1e9 * arguments.gigabyte_month_price:.0f} a month")
    biggest = max(noop["ray"], key=lambda one: one["rows"])
    lines.append("memory of the head with " + f"{biggest['rows']} videos: driver {biggest['most_mib']['driver']:.0f} MiB, GCS {biggest['most_mib']['gcs_server']:.0f} MiB")

    times = max(one["taken_bytes"] / one["image_bytes"] for one in memory)
    kept = "keeps them in a file on its disk" if made["bytes"] > ENCODED_LIMIT else f"holds {times * made['bytes'] / 1e9:.0f} GB ({times:.2f} times, the most measured)"
    lines += ["", f"TRAINING on {made['crops']:.0f} crops: a worker reads {made['bytes'] / 1e9:.0f} GB and {kept}"]
    for name, images in made["images"].items():
        speed = f", {images / arguments.gpu_images_s / 3600:.0f} GPU-hours, money {images / arguments.gpu_images_s / 3600 * arguments.gpu_hour_price:.0f}" if arguments.gpu_images_s else ""
        lines.append(f"{name}: {images / 1e6:.1f} million images, {images * arguments.train_cpu_s / 3600:.0f} CPU-hours{speed}")
    lines.append(f"the search reads {arguments.trials * made['bytes'] / 1e12:.1f} TB: each trial its crops")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--noop", type=Path, required=True, help="what benchmarks.noop_pipeline --out wrote")
    parser.add_argument("--memory", type=Path, required=True, help="what benchmarks.crops_memory --out wrote")
    parser.add_argument("--videos", type=int, default=128_000)
    parser.add_argument("--gigabytes", type=float, default=470, help="of the videos; default: %(default)s, as DFDC")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--frames", type=int, help="extract.frames_train; default: the configuration's")
    parser.add_argument("--image-format", help="extract.image_format; default: the configuration's")
    parser.add_argument("--work-s", type=float, help="CPU seconds of a video; default: what noop_pipeline measured")
    parser.add_argument("--train-cpu-s", type=float, default=4.9, help="CPU seconds of an image in the default recipe; default: %(default)s (docs/training.md)")
    parser.add_argument("--gpu-images-s", type=float, help="images a second of one GPU, from a run of yours: no figure of a GPU is known here")
    parser.add_argument("--cpu-hour-price", type=float, default=0.045, help="of one CPU; default: %(default)s")
    parser.add_argument("--gpu-hour-price", type=float, default=1.3, help="of one GPU's machine; default: %(default)s")
    parser.add_argument("--get-price", type=float, default=0.4, help="of a million GET and HEAD; default: %(default)s")
    parser.add_argument("--put-price", type=float, default=5.0, help="of a million PUT and LIST; default: %(default)s")
    parser.add_argument("--gigabyte-month-price", type=float, default=0.023, help="of storage; default: %(default)s")
    arguments = parser.parse_args(argv)
    extract = {"frames_train": arguments.frames, "image_format": arguments.image_format}
    config = parse({"extract": {name: value for name, value in extract.items() if value is not None}})
    noop, memory = (json.loads(path.read_text()) for path in (arguments.noop, arguments.memory))
    print(told(arguments, noop, memory, config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
