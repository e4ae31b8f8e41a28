"""What several kinds are checked for: values of secrets, the lock's image, counts of nodes, an open dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cluster.checks import Problem
from cluster.description import tag
from cluster.kinds.image import VARIANTS

KEYS = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bGOOG[0-9A-Z]{20,}\b")
NAMED = re.compile(r"""(?ix) (?P<key> [A-Z0-9_.-]*
                       (?: secret_?(?:access_?)?key | access_?key_?id | password | auth_?token | api_?key ) )
                       ["']? \s* [:=] \s* ["']? (?P<value> [^\s"'$~/{}\[\],:=] [^\s"'{}\[\],]{7,} )""")
VARIABLE = re.compile(r"(?i)secret_?access_?key|access_?key_?id|password|auth_?token$|api_?key")
"""A name that a secret has; RAY_AUTH_TOKEN_PATH names a file."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
REFERENCE = "name a Secret, a role or a file in its place, take the value out of every copy, and make a new one"


def secret_values(files: dict[str, str]) -> Iterator[Problem]:
    """Secrets written out in the text of a file. The value is not repeated."""
    for file, text in files.items():
        for number, line in enumerate(text.splitlines(), start=1):
            if KEYS.search(line):
                yield Problem("secret-value", file, f"line {number}", "(a key)", REFERENCE)
            elif (found := NAMED.search(line)) and found["value"].lower() not in (
                "null",
                "none",
                "required",
                "valuefrom",
            ):
                yield Problem("secret-value", file, f"line {number}, {found['key']}", "(a value)", REFERENCE)


def image_of_lock(file: str, key: str, image: str) -> Iterator[Problem]:
    """Whether the image's tag is the one that the locks give now."""
    expected = [tag(variant) for variant in VARIANTS]
    if str(image).rpartition(":")[2] not in expected:
        yield Problem(
            "image-not-of-lock",
            file,
            key,
            image,
            f"the locks of this checkout make an image with the tag {' or '.join(expected)}; "
            "build it (docs/cluster/image.md) and render again",
        )


def counts(file: str, key: str, group: dict, low: str, high: str, *others: str) -> Iterator[Problem]:
    """Of nodes in a group; `low`, `high` and `others` are the names of its fields."""
    numbers = {name: group[name] for name in (low, high, *others) if isinstance(group.get(name), int)}
    for name, value in numbers.items():
        if value < 0:
            yield Problem("negative-workers", file, f"{key}.{name}", value, "give 0 or more")
    if low in numbers and high in numbers and numbers[low] > numbers[high]:
        remedy = f"{high} is {numbers[high]}; lower one or raise the other"
        yield Problem("min-above-max", file, f"{key}.{low}", numbers[low], remedy)


def dashboard_hosts(file: str, key: str, commands: str) -> Iterator[Problem]:
    """Whether a `ray start` lets others than its own machine reach the dashboard."""
    for host in re.findall(r"--dashboard-host[= ](\S+)", commands):
        if host.strip("'\"") not in LOOPBACK:
            remedy = "give 127.0.0.1 and use a tunnel: others may be in the nodes' network"
            yield Problem("dashboard-open", file, key, f"--dashboard-host={host}", remedy)
