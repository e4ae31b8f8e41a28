"""summary.json: all figures of an evaluation in one versioned document (docs/summary.md describes it)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from robust.evaluation.attack_block import Cell
from robust.evaluation.credibility import judge
from robust.evaluation.worst_case import WORST, label_of_worst

SCHEMA = 2
TIMING = "timing"
"""The only key that differs between two evaluations of the same thing."""

THREAT_MODEL = (
    "White box: the attacker knows the model and its weights and changes every value of the face crop, as the model "
    "is given it, by at most epsilon (0-255 units, Linf); fakes are pushed towards real and reals towards fake."
)


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """What the report says about a model: its name there, and its card."""

    name: str
    card: Mapping

    @property
    def thresholds(self) -> dict[str, float]:
        """Frozen thresholds by level, at FPR 1 % and (`video_fpr_5`, `frame_fpr_5`) at 5 %; an older card has none of those."""
        keys = {"video": "threshold", "frame": "frame_threshold",
                "video_fpr_5": "threshold_fpr_5", "frame_fpr_5": "frame_threshold_fpr_5"}
        return {level: float(self.card[key]) for level, key in keys.items() if self.card.get(key) is not None}

    def describe(self) -> dict:
        card = {key: value for key, value in self.card.items() if key not in ("architecture", "sha256")}
        return {
            "name": self.name,
            "sha256": self.card.get("sha256"),
            "architecture": self.card.get("architecture"),
            "thresholds": self.thresholds,
            "card": card,
        }


def build_summary(
    tables: Mapping,
    *,
    run: str,
    models: Sequence[EvaluatedModel],
    cells: Sequence[Cell],
    sequential: bool = False,
    headline: tuple[str, float],
    data: Mapping,
    settings: Mapping,
    checks: Sequence[Mapping] = (),
    smoothing: Mapping | None = None,
    gates: Sequence[Mapping] = (),
    not_run: Sequence[Mapping] = (),
    corruptions: Mapping | None = None,
    codec: Mapping | None = None,
    whole_video: Mapping | None = None,
    universal: Mapping | None = None,
    export: Mapping | None = None,
    comparators: Mapping | None = None,
    cost: Sequence[Mapping] = (),
    timing: Mapping | None = None,
) -> dict:
    """The document.

    Args:
        tables: from `protocol.build_tables`.
        models: in the order of the report, the baseline first.
        cells: attacks and epsilons that were run, in order.
        sequential: whether each attack's rows are "after it and those before it" (sequence.py).
        headline: attack and epsilon of the first sentence, the charts and the gallery.
        data: counts of videos by status, and the list of those skipped.
        settings: what the figures depend on: configuration, hashes, versions.
        checks: {"name", "passed", "detail"} of each check of the inputs and the attack.
        smoothing: from `certificate_table.certificate_figures`; None: nothing was certified.
        gates: {"model", "name", "passed", "measured", "remedy"} of each gate on each model; none: they were not run. If
            one failed, there is no headline.
        not_run: {"attack", "reason"} of each attack of the suite that was left out.
        corruptions: from `corruption_table.corruption_figures`; None: they were not measured.
        codec: from `codec_table.codec_figures`; None: it was not measured.
        whole_video: from `whole_video_table.whole_video_figures`; None: it was not measured.
        universal: from `universal_table.universal_figures`; None: it was not measured.
        export: where the adversarial examples are, and what is left of the attack in them; None: none were written.
        comparators: from `comparators.read_comparators`; None: no benchmark was run.
        cost: from `passes.cost_records`.
        timing: seconds; everything that may differ between two runs of the same evaluation goes here.
    """
    attacks, (attack, epsilon), verdict = _attacks(cells, sequential=sequential), headline, judge(gates)
    names = [model.name for model in models]
    summary = {
        "schema": SCHEMA,
        "run": run,
        "verdict": verdict,
        "headline": None if verdict["credible"] is False else _headline(tables, names, attacks[attack], epsilon),
        "shown": {"attack": attack, "epsilon": epsilon},
        "threat_model": THREAT_MODEL,
        "models": [model.describe() for model in models],
        "attacks": list(attacks.values()),
        "not_run": list(not_run),
        "epsilons": sorted({cell.epsilon for cell in cells}),
        "clean": list(tables["clean"]),
        "under_attack": list(tables["attacks"]),
        "over_epsilon": list(tables["over_epsilon"]),
        "risk_coverage": list(tables["risk_coverage"]),
        "worst_groups": worst_groups(tables, names, attack, epsilon),
        "counts": list(tables["counts"]),
        "intervals": dict(tables["intervals"]),
        "data": dict(data),
        "checks": list(checks),
        "smoothing": smoothing,
        "gates": list(gates),
        "corruptions": corruptions,
        "codec": codec,
        "whole_video": whole_video,
        "universal": universal,
        "export": export,
        "comparators": comparators,
        "cost": list(cost),
        "settings": dict(settings),
        TIMING: dict(timing or {}),
    }
    return json.loads(json.dumps(summary, allow_nan=False))


def find(records: Sequence[Mapping], **wanted) -> dict | None:
    """The first record with these fields."""
    return next((dict(record) for record in records if all(record[key] == value for key, value in wanted.items())), None)


def worst_groups(tables: Mapping, models: Sequence[str], attack: str, epsilon: float) -> list[dict]:
    """For each model the manipulation method with the lowest clean AUC and the one with the highest attack success (logit 0)."""
    found = []
    for model in models:
        for level in ("frame", "video"):
            where = {"model": model, "level": level, "kind": "fake"}
            clean = [(record["group"], record["auc"]) for record in tables["clean"] if where.items() <= record.items()]
            where |= {"attack": attack, "epsilon": epsilon}
            attacked = [(record["group"], record["at"]["zero"]["fake_to_real"]) for record in tables["attacks"]
                        if where.items() <= record.items()]
            for figure, rows, choose in (("auc", clean, min), ("fake_to_real", attacked, max)):
                rows = [row for row in rows if row[1]["value"] is not None]
                if rows:
                    group, value = choose(rows, key=lambda row: row[1]["value"])
                    tied = sum(row[1]["value"] == value["value"] for row in rows)
                    found.append({"model": model, "level": level, "figure": figure, "group": group, "tied": tied, **value})
    return found


def _attacks(cells: Sequence[Cell], *, sequential: bool) -> dict[str, dict]:
    """What the report says of each attack, and of the worst case if there are several; "+ FMN-50" is after those before it."""
    budgets = {cell.attack: cell for cell in cells}
    attacks = {
        name: {"attack": name, "steps": cell.steps, "restarts": cell.restarts, "label": cell.label, "norm": "linf"}
        for name, cell in budgets.items()
    }
    if len(attacks) > 1:
        label = label_of_worst([attack["label"] for attack in attacks.values()])
        for attack in list(attacks.values())[1:]:
            attack |= {"label": f"+ {attack['label']}", "cumulative": True} if sequential else {}
        attacks[WORST] = {"attack": WORST, "steps": None, "restarts": None, "label": label, "norm": "linf"}
    return attacks


def _headline(tables: Mapping, models: Sequence[str], attack: Mapping, epsilon: float) -> dict:
    where = {"attack": attack["attack"], "epsilon": epsilon, "level": "frame", "group": "all"}
    figures = {}
    for model in models:
        record = find(tables["attacks"], model=model, **where)
        figures[model] = record["at"]["zero"]["fake_to_real"]
    return {
        **where,
        "figure": "fake_to_real",
        "threshold": "zero",
        "models": figures,
        "text": _sentence(figures, attack["label"], epsilon),
    }


def _sentence(figures: Mapping[str, Mapping], attack: str, epsilon: float) -> str:
    """"baseline: 99.1 % of the caught fakes turned real by PGD-20 at epsilon 0.5 ...; defended: 8.0 % ..."""
    parts = []
    for index, (model, figure) in enumerate(figures.items()):
        what = f" of the caught fakes turned real by {attack} at epsilon {epsilon:g}" if index == 0 else ""
        if figure["value"] is None:
            parts.append(f"{model}: no figure ({figure['reason']})")
            continue
        interval = "" if figure["low"] is None else f" [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
        parts.append(f"{model}: {100 * figure['value']:.1f} %{interval}{what}")
    return "; ".join(parts) + "."


def without_timing(summary: Mapping) -> dict:
    """The part that two runs of the same evaluation share."""
    return {key: value for key, value in summary.items() if key != TIMING}
