"""From predictions to the tables of the report: every figure, for every group, with its interval.

Two levels: `frame` (each crop of a subject by itself) and `video` (mean logit of its frames, all of them attacked; of
several people that of the one who looks most fake).
Three thresholds: `zero` (logit 0), `frozen` and `frozen_fpr_5` (FPR 1 % and 5 % on clean validation, from the card).
Groups: all samples; each data set if there are several; each manipulation method, its fakes against the real videos of
its own data set; and each real source, which has rates but no ranking figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from robust.evaluation import abstention, bootstrap, calibration, metrics, minimal_distances, over_epsilon
from robust.evaluation.bootstrap import Interval, Resamples
from robust.evaluation.predictions import Scores, cells_of, frame_scores, identities_of_videos, models_of
from robust.evaluation.worst_case import WORST, with_worst_case

LEVELS = ("frame", "video")
NOTHING_COUNTED = "no sample is counted in it: none of this class, or none was right before the attack"
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
        {"clean": [record, ...], "attacks": [record, ...], "over_epsilon": [record, ...], "risk_coverage": [record, ...],
        "intervals": {...}, "counts": [...]}; docs/summary.md has the
        fields.
    """
    predictions = with_worst_case(predictions)
    draws = bootstrap.draw(*identities_of_videos(predictions), count=resamples, seed=seed)
    clean, attacks, counts = [], [], []
    for model in models_of(predictions):
        for index, (attack, epsilon) in enumerate(cells_of(predictions)):
            frames = frame_scores(predictions, model, attack, epsilon)
            for level, scores in (("frame", frames.subjects()), ("video", frames.videos())):
                at = _thresholds_at(thresholds.get(model, {}), level)
                for group in groups_of(scores):
                    part = scores.select(group.mask(scores))
                    key = {"model": model, "level": level, "group": group.name, "kind": group.kind}
                    if index == 0:
                        clean.append({**key, **clean_figures(part, draws, at)})
                    key = {"model": model, "attack": attack, "epsilon": epsilon, **key}
                    attacks.append({**key, **attack_figures(part, draws, at)})
    over, risks = over_epsilon_records(predictions, draws), risk_records(predictions)
    for group in groups_of(frames):
        counts.append({"group": group.name, "kind": group.kind, **_counts(frames.select(group.mask(frames)))})
    return {"clean": clean, "attacks": attacks, "over_epsilon": over, "risk_coverage": risks, "counts": counts,
            "intervals": _describe(draws)}


def clean_figures(scores: Scores, draws: Resamples, at: Mapping[str, float | None]) -> dict:
    """Ranking figures and rates without an attack."""
    figures = _rankings(scores.clean, scores, draws, metrics.RANKINGS)
    figures["ece"] = calibration_figure(scores.clean, scores, draws)
    figures["aurc"] = abstention_figure(scores.clean, scores, draws)
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
    aurc = abstention_figure(scores.adversarial, scores, draws)
    if scores.skipped.any() and ranking["auc"]["value"] is not None:
        ranking["auc"]["at_least"] = metrics.auc(scores.attacked_on(), scores.labels)
    return {"robust_auc": ranking["auc"], "ece": ece, "aurc": aurc, "at": rates}


def calibration_figure(logits: np.ndarray, scores: Scores, draws: Resamples) -> dict:
    """Expected calibration error with its interval."""
    if scores.labels.min() == scores.labels.max():
        return missing("only one class here; a calibration error of one class says nothing")
    error = calibration.expected_error(logits, scores.labels)
    found = bootstrap.intervals(draws, scores.video_ids, lambda weights: {"ece": error(weights)}, smooth={"ece"})
    return estimate(float(error(np.ones((1, len(scores))))[0]), found["ece"])


def abstention_figure(logits: np.ndarray, scores: Scores, draws: Resamples) -> dict:
    """Area under the risk-coverage curve at logit 0."""
    area = abstention.aurc(logits, scores.labels)
    found = bootstrap.intervals(draws, scores.video_ids, lambda weights: {"aurc": area(weights)}, smooth={"aurc"})
    return estimate(float(area(np.ones((1, len(scores))))[0]), found["aurc"])


def over_epsilon_records(predictions: pa.Table, draws: Resamples) -> list[dict]:
    """Minimal epsilon and area under the robust AUC, of the worst case of all attacks; none of sources of reals."""
    names = sorted({attack for attack, _ in cells_of(predictions)})
    attack, records = WORST if WORST in names else names[0], []
    epsilons = sorted({epsilon for name, epsilon in cells_of(predictions) if name == attack})
    for model in models_of(predictions):
        frames = [frame_scores(predictions, model, attack, epsilon) for epsilon in epsilons]
        levels = {"frame": [part.subjects() for part in frames], "video": [part.videos() for part in frames]}
        for level, cells in levels.items():
            measured = minimal_distances.of_frames(predictions, model) if level == "frame" else None
            for group in [group for group in groups_of(cells[0]) if group.kind != "real"]:
                mask = group.mask(cells[0])
                chosen = [part.select(mask) for part in cells]
                facts = (chosen[0].clean, np.stack([part.adversarial for part in chosen]), chosen[0].labels, chosen[0].video_ids,
                         epsilons, draws)
                area = missing("only one class here; a ranking figure needs both classes")
                if len(set(chosen[0].labels.tolist())) == 2:
                    value, interval, end = over_epsilon.area_under_auc(*facts)
                    area = {**estimate(value, interval), "range": [0.0, end]}
                records.append({"model": model, "level": level, "group": group.name, "kind": group.kind, "attack": attack,
                                "mean_robust_auc": area, "minimal_epsilon": over_epsilon.minimal_epsilon(
                                    *facts, distance=None if measured is None else measured[mask])})
    return records


def risk_records(predictions: pa.Table) -> list[dict]:
    """Risk-coverage curves of all samples at logit 0, without an attack (attack None, epsilon 0) and under each."""
    records = []
    for model in models_of(predictions):
        for index, (attack, epsilon) in enumerate(cells_of(predictions)):
            frames = frame_scores(predictions, model, attack, epsilon)
            for level, scores in (("frame", frames.subjects()), ("video", frames.videos())):
                for name, size, logits in ((None, 0.0, scores.clean), (attack, epsilon, scores.adversarial))[index > 0:]:
                    risk = abstention.SurenessOrder(logits, scores.labels).risk()
                    records.append({"model": model, "level": level, "attack": name, "epsilon": size,
                                    "coverage": list(abstention.COVERAGES), "risk": risk})
    return records


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
        rates[name] = share_figure(share(*logits, threshold=threshold), scores.video_ids, draws, if_none=NOTHING_COUNTED)
    return rates


def share_figure(share: metrics.Share, video_ids: np.ndarray, draws: Resamples, *, if_none: str) -> dict:
    """A share as it stands in summary.json, with its interval and counts; `if_none` says why if nothing is counted in it."""
    if not share.among.any():
        return missing(if_none)
    interval = bootstrap.share_interval(draws, video_ids, share.hits, share.among)
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
    videos, frames = frames.videos(), frames.subjects()
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
