"""What many verdicts come to: counts by verdict, by status and reason, and the most suspicious videos."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from robust.data.shards import NUMBER, STATUSES
from robust.detection import VERDICTS

MOST_REASONS, MOST_SUSPICIOUS = 20, 20


def counts_of(rows: pa.Table) -> dict:
    """Counts of rows (status, reason, verdict; one a video): {"counts", "by_status", "reasons"}.

    Reasons that differ in numbers alone are one, with "N" in their place; the rarest are counted together.
    """
    return {
        "counts": _counts(rows["verdict"], VERDICTS),
        "by_status": _counts(rows["status"], STATUSES),
        "reasons": _reasons(rows),
    }


def _counts(column: pa.ChunkedArray, names: Sequence[str]) -> dict[str, int]:
    found = {one["values"]: one["counts"] for one in pc.value_counts(column).to_pylist()}
    return {name: found.get(name, 0) for name in names}


def _reasons(rows: pa.Table) -> list[dict]:
    kinds, ones = pc.replace_substring_regex(rows["reason"], NUMBER, "N"), pa.repeat(1, len(rows))
    one_each = pa.table({"status": rows["status"], "reason": kinds, "videos": ones}).filter(pc.not_equal(kinds, ""))
    found = one_each.group_by(["status", "reason"]).aggregate([("videos", "sum")]).rename_columns(one_each.column_names)
    found = found.sort_by([("videos", "descending"), ("status", "ascending"), ("reason", "ascending")])
    told, rest = found.slice(0, MOST_REASONS).to_pylist(), found.slice(MOST_REASONS)
    more = [{"status": "any", "reason": f"{len(rest)} other reasons", "videos": pc.sum(rest["videos"]).as_py()}]
    if len(rest) == 0:
        return told
    return told + more


def most_suspicious(rows: pa.Table, count: int = MOST_SUSPICIOUS) -> list[dict]:
    """Path, verdict and score of those with the highest scores, the highest first."""
    scored = rows.select(["path", "verdict", "score"]).filter(pc.is_valid(rows["score"]))
    keys = [("score", "descending"), ("path", "ascending")]
    order = pc.select_k_unstable(scored, k=min(count, len(scored)), sort_keys=keys)
    return scored.take(order).to_pylist()


def table(result: dict) -> str:
    """Counts and most suspicious videos for people."""
    lines = [f"{name}: {number}" for name, number in result["counts"].items()]
    lines += [f"{one['status']}, {one['reason']}: {one['videos']}" for one in result["reasons"]]
    lines += [f"skipped, {reason}: {number}" for reason, number in result["skipped"].items()]
    if result["most_suspicious"]:
        lines += ["", "score    verdict  most suspicious"]
        lines += [f"{one['score']:+8.3f} {one['verdict']:<8} {one['path']}" for one in result["most_suspicious"]]
    return "\n".join(lines)
