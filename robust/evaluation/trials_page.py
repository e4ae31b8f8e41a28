"""The search at a glance, as one self-contained page: front, parallel coordinates, importance, and every trial."""
from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from robust.evaluation.importance import FEWEST_TRIALS, LOGARITHMIC
from robust.evaluation.pages import style, template
from robust.evaluation.trial_charts import (
    FIRST_COLOUR,
    FRONT,
    OTHER,
    WINNER,
    Axis,
    Dot,
    front_chart,
    importance_chart,
    parallel_chart,
)

NAMES = {"epsilon": "epsilon", "steps": "steps", "lipschitz_weight": "Lipschitz weight", "step_size": "step size",
         "lipschitz_kind": "Lipschitz kind", "activation": "activation", "recipe": "recipe"}
FIGURES = {"robust_auc": "robust AUC", "auc": "clean AUC", "cost": "seconds a step"}
"""Names of settings and of what trials reached."""


def trials_page(result: Mapping) -> str:
    """The page as HTML that refers to nothing outside itself.

    Args:
        result: jobs/tune.py's result: trials, front, winner, importance, threat, not_run, device_hours.
    """
    table, winner = result["trials"], result["winner"]["trial"]
    kinds = {row["trial"]: FRONT if row["trial"] in result["front"] else OTHER for row in table} | {winner: WINNER}
    settings = [name for name in NAMES if any(name in row["settings"] for row in table)]
    done = [row for row in table if row["status"] == "done"]
    shares = result["importance"]
    dots = [_dot(row, kinds[row["trial"]]) for row in done]
    return template("trials.html").render(
        result=result, style=style(), headline=_headline(result),
        kinds=kinds, settings=settings, names=NAMES, figures=FIGURES, fewest=FEWEST_TRIALS, first_colour=FIRST_COLOUR,
        front=Markup(front_chart(dots, x_label="clean video AUC", y_label="robust video AUC")),
        parallel=Markup(parallel_chart(_axes(done, settings), [dot.kind for dot in dots], [dot.name for dot in dots])),
        importance=Markup(importance_chart({FIGURES[figure]: of for figure, of in shares.items()}, NAMES)) if shares else None,
    )


def _dot(row: Mapping, kind: str) -> Dot:
    return Dot(row["trial"], kind, row["auc"], row["robust_auc"], row["cost"] or 0.0)


def _headline(result: Mapping) -> str:
    best = result["winner"]
    epsilon = result["threat"]["epsilon"]
    return f"Best trial: AUC {best['auc']:.3f} clean, {best['robust_auc']:.3f} under PGD at epsilon {epsilon:g}"


def _axes(done: list[Mapping], settings: list[str]) -> list[Axis]:
    """Settings that differ between trials, then what the trials reached."""
    columns = {name: tuple(row["settings"].get(name) for row in done) for name in settings}
    varied = [Axis(NAMES[name], values, name in LOGARITHMIC and all(value is not None and value > 0 for value in values))
              for name, values in columns.items() if len(set(values)) > 1]
    reached = [("cost", FIGURES["cost"]), ("auc", FIGURES["auc"]), ("robust_auc", FIGURES["robust_auc"])]
    return varied + [Axis(name, tuple(row[figure] for row in done)) for figure, name in reached]
