"""Settings as a mapping {"section.key": value}: what the arguments of a Ray Serve application hold.

They are read as on a command line: text is read as YAML, any other value is what it is. So text that YAML would take for
something else, such as a run that is called on, stands there in quotes of its own.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from robust.config import Config
from robust.config_file import apply_overrides, parse
from robust.config_identity import flattened_tree


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Each as it stands on a command line."""
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]


def overridden(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with the values in the place of its own, checked as a whole.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    return parse(apply_overrides(config.model_dump(mode="json"), as_overrides(values)))


def flattened(config: Config, sections: Iterable[str]) -> dict[str, Any]:
    """All that these sections hold, as overridden() takes it. A list is one value."""
    tree = config.model_dump(mode="json")
    leaves = flattened_tree({name: tree[name] for name in sections})
    return {key: _quoted(value) if isinstance(value, str) else value for key, value in leaves.items()}


def _quoted(text: str) -> str:
    return text if apply_overrides({}, [f"a={text}"])["a"] == text else json.dumps(text)
