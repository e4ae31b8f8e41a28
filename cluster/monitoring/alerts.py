"""Alert rules: what is wrong with a run or its cluster, and what to do; docs/monitoring.md shows the same list.

Ray keeps a counter when its process has ended, so a failure is seen although what failed is gone; it drops a gauge
20 s after (and Prometheus with it), so an alert on a gauge is about something that still runs. A counter begins at
its first event and not at 0: `increase` would miss that one, so new events are counted by `_raised`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from robust.monitoring.metrics import BY_NAME


@dataclass(frozen=True)
class Alert:
    """One rule.

    Attributes:
        expr: PromQL; each result is one alert, its labels fill `says`.
        lasting: for so long before it fires.
        says: a sentence with `{{ $labels.x }}` and `{{ $value }}`.
        remedy: what to do.
    """

    name: str
    severity: str
    expr: str
    lasting: str
    says: str
    remedy: str


def _series(name: str) -> str:
    return BY_NAME[name].series


def _raised(name: str, window: str, *, by: str, where: str = "") -> str:
    """Events of a counter within the window, those before its first scrape too."""
    total = f"sum by ({by}) ({_series(name)}{where})"
    before = f"sum by ({by}) ({_series(name)}{where} offset {window})"
    return f"({total} - ({before} or {total} * 0))"


def _idle(window: str) -> str:
    """Runs of which no work was counted within the window: no image, crop, video, trial."""
    counters = "|".join(map(_series, ("train_images", "evaluate_crops", "extract_videos", "detect_videos", "tune_seconds")))
    moved = f'sum by (run) (increase({{__name__=~"{counters}"}}[{window}])) > 0'
    return f"max by (run, stage) ({_series('running')}) == 1 unless on (run) ({moved})"


_fell = (
    f"max by (run, model) (max_over_time({_series('validation_robust_auc')}[1d])) "
    f"- max by (run, model) ({_series('validation_robust_auc')}) > 0.15"
)

ALERTS = (
    Alert(
        "Stalled", "critical", _idle("30m"), "30m",
        "{{ $labels.stage }} of run {{ $labels.run }} runs, but counted no work for 30 minutes or longer.",
        "Look for tasks that wait for resources (`ray status`) and for a worker that hangs (`ray stack` on its node). "
        "Stop the job and submit it again: it goes on where it was. Blocks or gates that take an hour are no stall: "
        "raise the windows.",
    ),
    Alert(
        "LossNotFinite", "critical", _raised("train_nonfinite", "15m", by="run, model") + " > 0", "0m",
        "the training of {{ $labels.model }} in run {{ $labels.run }} stopped on a loss that is no finite number.",
        "Lower train.learning_rate or the epsilon, or set train.precision=float32; the job's last line names epoch, "
        "step and videos.",
    ),
    Alert(
        "CatastrophicOverfitting", "warning", _raised("train_collapses", "15m", by="run, model") + " > 0", "0m",
        "the single-step training of {{ $labels.model }} in run {{ $labels.run }} collapsed; the epoch was undone and "
        "PGD goes on from there.",
        "Nothing must be done, but epochs now cost as much as PGD's. To avoid it, lower epsilon or take recipe madry "
        "(training.md).",
    ),
    Alert(
        "RobustnessLost", "warning", _fell, "0m",
        "the robust validation AUC of {{ $labels.model }} in run {{ $labels.run }} is "
        '{{ $value | printf "%.2f" }} below its best of the last day.',
        "Robust overfitting or a collapse. train.select_by=robust_auc keeps the best checkpoint; stop the run if it "
        "does not recover within some epochs.",
    ),
    Alert(
        "WaitsForData", "warning", f"max by (run, model) ({_series('train_data_wait_share')}) > 0.5", "30m",
        "{{ $labels.model }} of run {{ $labels.run }} waits for data {{ $value | humanizePercentage }} of its time.",
        "Set train.loader_threads to 1 or more, give workers more CPUs (train.cpus_per_worker) or lower augment.level.",
    ),
    Alert(
        "BucketErrors", "warning", _raised("storage_retries", "5m", by="run") + " >= 10", "0m",
        "{{ $value }} requests to the bucket of run {{ $labels.run }} failed within 5 minutes; those that were tried "
        "again are counted.",
        "429 and 503: the bucket throttles, use fewer workers. Errors of connections: is the endpoint up? A request is "
        "tried storage.max_attempts times; a job that gave up goes on when it is submitted again.",
    ),
    Alert(
        "StageFailed", "critical", _raised("failures", "15m", by="run, stage, reason") + " > 0", "0m",
        "{{ $labels.stage }} of run {{ $labels.run }} ended with {{ $labels.reason }}.",
        "The job's last line says what to do. StorageError: the bucket. UserError, ConfigError: data or settings. Any "
        "other name is a lost machine or a bug. A `trial` is tried again by the search.",
    ),
    Alert(
        "VideosWithoutFaces", "warning",
        f'sum by (run) ({_series("extract_videos")}{{status=~"unreadable|no_face"}}) '
        f"/ sum by (run) ({_series('extract_videos')}) > 0.1", "5m",
        "{{ $value | humanizePercentage }} of the videos of run {{ $labels.run }} gave no face.",
        "See not_ok in faces/result.json. unreadable: damaged or missing files. no_face: lower extract.min_face or "
        "extract.min_score.",
    ),
    Alert(
        "NodeNotWatched", "warning", 'up{job="ray"} == 0', "2m",
        "the metrics of {{ $labels.instance }} cannot be read.",
        "The node is gone (its work is done again elsewhere), or a firewall stands between Prometheus and its port.",
    ),
    Alert(
        "MemoryShort", "critical", "ray_node_mem_used / ray_node_mem_total > 0.95", "2m",
        "{{ $labels.instance }} uses {{ $value | humanizePercentage }} of its memory; Ray kills tasks from 95 % on.",
        "Fewer actors or workers a node (extract.detect_actors, train.workers), or a smaller batch.",
    ),
    Alert(
        "DiskFull", "critical", "ray_node_disk_utilization_percentage > 95", "2m",
        'the disk of {{ $labels.instance }} is {{ $value | printf "%.0f" }} % full.',
        "Ray writes no more objects there: remove old sessions in /tmp/ray, or take a larger disk (cluster.deploy).",
    ),
)


def rules_yaml() -> str:
    """The file for Prometheus' rule_files."""
    rules = [
        {
            "alert": a.name,
            "expr": a.expr,
            "for": a.lasting,
            "labels": {"severity": a.severity},
            "annotations": {"summary": a.says, "remedy": a.remedy},
        }
        for a in ALERTS
    ]
    return yaml.safe_dump({"groups": [{"name": "robust-deepfake", "rules": rules}]}, sort_keys=False, width=1000)


def docs_table() -> str:
    """The Markdown table of docs/monitoring.md."""
    lines = ["| alert | severity | what it says | what to do |", "|---|---|---|---|"]
    for alert in ALERTS:
        says = re.sub(r"{{ \$(?:labels\.)?(\w+)[^}]*}}", r"*\1*", alert.says)
        lines.append(f"| {alert.name} | {alert.severity} | {says} | {alert.remedy} |")
    return "\n".join(lines)
