"""What a run needs of its cluster and bucket, looked at before anything costs money: python -m jobs.preflight

node.py and dry_step.py measure on a machine, verdicts.py judges; none of them knows Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

OK, NOTE, FAIL = "ok", "note", "FAIL"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what, where, how it is ("ok", "note", "FAIL"), what was seen, and what to do."""

    check: str
    where: str
    state: str
    seen: str
    remedy: str = ""


def failed(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.state == FAIL]


def table(findings: Sequence[Finding]) -> str:
    """A line each, with the remedy of what is not well below it."""
    widths = [max(len(getattr(finding, name)) for finding in findings) for name in ("state", "check", "where")]
    lines = []
    for finding in findings:
        head = "  ".join(
            text.ljust(width) for text, width in zip((finding.state, finding.check, finding.where), widths, strict=True)
        )
        lines.append(f"{head}  {finding.seen}")
        if finding.remedy and finding.state != OK:
            lines.append(f"{' ' * (widths[0] + 2)}-> {finding.remedy}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> dict:
    return {"ok": not failed(findings), "findings": [asdict(finding) for finding in findings]}
