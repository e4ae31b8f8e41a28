"""Makes kuberay.json, gce.json and serve.json from their makers' own descriptions, for a newer version of any.

    python -m cluster.schemas.reduce kuberay ray.io_rayclusters.yaml ray.io_rayjobs.yaml ray.io_rayservices.yaml \\
        > cluster/schemas/kuberay.json
    python -m cluster.schemas.reduce gce compute.v1.json > cluster/schemas/gce.json
    python -m cluster.schemas.reduce serve > cluster/schemas/serve.json

The first are in KubeRay's helm-chart/kuberay-operator/crds, the second in the package google-api-python-client, the third
is that of the installed Ray (ray[serve]).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import yaml

KEPT = ("type", "enum", "required", "minimum", "maximum", "minLength", "maxLength", "pattern")
LIMITS = (*KEPT, "exclusiveMinimum", "exclusiveMaximum")
MANY = ("anyOf", "oneOf", "allOf")
SMALL = 120
"""Characters; a smaller part of a schema is written out where it is used."""


def strict(node: dict) -> dict:
    """An OpenAPI schema without its texts, and with unknown fields refused wherever fields are listed."""
    kept = {key: node[key] for key in KEPT if key in node}
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    for key in MANY:
        if key in node:
            kept[key] = [strict(part) for part in node[key]]
    if "items" in node:
        kept["items"] = strict(node["items"])
    if isinstance(node.get("additionalProperties"), dict):
        kept["additionalProperties"] = strict(node["additionalProperties"])
    if "properties" in node:
        kept["properties"] = {key: strict(part) for key, part in node["properties"].items()}
        kept.setdefault("additionalProperties", bool(node.get("x-kubernetes-preserve-unknown-fields")))
    return kept


def shared(schemas: dict[str, dict]) -> dict[str, dict]:
    """The same schemas with parts that occur more than once moved to definitions of their own."""
    counts: Counter[str] = Counter()

    def count(node) -> None:
        if isinstance(node, dict):
            if "type" in node or "properties" in node:
                counts[json.dumps(node, sort_keys=True)] += 1
            for key, part in node.items():  # `properties` is no schema, though a field of it may be called type
                for inner in part.values() if key == "properties" else (part,):
                    count(inner)
        elif isinstance(node, list):
            for part in node:
                count(part)

    for node in schemas.values():
        count(node)
    texts = [text for text, times in counts.items() if times > 1 and len(text) > SMALL and '"properties"' in text]
    names = {text: f"part{number}" for number, text in enumerate(texts)}

    def written(node, top: bool = False):
        if isinstance(node, list):
            return [written(part) for part in node]
        if not isinstance(node, dict):
            return node
        name = None if top else names.get(json.dumps(node, sort_keys=True))
        if name:
            return {"$ref": f"#/definitions/{name}"}
        return {
            key: {field: written(inner) for field, inner in part.items()} if key == "properties" else written(part)
            for key, part in node.items()
        }

    parts = {name: written(json.loads(text), top=True) for text, name in names.items()}
    found = {name: written(node, top=True) for name, node in schemas.items()}
    return found | {
        name: part for name, part in parts.items() if f'"#/definitions/{name}"' in json.dumps([found, parts])
    }


def kuberay(paths: list[str]) -> dict[str, dict]:
    """Of the v1 of each custom resource definition."""
    found = {}
    for path in paths:
        definition = yaml.safe_load(Path(path).read_text())["spec"]
        version = next(version for version in definition["versions"] if version["name"] == "v1")
        found[definition["names"]["kind"]] = strict(version["schema"]["openAPIV3Schema"])
    return shared(found)


def gce(path: str) -> dict[str, dict]:
    """Of Instance and all that it holds; 64-bit numbers may be text, as Google's JSON has them."""
    every, found, waiting = json.loads(Path(path).read_text())["schemas"], {}, ["Instance"]

    def converted(node: dict) -> dict:
        if "$ref" in node:
            waiting.append(node["$ref"])
            return {"$ref": f"#/definitions/{node['$ref']}"}
        kept = {"enum": node["enum"]} if "enum" in node else {}
        if node.get("format") in ("int64", "uint64"):
            kept["type"] = ["string", "integer"]
        elif node.get("type", "any") != "any":
            kept["type"] = node["type"]
        if "items" in node:
            kept["items"] = converted(node["items"])
        if "properties" in node:
            kept["properties"] = {key: converted(part) for key, part in node["properties"].items()}
            kept["additionalProperties"] = False
        elif "additionalProperties" in node:
            kept["additionalProperties"] = converted(node["additionalProperties"])
        return kept

    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = converted(every[name])
    return dict(sorted(found.items()))


def serve() -> dict[str, dict]:
    """Of serveConfigV2. Ray itself passes over a field that it does not know, and takes any mapping for some models."""
    from ray.serve.schema import ServeDeploySchema

    def converted(node: dict) -> dict:
        model = [node, *(part for part in node.get("anyOf", []) if "$ref" in part)][-1]
        if "$ref" in model:  # also beside null, which is the same as nothing, and beside any mapping
            return {"$ref": f"#/definitions/{model['$ref'].rpartition('/')[2]}"}
        kept = {key: node[key] for key in LIMITS if key in node}
        for key in MANY:
            if key in node:
                kept[key] = [converted(part) for part in node[key]]
        if "items" in node:
            kept["items"] = converted(node["items"])
        if "properties" in node:
            kept["properties"] = {key: converted(part) for key, part in node["properties"].items()}
            kept["additionalProperties"] = False
        elif isinstance(node.get("additionalProperties"), dict):
            kept["additionalProperties"] = converted(node["additionalProperties"])
        return kept

    whole = ServeDeploySchema.model_json_schema()
    definitions = {**whole.pop("$defs"), "ServeDeploySchema": whole}
    for name in ("host", "port"):
        del definitions["ServeApplicationSchema"]["properties"][name]  # refused there: http_options has them
    return {name: converted(node) for name, node in sorted(definitions.items())}


def text(definitions: dict[str, dict]) -> str:
    """One definition a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(node, separators=(',', ':'))}" for name, node in definitions.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    which, *sources = sys.argv[1:]
    made = {"kuberay": lambda: kuberay(sources), "gce": lambda: gce(sources[0]), "serve": serve}[which]()
    sys.stdout.write(text(made))
