"""An sbatch file: its shell syntax, Slurm's own lines, and the token."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator

from cluster.checks import Problem
from cluster.checks.common import dashboard_hosts

OPTIONS = {
    "account",
    "array",
    "begin",
    "chdir",
    "comment",
    "constraint",
    "cpus-per-gpu",
    "cpus-per-task",
    "dependency",
    "error",
    "exclude",
    "exclusive",
    "export",
    "gpus",
    "gpus-per-node",
    "gpus-per-task",
    "gres",
    "job-name",
    "licenses",
    "mail-type",
    "mail-user",
    "mem",
    "mem-per-cpu",
    "mem-per-gpu",
    "nodelist",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "open-mode",
    "output",
    "partition",
    "qos",
    "requeue",
    "reservation",
    "signal",
    "time",
}
"""Long options of sbatch; Slurm refuses others when the file is submitted."""
NEEDED = ("nodes", "ntasks-per-node", "cpus-per-task", "time")
WORD = re.compile(r"[\w./:@=+%,-]+")
ASSIGNED = re.compile(r"(folder|stage|cpus|gpus)=(.*)")


def problems(file: str, text: str) -> Iterator[Problem]:
    told = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    if told.returncode:
        yield Problem(
            "shell-syntax", file, "(the file)", told.stderr.strip()[:200], "bash does not read it; render again"
        )
    options = dict(re.findall(r"^#SBATCH\s+--([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    for key in sorted(set(options) - OPTIONS):
        yield Problem(
            "unknown-key",
            file,
            f"#SBATCH --{key}",
            options[key],
            f"sbatch has no such option; known are {', '.join(sorted(OPTIONS))}",
        )
    for key in NEEDED:
        if key not in options:
            yield Problem("missing-key", file, f"#SBATCH --{key}", None, "is required")
    for key, value in options.items():
        if value and not WORD.fullmatch(value):
            yield Problem(
                "shell-metacharacters", file, f"#SBATCH --{key}", value, "only letters, digits and ./:@=+%,- stand here"
            )
    for key in ("nodes", "cpus-per-task"):
        if not re.fullmatch(r"[1-9]\d*", options.get(key, "1")):
            yield Problem("negative-workers", file, f"#SBATCH --{key}", options[key], "give 1 or more")
    for line in text.splitlines():
        if (found := ASSIGNED.fullmatch(line)) and not _is_one_word(found[2]):
            yield Problem(
                "shell-metacharacters",
                file,
                found[1],
                found[2],
                "the shell would run a part of it; quote it as shlex.quote does",
            )
    if (
        not re.search(r"^export RAY_AUTH_MODE=token\b.*RAY_AUTH_TOKEN_PATH=", text, re.MULTILINE)
        or "umask 077" not in text
    ):
        yield Problem(
            "no-token",
            file,
            "RAY_AUTH_MODE",
            None,
            "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, the file made under umask 077: "
            "others use these nodes' network",
        )
    yield from dashboard_hosts(file, "--dashboard-host", text)


def _is_one_word(value: str) -> bool:
    """Whether the shell takes the value literally, as a single word."""
    try:
        words = shlex.split(value)
    except ValueError:
        return False
    return len(words) == 1 and shlex.quote(words[0]) == value
