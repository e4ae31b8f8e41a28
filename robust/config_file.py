"""Reads ray_config.yaml: profiles, `section.key=value` overrides, and errors that name the key.

The schema is robust/config.py.
"""
from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from robust.config import Config
from robust.config_identity import describe
from robust.config_section import Section
from robust.errors import ConfigError
from robust.object_stores.address import holds_credentials


def default_config() -> str:
    """ray_config.yaml of the working folder, else the project's own."""
    here = Path("ray_config.yaml")
    return str(here if here.exists() else Path(__file__).resolve().parent.parent / here)


def load_config(path: str | Path, overrides: Iterable[str] = (), *, profile: str | None = None) -> Config:
    """Reads ray_config.yaml, lays one of its `profiles` over it, then `section.key=value` overrides.

    Raises:
        ConfigError: names the file or key, the value, and what is allowed.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}; give one with --config") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path} is not YAML: {_place(error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path}: expected sections, found {type(tree).__name__}")
    profiles = {name: over or {} for name, over in (tree.pop("profiles", None) or {}).items()}
    if profile is not None:
        if profile not in profiles:
            raise ConfigError(f"profile {profile!r}: {path} has {', '.join(sorted(profiles)) or 'no profiles'}")
        for name in _profile_chain(profiles, profile):
            tree = merge(tree, {key: value for key, value in profiles[name].items() if key != "extends"})
    return parse(apply_overrides(tree, overrides))


def apply_overrides(tree: dict, overrides: Iterable[str]) -> dict:
    """The tree itself, with `section.key=value` texts laid over it. Raises: ConfigError: one leads nowhere."""
    for override in overrides:
        _apply_override(tree, override)
    return tree


def _place(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the line itself."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}" if mark and problem else type(error).__name__


def _profile_chain(profiles: dict, name: str) -> list[str]:
    """The profile and those it extends, the most general first."""
    chain = [name]
    while parent := profiles[chain[0]].get("extends"):
        if parent not in profiles or parent in chain:
            raise ConfigError(f"profiles.{chain[0]}.extends: {parent!r} is not another profile of this file")
        chain.insert(0, parent)
    return chain


def merge(base: dict, over: dict) -> dict:
    """`over` laid on `base`, key by key; a list replaces a list."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _apply_override(tree: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {_shown(override)}: write section.key=value, as in train.batch_size=16")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        value = text
    if isinstance(value, str):
        value = _number(value)
    for depth, part in enumerate(parts[:-1]):
        node = tree.get(part) if isinstance(tree, dict) else tree[_index(tree, part, key)]
        if node is None:
            node = tree[part] = {}
        if not isinstance(node, (dict, list)):
            raise ConfigError(f"override {key}: {'.'.join(parts[:depth + 1])} is a value, not a section")
        tree = node
    if isinstance(tree, list):
        tree[_index(tree, parts[-1], key)] = value
    else:
        tree[parts[-1]] = value


def _index(items: list, part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError(f"override {key}: {part!r} is not an index below {len(items)}")
    return int(part)


def _number(text: str) -> str | float:
    """YAML 1.1 reads 1e-4 as text; people mean a number."""
    try:
        return float(text) if any(c.isdigit() for c in text) else text
    except ValueError:
        return text


def parse(tree: dict) -> Config:
    """Validates a plain dict; all errors at once, each with its key."""
    try:
        return Config.model_validate(_numbers(tree))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item) for item in error.errors())) from None


def parse_section(section: type[Section], tree: dict) -> Any:
    """One section from a plain dict that was kept elsewhere."""
    try:
        return section.model_validate(_numbers(tree))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item) for item in error.errors())) from None


def _numbers(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _numbers(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_numbers(value) for value in node]
    is_scientific = isinstance(node, str) and "e" in node.lower() and node[:1] in "0123456789-+."
    return _number(node) if is_scientific else node


def _explain(item: dict) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key{_did_you_mean(item['loc'])}"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    told = f"{item['msg'][0].lower()}{item['msg'][1:]}"
    return f"{key}: {told}" if item["type"] == "missing" else f"{key}: {_shown(item['input'])}: {told}"


def _shown(value: Any) -> str:
    """A value for a message: no section or list of texts, whose other values may be secrets, and no secret itself."""
    parts = value if isinstance(value, (list, tuple)) else [value]
    is_plain = all(part is None or isinstance(part, (bool, int, float)) for part in parts)
    if is_plain or isinstance(value, str) and not holds_credentials(value):
        return repr(value)
    return f"a {type(value).__name__}" + (" that holds credentials" if isinstance(value, str) else "")


def _did_you_mean(location: tuple) -> str:
    section: Any = Config
    for part in location[:-1]:
        fields = getattr(section, "model_fields", None)
        # Below a list or a dict the part is an index or a free name, and leads to the one type of element.
        section = (fields[part].annotation if part in fields else None) if fields is not None else get_args(section)[-1]
    if elsewhere := _same_name(location):
        return f"; did you mean {' or '.join(elsewhere)}?"
    known = list(getattr(section, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if known else ""


def _same_name(location: tuple) -> list[str]:
    """Settings of just this name in other sections, those of the same top section before others; three at most."""
    keys = [key for key, _, _ in describe() if key.split(".")[-1] == location[-1]]
    near = [key for key in keys if key.split(".")[0] == location[0]]
    return (near or keys)[:3]
