"""From predictions to the tables of the report: every figure, for every group, with its interval.

Two levels: `frame` (each crop by itself) and `video` (mean logit of its frames, all of them attacked).
Three thresholds: `zero` (logit 0), `frozen` and `frozen_fpr_5` (FPR 1 % and 5 % on clean validation, from the card).
Groups: all samples; each data set if there are several; each manipulation method, its fakes against the real videos of
its own data set; and each real source, which has rates but no ranking figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from robust.evaluation import bootstrap, calibration, metrics
from robust.evaluation.bootstrap import Interval, Resamples
from robust.evaluation.predictions import Scores, cells_of, frame_scores, identities_of_videos, models_of
from robust.evaluation.worst_case import with_worst_case

LEVELS = ("frame", "video")
THRESHOLDS = ("zero", "frozen", "frozen_fpr_5")

CLEAN_SHARES: dict[str, Callable] = {
    "accuracy": metrics.correct,
    "tpr": metrics.caught,
    "fpr": metrics.false_alarms,
}
ATTACK_SHARES: dict[str, Callable] = {
    "fake_to_real": metrics.fake_to_real,
    "real_to_fake": metrics.real_to_fake,
    "robust_accuracy": metrics.still_correct,
}


@dataclasses.dataclass(frozen=True)
class Group:
    """Some of the samples, by data set and method; None: all of them."""

    name: str
    kind: str  # all | dataset | fake | real
    dataset: str | None = None
    method: str | None = None

    def mask(self, scores: Scores) -> np.ndarray:
        of_dataset = np.ones(len(scores), bool) if self.dataset is None else scores.datasets == self.dataset
        if self.method is None:
            return of_dataset
        of_method = of_dataset & (scores.methods == self.method) & (scores.labels == (self.kind == "fake"))
        return of_method | (of_dataset & (scores.labels == 0)) if self.kind == "fake" else of_method


def groups_of(scores: Scores) -> list[Group]:
    """All groups there are in these samples, the whole first."""
    datasets = sorted(set(scores.datasets.tolist()))
    several = len(datasets) > 1
    groups = [Group("all", "all")]
    groups += [Group(dataset, "dataset", dataset) for dataset in datasets if several]
    triples = sorted(set(zip(scores.labels.tolist(), scores.datasets.tolist(), scores.methods.tolist(), strict=True)))
    for label, dataset, method in sorted(triples, key=lambda triple: (-triple[0], *triple[1:])):
        name = f"{dataset}/{method}" if several else method
        groups.append(Group(name, "fake" if label else "real", dataset, method))
    return groups


def build_tables(
    predictions: pa.Table, thresholds: Mapping[str, Mapping[str, float]], *, resamples: int, seed: int
) -> dict:
    """All tables of an evaluation.

    Args:
        predictions: PREDICTION_SCHEMA, as `check_predictions` returns it.
        thresholds: for each model {"frame": logit, "video": logit, "frame_fpr_5": ..., "video_fpr_5": ...}, frozen on clean validation; any may lack.
        resamples: of the bootstrap.
    Returns:
        {"clean": [record, ...], "attacks": [record, ...], "intervals": {...}, "counts": [...]}; docs/summary.md has the
        fields.
    """
    predictions = with_worst_case(predictions)
    draws = bootstrap.draw(*identities_of_videos(predictions), count=resamples, seed=seed)
    clean, attacks, counts = [], [], []
    for model in models_of(predictions):
        for index, (attack, epsilon) in enumerate(cells_of(predictions)):
            frames = frame_scores(predictions, model, attack, epsilon)
            for level, scores in (("frame", frames), ("video", frames.videos())):
                at = _thresholds_at(thresholds.get(model, {}), level)
                for group in groups_of(scores):
                    part = scores.select(group.mask(scores))
                    key = {"model": model, "level": level, "group": group.name, "kind": group.kind}
                    if index == 0:
                        clean.append({**key, **clean_figures(part, draws, at)})
                    key = {"model": model, "attack": attack, "epsilon": epsilon, **key}
                    attacks.append({**key, **attack_figures(part, draws, at)})
    for group in groups_of(frames):
        counts.append({"group": group.name, "kind": group.kind, **_counts(frames.select(group.mask(frames)))})
    return {"clean": clean, "attacks": attacks, "counts": counts, "intervals": _describe(draws)}


def clean_figures(scores: Scores, draws: Resamples, at: Mapping[str, float | None]) -> dict:
    """Ranking figures and rates without an attack."""
    figures = _rankings(scores.clean, scores, draws, metrics.RANKINGS)
    figures["ece"] = calibration_figure(scores.clean, scores, draws)
    figures["prevalence"] = float(np.mean(scores.labels == 1))
    figures["at"] = {name: _rates(CLEAN_SHARES, (scores.clean, scores.labels), scores, draws, threshold)
                     for name, threshold in at.items()}
    return figures


def attack_figures(scores: Scores, draws: Resamples, at: Mapping[str, float | None]) -> dict:
    """Robust AUC (fakes and reals both attacked) and the rates under attack."""
    ranking = _rankings(scores.adversarial, scores, draws, {"auc": metrics.RANKINGS["auc"]})
    logits = (scores.clean, scores.adversarial, scores.labels)
    rates = {name: _rates(ATTACK_SHARES, logits, scores, draws, threshold) for name, threshold in at.items()}
    ece = calibration_figure(scores.adversarial, scores, draws)
    return {"robust_auc": ranking["auc"], "ece": ece, "at": rates}


def calibration_figure(logits: np.ndarray, scores: Scores, draws: Resamples) -> dict:
    """Expected calibration error with its interval."""
    if scores.labels.min() == scores.labels.max():
        return missing("only one class here; a calibration error of one class says nothing")
    error = calibration.expected_error(logits, scores.labels)
    found = bootstrap.intervals(draws, scores.video_ids, lambda weights: {"ece": error(weights)}, smooth={"ece"})
    return estimate(float(error(np.ones((1, len(scores))))[0]), found["ece"])


def _thresholds_at(frozen: Mapping[str, float], level: str) -> dict[str, float | None]:
    return {"zero": 0.0, "frozen": frozen.get(level), "frozen_fpr_5": frozen.get(f"{level}_fpr_5")}


def _rankings(logits: np.ndarray, scores: Scores, draws: Resamples, figures: Mapping[str, Callable]) -> dict:
    try:
        points = {name: metrics.ranking(name, logits, scores.labels) for name in figures}
    except ValueError as error:
        return {name: missing(str(error)) for name in figures}
    intervals = bootstrap.ranking_interval(draws, scores.video_ids, logits, scores.labels, dict(figures))
    return {name: estimate(points[name], intervals[name]) for name in figures}


def _rates(
    shares: Mapping[str, Callable], logits: tuple, scores: Scores, draws: Resamples, threshold: float | None
) -> dict:
    if threshold is None:
        return {"threshold": None, **{name: missing("the checkpoint's card has no such threshold") for name in shares}}
    rates: dict = {"threshold": threshold}
    for name, share in shares.items():
        rates[name] = _rate(share(*logits, threshold=threshold), scores, draws)
    return rates


def _rate(share: metrics.Share, scores: Scores, draws: Resamples) -> dict:
    if not share.among.any():
        return missing("no sample is counted in it: none of this class, or none was right before the attack")
    interval = bootstrap.share_interval(draws, scores.video_ids, share.hits, share.among)
    return {**estimate(share.value(), interval), "hits": int(share.hits.sum()), "among": int(share.among.sum())}


def estimate(value: float, interval: Interval | None) -> dict:
    """A figure as it stands in summary.json."""
    if interval is None:
        return {"value": value, "low": None, "high": None, "reason": "no interval: it rests on a single cluster of people, or no resample has this figure"}
    return {"value": value, "low": interval.low, "high": interval.high, "dropped": interval.dropped}


def missing(reason: str) -> dict:
    """A figure that does not exist, and why."""
    return {"value": None, "low": None, "high": None, "reason": reason}


def _counts(frames: Scores) -> dict:
    videos = frames.videos()
    return {
        "fake_videos": int((videos.labels == 1).sum()),
        "real_videos": int((videos.labels == 0).sum()),
        "fake_frames": int((frames.labels == 1).sum()),
        "real_frames": int((frames.labels == 0).sum()),
    }


def _describe(draws: Resamples) -> dict:
    units = {
        "components": "clusters of videos that share an identity",
        "identities": "identities (a video counts as the product of its identities' counts, a pair's own noise once)",
    }
    return {
        "level": bootstrap.LEVEL,
        "resamples": int(len(draws.weights)),
        "units": draws.kind,
        "unit_count": draws.unit_count,
        "method": f"jackknife over {units[draws.kind]} on the logit scale with Student's t for AUC, AP and rates; a percentile "
                  "bootstrap over the same, widened as Student's t, for the rest",
    }
