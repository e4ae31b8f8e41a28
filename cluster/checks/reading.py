"""Reads YAML and JSON as Kubernetes and Ray do, but tells what they would pass over or stumble on."""

from __future__ import annotations

import json
from typing import Any

import yaml

from cluster.checks import Problem

UNREADABLE = (ValueError, TypeError, RecursionError, yaml.YAMLError)
"""What the parsers raise: also for a date that is none, a key that is a mapping, and a hundred brackets in a row."""


def read(file: str, text: str) -> tuple[list[dict], list[Problem]]:
    """The mappings in a YAML or JSON file."""
    try:
        documents = [json.loads(text)] if file.endswith(".json") else list(yaml.load_all(text, Loader=Unrepeated))
        for document in documents:
            _require_a_tree(document, ())
    except UNREADABLE as error:
        told = " ".join(str(error).split())[:200]
        return [], [Problem("not-yaml", file, "(the file)", told, "it cannot be read; render again")]
    return (
        [document for document in documents if isinstance(document, dict)],
        [
            Problem("not-yaml", file, "(the file)", document, "expected keys and values")
            for document in documents
            if not isinstance(document, dict)
        ],
    )


def _require_a_tree(node: Any, above: tuple[int, ...]) -> None:
    """Raises: ValueError: a key that is no text, or an anchor that holds itself."""
    if not isinstance(node, (dict, list)):
        return
    if id(node) in above:
        raise ValueError("an anchor holds itself")
    for key in node if isinstance(node, dict) else ():
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r} is no text; quote it")
    for value in node.values() if isinstance(node, dict) else node:
        _require_a_tree(value, (*above, id(node)))


class Unrepeated(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Refuses a key that stands twice: YAML would take the second and say nothing."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
