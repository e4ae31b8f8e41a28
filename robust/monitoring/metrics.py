"""Every metric of the project, once: Ray's objects (jobs/telemetry.py), dashboards, alerts and docs are made from this
list.

Labels have few values: a run, one of its models, a stage, a reason out of a short list; never a video or a trial, as
each combination is a time series of its own. Ray puts `ray_` before each name, adds `_total` to counters and labels
of its own (SessionName, NodeAddress, WorkerId ...). Source of the naming rules: Prometheus' guide "Metric and label
naming".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge"]
PREFIX = "ray_deepfake_"
"""Of the names as Prometheus has them."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: without the prefix and without a counter's `_total`.
        unit: of UNITS.
        labels: what tells its time series apart; `run` is always one.
        help: one sentence; the table in docs/monitoring.md and Prometheus show it.
    """

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    help: str

    @property
    def series(self) -> str:
        """Its name in Prometheus."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


UNITS = {
    "images/s": "images/s",
    "images": "short",
    "crops": "short",
    "videos": "short",
    "faces": "short",
    "epochs": "short",
    "trials": "short",
    "events": "short",
    "items": "short",
    "seconds": "s",
    "share": "percentunit",
    "auc": "none",
    "loss": "none",
    "0-255": "none",
}
"""Our units and what Grafana calls them; `0-255` is a pixel value as in the configuration's epsilon."""

MODEL = ("run", "model")
STAGE = ("run", "stage")
METRICS = (
    Metric("running", "gauge", "items", STAGE, "1 while a job is in this stage."),
    Metric("progress", "gauge", "items", STAGE, "Done by the running stage, in its own unit (videos, epochs, crops)."),
    Metric("progress_asked", "gauge", "items", STAGE, "What it has to do."),
    Metric("failures", "counter", "events", (*STAGE, "reason"), "Stages and trials that ended with an error, by kind."),
    Metric("storage_retries", "counter", "events", ("run", "reason"),
           "Requests to the bucket that failed, whether tried again or given up, by the answer."),
    Metric("train_images", "counter", "images", MODEL, "Images that training steps have used, over all workers."),
    Metric("train_images_per_second", "gauge", "images/s", MODEL, "Speed over the last epoch, over all workers."),
    Metric("train_data_wait_share", "gauge", "share", MODEL, "Share of the last epoch that rank 0 waited for data."),
    Metric("train_epoch", "gauge", "epochs", MODEL, "Epochs finished."),
    Metric("train_loss", "gauge", "loss", MODEL, "Mean loss of the last epoch on rank 0."),
    Metric("train_epsilon", "gauge", "0-255", MODEL, "Of the training attack after the last epoch, 0-255 units."),
    Metric("train_nonfinite", "counter", "events", MODEL, "Trainings that stopped on a loss that is no finite number."),
    Metric("train_collapses", "counter", "events", MODEL, "Epochs undone because of catastrophic overfitting."),
    Metric("validation_auc", "gauge", "auc", MODEL, "Clean AUC on validation videos."),
    Metric("validation_robust_auc", "gauge", "auc", MODEL, "AUC under PGD on validation crops (train.validation)."),
    Metric("validation_attack_success", "gauge", "share", MODEL, "Attacked validation fakes that are called real."),
    Metric("extract_videos", "counter", "videos", ("run", "status"), "Videos by ok, partial, no_face and unreadable."),
    Metric("extract_faces", "counter", "faces", ("run",), "Face crops written."),
    Metric("extract_seconds", "counter", "seconds", STAGE,
           "Work of decode, detect and write over all processes; its rate is how many are at work."),
    Metric("detect_videos", "counter", "videos", ("run", "verdict"), "Videos that jobs.detect_many has judged."),
    Metric("tune_trials", "counter", "trials", ("run",), "Trials of the search that have begun."),
    Metric("tune_seconds", "counter", "seconds", ("run",),
           "Training and validating in trials; over tune_trials it is the cost of a trial."),
    Metric("evaluate_crops", "counter", "crops", MODEL, "Measured crops, one for each attack, corruption, codec ..."),
    Metric("evaluate_auc", "gauge", "auc", MODEL, "Clean AUC of test videos, as in the report."),
    Metric("evaluate_robust_auc", "gauge", "auc", MODEL, "AUC of test videos under the headline's attack."),
    Metric("evaluate_attack_success", "gauge", "share", MODEL, "Fakes that the headline's attack turns to real."),
)
"""In the order in which docs and dashboards show them."""

BY_NAME = {metric.name: metric for metric in METRICS}


def docs_table() -> str:
    """The Markdown table of docs/monitoring.md."""
    lines = ["| in Prometheus | kind | unit | labels | what |", "|---|---|---|---|---|"]
    lines += [f"| `{m.series}` | {m.kind} | {m.unit} | {', '.join(m.labels)} | {m.help} |" for m in METRICS]
    return "\n".join(lines)
