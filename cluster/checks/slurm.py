"""An sbatch file: its shell syntax, Slurm's own lines, and the token."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator

from cluster.checks import Problem
from cluster.checks.common import dashboard_hosts
from cluster.tls import FILES

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
ASSIGNED = re.compile(r"(folder|stage|cpus|gpus|tls)=(.*)")


def problems(file: str, text: str, *, tls: bool = False) -> Iterator[Problem]:
    """
    Args:
        tls: whether the job's settings ask for it (cluster.tls).
    """
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
    yield from _tls(file, text, tls)


def _tls(file: str, text: str, wanted: bool) -> Iterator[Problem]:
    """Whether TLS is on where the settings ask for it, and then every process has all that Ray needs for it."""
    given = re.search(r"^tls=(.*)$", text, re.MULTILINE)
    if wanted and (given is None or given[1] != "yes"):
        remedy = "give yes: cluster.tls is true in ray_config.yaml, and the job would refuse the cluster"
        yield Problem("no-tls", file, "tls", given and given[1], remedy)
    exported = re.search(r"^\s*export RAY_USE_TLS=1\b.*$", text, re.MULTILINE)
    missing = [name for name in FILES if exported is None or f" {name}=" not in exported[0]]
    if missing or not re.search(r"^[^#]*-m cluster\.tls ", text, re.MULTILINE):
        remedy = f"make the certificate with cluster.tls, and export RAY_USE_TLS=1 and {', '.join(FILES)} in one line"
        yield Problem("no-tls", file, missing[0] if missing else "cluster.tls", None, remedy)


def _is_one_word(value: str) -> bool:
    """Whether the shell takes the value literally, as a single word."""
    try:
        words = shlex.split(value)
    except ValueError:
        return False
    return len(words) == 1 and shlex.quote(words[0]) == value
