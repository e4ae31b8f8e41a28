"""What a configuration is: as YAML, as the settings that decide a result, as their hash, and as a list for --help."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import BaseModel

from robust.config import Config


def dump_yaml(config: Config) -> str:
    """The whole configuration as YAML; it holds no secrets because the schema has no key for one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def science(node: BaseModel) -> dict:
    """The settings that decide the result, without those marked as resources; null as its field says: another value, or as if there were no such field."""
    plain: dict = {}
    for name, field in type(node).model_fields.items():
        marks, value = field.json_schema_extra or {}, getattr(node, name)
        if not marks.get("resource") and not (value is None and marks.get("absent_when_null")):
            plain[name] = marks.get("null_counts_as") if value is None else _science_value(value)
    return plain


def _science_value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return science(value)
    if isinstance(value, dict):
        return {key: _science_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_science_value(item) for item in value]
    return value


def fingerprint(config: Config, sections: Iterable[str]) -> str:
    """A short hash of the science settings of these sections and the seed; 16 hex digits."""
    plain = {name: science(getattr(config, name)) for name in sections}
    text = json.dumps({"seed": config.run.seed, **plain}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(a: Config, b: Config) -> list[str]:
    """The science settings in which two configurations differ, as `key: a -> b`."""
    flat_a, flat_b = flattened_tree(science(a)), flattened_tree(science(b))
    keys = sorted(flat_a.keys() | flat_b.keys())
    return [f"{key}: {flat_a.get(key)!r} -> {flat_b.get(key)!r}" for key in keys if flat_a.get(key) != flat_b.get(key)]


def flattened_tree(node: Any, prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of nested mappings; one that is empty is a value."""
    if isinstance(node, dict) and node:
        return {k: v for key, value in node.items() for k, v in flattened_tree(value, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): node}


def describe(section: type[BaseModel] = Config, prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, meaning) of every setting, in order, for --help."""
    lines = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines += describe(field.annotation, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else _plain_default(field.default)
        lines.append((f"{prefix}{name}", default, field.description or ""))
    return lines


def _plain_default(value: Any) -> str:
    return json.dumps(_science_value(value))
