"""The search at a glance: robust against clean AUC of every trial, as one self-contained HTML page."""
from __future__ import annotations

import io
from html import escape

COLUMNS = ("trial", "epsilon", "steps", "Lipschitz weight", "epochs", "clean AUC", "robust AUC", "attack success")


def tune_plot(table: list[dict], winner: str, epsilon: float) -> str:
    """
    Args:
        table: rows of jobs/tune.py's trial table.
        winner: trial id.
        epsilon: of the fixed threat, 0-255 units.
    """
    rows = "".join(_row(row, row["trial"] == winner) for row in table)
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    return (f"<!doctype html><html lang=en><meta charset=utf-8><title>Search</title><style>{STYLE}</style>"
            f"<h1>Search: robust against clean</h1><p>All trials are measured under the same PGD at epsilon {epsilon:g}; "
            f"the winner is {escape(winner)}.</p>{trials_svg(table, winner, epsilon)}<div class=scroll><table><tr>{head}</tr>{rows}</table></div></html>")


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2430;background:#fff}
svg{max-width:100%;height:auto;background:#fff}table{border-collapse:collapse}td,th{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #ccd}
tr.winner{font-weight:600;background:#eef6ee}.scroll{overflow-x:auto}
@media(prefers-color-scheme:dark){body{color:#e6e9ee;background:#14181e}tr.winner{background:#1d3323}td,th{border-color:#39424e}}
"""


def trials_svg(table: list[dict], winner: str, epsilon: float) -> str:
    """A scatter plot as inline SVG; colour is the training epsilon."""
    from matplotlib.figure import Figure

    done = [row for row in table if row["status"] == "done"]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    points = axes.scatter([row["auc"] for row in done], [row["robust_auc"] for row in done], c=[row["settings"]["epsilon"] for row in done], s=45, cmap="viridis")
    best = next((row for row in done if row["trial"] == winner), None)
    if best is not None:
        axes.scatter([best["auc"]], [best["robust_auc"]], s=180, facecolors="none", edgecolors="crimson", linewidths=1.6)
        axes.annotate("winner", (best["auc"], best["robust_auc"]), textcoords="offset points", xytext=(10, 8), color="crimson")
    axes.set(xlabel="clean video AUC (validation)", ylabel=f"video AUC under PGD, epsilon {epsilon:g}")
    axes.grid(alpha=0.3)
    figure.colorbar(points, label="training epsilon (0-255)")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg"):]


def _row(row: dict, is_winner: bool) -> str:
    settings = row["settings"]
    figures = [f"{row[name]:.3f}" if row[name] is not None else "–" for name in ("auc", "robust_auc", "attack_success")]
    cells = [escape(row["trial"]), f"{settings['epsilon']:.2f}", str(settings["steps"]), f"{settings['lipschitz_weight']:.1e}", str(row["epochs"]), *figures]
    return f"<tr{' class=winner' if is_winner else ''}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
