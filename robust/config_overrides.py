"""Settings from a mapping {"section.key": value}, as the arguments of a Ray Serve application hold them.

Values are what they are: null is null and text is text. On a command line a value is text that is read as YAML
(robust/config_file.py).
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from robust.config import Config
from robust.config_file import parse
from robust.errors import ConfigError


def overridden(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with the values in the place of its own, checked as a whole.

    Raises:
        ConfigError: names the key, the value and what is allowed; all errors at once.
    """
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        *sections, name = parts = str(key).split(".")
        if not sections or not all(parts):
            raise ConfigError(f"{key}: write section.key, as in detect.frames")
        node = tree
        for part in sections:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{key}: {part} is a value, not a section; give a list or a value as a whole")
        node[name] = value
    return parse(tree)


def flattened(config: Config, sections: Iterable[str]) -> dict[str, Any]:
    """{"section.key": value} of all that these sections hold; what overridden() takes. A list is one value."""
    tree = config.model_dump(mode="json")
    return dict(_leaves({name: tree[name] for name in sections}))


def _leaves(node: dict, above: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
