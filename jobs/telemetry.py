"""The metrics of robust/monitoring/metrics.py, from any process of a job, through Ray to Prometheus
(docs/monitoring.md).

Where no Ray runs in the process, a call does nothing. A process sends what is new to Ray's agent on its node every 10 s
and when it ends in order. The agent keeps counters from then on, but forgets a gauge 20 s after it was last set (measured
with Ray 2.60; metrics_report_interval_ms), so a thread sets them again and again. No failure in here ends the work.
"""

from __future__ import annotations

import functools
import logging
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from jobs.errors import reason_of
from robust.config import Config
from robust.errors import NonFiniteLoss
from robust.monitoring.metrics import BY_NAME
from robust.object_stores import failures

logger = logging.getLogger(__name__)


def add(name: str, amount: float = 1, **labels: str) -> None:
    """Counts up; an amount of 0 does nothing."""
    if amount > 0 and (metric := _metric(name)) is not None:
        _told(metric.inc, amount, labels)


def show(name: str, value: float | None, **labels: str) -> None:
    """Sets a gauge until it is set anew, hidden, or the process ends; None and NaN (no figure) do nothing."""
    if value is not None and math.isfinite(value) and (metric := _metric(name)) is not None:
        _told(metric.set, value, labels)
        _shown.keep(name, value, labels)


class _Shown:
    """The gauges of this process, and the thread that sets them anew as long as there are any and Ray runs."""

    def __init__(self):
        self._gauges: dict[tuple, tuple[str, float, dict[str, str]]] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def keep(self, name: str, value: float, labels: dict[str, str]) -> None:
        with self._lock:
            self._gauges[name, *labels.items()] = name, value, labels
            if self._thread is None:
                self._thread = threading.Thread(target=self._refresh, name="gauges", daemon=True)
                self._thread.start()

    def all(self) -> dict[tuple, tuple[str, float, dict[str, str]]]:
        with self._lock:
            return dict(self._gauges)

    def hide(self, *, but: Iterable[tuple] = ()) -> None:
        """All of them but those under these keys."""
        with self._lock:
            self._gauges = {key: self._gauges[key] for key in but if key in self._gauges}

    def _refresh(self) -> None:
        while True:
            time.sleep(REFRESH_S)
            with self._lock:
                gauges = list(self._gauges.values())
                if not gauges or not _ray_runs():
                    self._gauges.clear()
                    self._thread = None
                    return
            for name, value, labels in gauges:
                _told(_made(name).set, value, labels)


REFRESH_S = 5.0
_shown = _Shown()


def _metric(name: str):
    """Ray's object, or None where no Ray runs."""
    return _made(name) if _ray_runs() else None


def _ray_runs() -> bool:
    """A process that has not imported Ray has none."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


@functools.cache
def _made(name: str):
    from ray.util import metrics

    metric = BY_NAME[name]
    kind = {"counter": metrics.Counter, "gauge": metrics.Gauge}[metric.kind]
    return kind(f"deepfake_{name}", description=metric.help, tag_keys=metric.labels)


def _told(record: Callable, value: float, labels: dict[str, str]) -> None:
    try:
        record(float(value), tags=labels)
    except Exception:  # watching must not end what is watched
        logger.warning("a metric could not be recorded", exc_info=True)


# ---------------------------------------------------------------------------- of a stage

COUNTED = "_counted_as_a_failure"
"""Attribute of an exception that a stage inside another has counted."""


@contextmanager
def stage_watched(run: str, stage: str) -> Iterator[None]:
    """Around a stage in the job's own process: whether it runs, and how it failed.

    A pipeline is one around others: what it shows stays when one of them ends, and a failure is counted where it arose.
    """
    hear_storage(run)
    around = _shown.all()
    show("running", 1, run=run, stage=stage)
    try:
        yield
    except Exception as error:
        if not getattr(error, COUNTED, False):
            add("failures", run=run, stage=stage, reason=reason_of(error))
            setattr(error, COUNTED, True)
        raise
    finally:
        _shown.hide(but=around)


def progress_of(config: Config, stage: str) -> Callable[[int, int | None], None]:
    """What a Progress tells of itself."""

    def observe(done: int, total: int | None) -> None:
        show("progress", done, run=config.run.name, stage=stage)
        show("progress_asked", total, run=config.run.name, stage=stage)

    return observe


def hear_storage(run: str) -> None:
    """Counts this process's failed requests to the bucket from now on."""
    failures.listener = lambda reason: add("storage_retries", run=run, reason=reason)


