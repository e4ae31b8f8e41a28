"""The jobs' own settings that go along with the files."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from cluster.checks import Problem
from cluster.checks.reading import UNREADABLE
from robust.config_file import parse
from robust.errors import ConfigError


def settings_problems(file: str, text: str) -> Iterator[Problem]:
    """Whether the jobs will take them, and will join the cluster that they run on."""
    try:
        config = parse(yaml.safe_load(text))
    except (ConfigError, *UNREADABLE) as error:
        for line in str(error).splitlines():
            key, _, told = line.partition(": ")
            yield Problem("settings", file, key, told, "the jobs would refuse their settings; render again")
        return
    if config.cluster.address != "auto" or config.cluster.local_s3:
        yield Problem(
            "settings",
            file,
            "cluster.address",
            config.cluster.address,
            "give auto, and cluster.local_s3 false: the job joins its cluster",
        )


def asks_for_tls(text: str) -> bool:
    """Whether the settings have cluster.tls; False where they cannot be read, which `settings_problems` tells."""
    try:
        return parse(yaml.safe_load(text)).cluster.tls
    except (ConfigError, *UNREADABLE):
        return False
