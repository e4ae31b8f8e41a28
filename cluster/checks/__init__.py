"""Strict checks of the files of a cluster: what their readers would drop in silence, refuse late, or leave open.

Each kind has a function `problems(files)` -> list of Problem, where files is {path: text}.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema

NAMES = {"additionalProperties": "unknown-key", "type": "wrong-type", "required": "missing-key"}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what kind of mistake, where, what stands there, and what to do."""

    name: str
    file: str
    key: str
    value: Any
    remedy: str

    def __str__(self) -> str:
        text = repr(self.value)
        return (
            f"{self.file}: {self.key}: {text if len(text) <= 120 else text[:117] + '...'}: {self.remedy} [{self.name}]"
        )


def against_schema(file: str, document: Any, schema: dict, under: str = "") -> Iterator[Problem]:
    """Every deviation from a JSON schema; one of an unknown field names the field."""
    for error in jsonschema.Draft7Validator(schema).iter_errors(document):
        path = [under] if under else []
        path += [str(part) for part in error.absolute_path]
        name, value = NAMES.get(error.validator, "not-allowed"), error.instance
        if name == "unknown-key":
            for key in sorted(set(error.instance) - set(error.schema.get("properties", {}))):
                yield Problem(
                    name,
                    file,
                    ".".join([*path, str(key)]),
                    error.instance[key],
                    f"no such field here; known are {', '.join(sorted(error.schema.get('properties', {})))}",
                )
        elif name == "missing-key":
            absent = [key for key in error.validator_value if key not in error.instance]
            yield Problem(name, file, ".".join([*path, absent[0]]), None, "is required")
        else:
            yield Problem(
                name, file, ".".join(path) or "(the document)", value, error.message.replace(repr(value), "it", 1)[:200]
            )
