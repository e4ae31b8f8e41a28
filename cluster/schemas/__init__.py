"""JSON schemas of what others read: field names and types only, an unknown field being an error.

kuberay.json: RayCluster, RayJob and RayService (v1), from KubeRay's custom resource definitions (Apache-2.0, commit feeaf72 of
August 2026); Kubernetes itself drops a field that it does not know, silently. gce.json: Instance, from Google's
discovery document compute.v1, as in google-api-python-client 2.202.0 (Apache-2.0). serve.json: what Ray Serve 2.60.0
(Apache-2.0) reads as serveConfigV2.
All were made by `python -m cluster.schemas.reduce`.
"""

import functools
import json
from pathlib import Path


@functools.cache
def schema(name: str, kind: str) -> dict:
    """The schema of one kind, such as ("kuberay", "RayJob")."""
    definitions = json.loads((Path(__file__).parent / f"{name}.json").read_text())
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": f"#/definitions/{kind}",
        "definitions": definitions,
    }