# ---------------------------------------------------------------------------- of training


def steps_of(run: str, model: str, batch_size: int) -> Callable[[int, int], None]:
    """Told of each step of a training: counts its images. `batch_size` is that of all workers, and 0 on all but one."""
    hear_storage(run)
    return lambda step, steps: add("train_images", batch_size, run=run, model=model)


def epoch_ended(run: str, model: str, figures, scores: Mapping[str, float] | None) -> None:
    """Figures (robust.training.loop.EpochFigures) and validation scores of an epoch."""
    labels = {"run": run, "model": model}
    show("train_epoch", figures.epoch + 1, **labels)
    show("train_images_per_second", figures.images_per_second, **labels)
    show("train_data_wait_share", figures.data_wait_share, **labels)
    show("train_loss", figures.losses["total"], **labels)
    show("train_epsilon", figures.epsilon, **labels)
    add("train_collapses", figures.probe.get("collapsed", 0), **labels)
    for name in ("auc", "robust_auc", "attack_success"):
        show(f"validation_{name}", (scores or {}).get(name), **labels)


@contextmanager
def training_watched(run: str, model: str) -> Iterator[None]:
    """Around a training: counts the one that stops on a loss that is no number."""
    try:
        yield
    except NonFiniteLoss:
        add("train_nonfinite", run=run, model=model)
        raise


@contextmanager
def trial_watched(run: str, *, begins: bool) -> Iterator[Callable[[object], None]]:
    """Around a trial of the search; gives a function that is told of each of its epochs (its time is the trial's cost).

    Args:
        begins: not one that goes on.
    """
    if begins:
        add("tune_trials", run=run)
    before = time.monotonic()

    def epoch(figures) -> None:
        nonlocal before
        now = time.monotonic()
        add("tune_seconds", now - before, run=run)
        before = now
        add("train_collapses", figures.probe.get("collapsed", 0), run=run, model=TRIALS)

    try:
        with training_watched(run, TRIALS):
            yield epoch
    except Exception as error:
        add("failures", run=run, stage="trial", reason=reason_of(error))
        raise


TRIALS = "trials"
"""The model label of all trials together."""


# ---------------------------------------------------------------------------- of extraction and evaluation


def videos_judged(run: str, verdicts: Iterable[str]) -> Counter[str]:
    """Counts verdicts of jobs.detect_many; returns how many there are of each."""
    counts = Counter(verdicts)
    for verdict, count in counts.items():
        add("detect_videos", count, run=run, verdict=verdict)
    return counts


def videos_written(run: str, statuses: Iterable[str], faces: int) -> None:
    for status, count in Counter(statuses).items():
        add("extract_videos", count, run=run, status=status)
    add("extract_faces", faces, run=run)


def stages_worked(run: str, seconds: Mapping[str, float]) -> None:
    """Of stages of an extraction, in this process since it was told last."""
    for stage, amount in seconds.items():
        add("extract_seconds", amount, run=run, stage=stage)


def evaluated(summary: Mapping) -> None:
    """The figures of a report: of videos, all kinds, at the attack and epsilon that it shows."""
    shown, run = summary["shown"], summary["run"]
    for record in summary["clean"]:
        if (record["level"], record["group"]) == ("video", "all"):
            show("evaluate_auc", record["auc"]["value"], run=run, model=record["model"])
    for record in summary["under_attack"]:
        if (record["attack"], record["epsilon"], record["group"]) == (shown["attack"], shown["epsilon"], "all"):
            labels = {"run": run, "model": record["model"]}
            if record["level"] == "video":
                show("evaluate_robust_auc", record["robust_auc"]["value"], **labels)
            else:
                show("evaluate_attack_success", record["at"]["zero"]["fake_to_real"]["value"], **labels)
