"""Strict checks of the files of a cluster: what their readers would drop in silence, refuse late, or leave open.

`cluster.check.problems_of(kind, files)` reads the files and asks the module of each: `kuberay.problems` takes all
manifests at once, `ray_up.problems`, `iam.policy` and `iam.role` one parsed file, `slurm.problems` and `image.problems`
a text. All yield Problem, and none raises, whatever stands in a file.
"""

from __future__ import annotations

import copy
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


def fitted(file: str, document: dict, schema: dict, under: str = "") -> tuple[list[Problem], dict]:
    """Deviations from a schema, and the document without what has a wrong type: other checks need not ask again."""
    found = list(against_schema(file, document, schema, under))
    wrong = {tuple(error.absolute_path) for error in _type_errors(document, schema)} if found else set()
    left = copy.deepcopy(document) if wrong else document
    for path in sorted(wrong, key=_by_position, reverse=True):  # from the end: what is before keeps its index
        if not path:
            return found, {}
        holder = left
        for part in path[:-1]:
            holder = holder[part]
        del holder[path[-1]]
    return found, left


def _by_position(path: tuple[str | int, ...]) -> list[str]:
    return [str(part).zfill(6) for part in path]


def _type_errors(document: Any, schema: dict) -> Iterator[jsonschema.ValidationError]:
    return (error for error in jsonschema.Draft7Validator(schema).iter_errors(document) if error.validator == "type")
