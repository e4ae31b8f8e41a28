"""Kubernetes manifests: KubeRay's own schema with unknown fields refused, and pods that are safe and alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import yaml

from cluster.checks import Problem, endpoint, fitted, operators
from cluster.checks.common import LOOPBACK, REFERENCE, VARIABLE, counts, image_of_lock
from cluster.checks.reading import UNREADABLE
from cluster.checks.settings import settings_problems
from cluster.description import locked_version
from cluster.kinds.pods import GPU
from cluster.schemas import schema
from cluster.tls import VARIABLES
from robust.config import Config
from robust.config_file import parse
from robust.errors import ConfigError

CLUSTERS = {"RayCluster": "spec", "RayJob": "spec.rayClusterSpec", "RayService": "spec.rayClusterConfig"}
"""Where each has its cluster."""
Images = list[tuple[str, str, str]]
"""(file, key, image) of every container seen."""
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def _fields(*required: str, **properties: dict) -> dict:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


METADATA = _fields(
    "name", "namespace", name={"type": "string"}, namespace={"type": "string"}, labels=TEXTS, annotations=TEXTS
)
SELECTOR = _fields(matchLabels=TEXTS, matchExpressions={"type": "array"})
PEERS = {
    "type": "array",
    "items": _fields(
        podSelector=SELECTOR,
        namespaceSelector=SELECTOR,
        ipBlock=_fields("cidr", cidr={"type": "string"}, **{"except": {"type": "array", "items": {"type": "string"}}}),
    ),
}
PORTS = {
    "type": "array",
    "items": _fields(
        port={"type": ["integer", "string"]}, endPort={"type": "integer"}, protocol={"enum": ["TCP", "UDP", "SCTP"]}
    ),
}
POLICY = _fields(
    "podSelector",
    podSelector=SELECTOR,
    policyTypes={"type": "array", "items": {"enum": ["Ingress", "Egress"]}},
    ingress={"type": "array", "items": _fields(**{"from": PEERS}, ports=PORTS)},
    egress={"type": "array", "items": _fields(to=PEERS, ports=PORTS)},
)
HEADER = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": METADATA}
SCHEMAS = {
    "ServiceAccount": (
        "v1",
        _fields(
            *HEADER, **HEADER, automountServiceAccountToken={"type": "boolean"}, imagePullSecrets={"type": "array"}
        ),
    ),
    "ConfigMap": ("v1", _fields(*HEADER, **HEADER, data=TEXTS)),
    "NetworkPolicy": ("networking.k8s.io/v1", _fields(*HEADER, "spec", **HEADER, spec=POLICY)),
}
"""Of what is not KubeRay's, and rendered here."""


def problems(documents: list[tuple[str, dict]]) -> Iterator[Problem]:
    """
    Args:
        documents: (file, manifest) of all files; a NetworkPolicy in one counts for the pods of another.
    """
    images: Images = []
    fitting = []
    for file, document in documents:
        found, left = _fitted(file, document)
        yield from found
        fitting.append((file, left))
    protected = [selector for _, document in fitting if (selector := _protects(document))]
    policies = [document.get("spec") or {} for _, document in fitting if document.get("kind") == "NetworkPolicy"]
    for file, document in fitting:
        kind = document.get("kind")
        if kind in CLUSTERS:
            spec, under = document.get("spec") or {}, CLUSTERS[kind]
            cluster = spec if kind == "RayCluster" else spec.get(under.removeprefix("spec.")) or {}
            yield from _cluster(file, under, cluster, protected, images)
            yield from operators.problems(file, document, under, cluster)
            yield from _tls(file, under, cluster, wanted=_settings(fitting).cluster.tls)
            if kind == "RayService":
                yield from endpoint.problems(file, document, policies, _settings(fitting))
            if "submitterPodTemplate" in spec:
                yield from _pod(file, "spec.submitterPodTemplate", spec["submitterPodTemplate"], images)
        elif kind == "ConfigMap":
            for name, text in (document.get("data") or {}).items():
                yield from settings_problems(f"{file}, {name}", text)
    usual = Counter(image for _, _, image in images).most_common(1)
    for file, key, image in images:
        if image != usual[0][0]:
            yield Problem("image-differs", file, key, image, f"all pods need one and the same image, {usual[0][0]}")


def _fitted(file: str, document: dict) -> tuple[list[Problem], dict]:
    """What its schema says, and the document without what has a wrong type."""
    kind = str(document.get("kind"))
    if kind in CLUSTERS:
        version, form = "ray.io/v1", schema("kuberay", kind)
    elif kind in SCHEMAS:
        version, form = SCHEMAS[kind]
    else:
        known = ", ".join((*CLUSTERS, *SCHEMAS))
        return [Problem("unknown-kind", file, "kind", document.get("kind"), f"known are {known}")], {}
    found, left = fitted(file, document, form)
    if kind in CLUSTERS:  # whose own schema takes any metadata
        more, metadata = fitted(file, left.get("metadata") or {}, METADATA, "metadata")
        found, left = [*found, *more], {**left, "metadata": metadata}
    return [*_version(file, document, version), *found], left


def _settings(documents: list[tuple[str, dict]]) -> Config:
    """Of the ConfigMap; the defaults where there is none, or a wrong one, which is told elsewhere."""
    for _, document in documents:
        text = (document.get("data") or {}).get("ray_config.yaml") if document.get("kind") == "ConfigMap" else None
        try:
            if text:
                return parse(yaml.safe_load(text))
        except (ConfigError, *UNREADABLE):
            pass
    return Config()


def _protects(document: dict) -> dict:
    """The labels of the pods whose incoming connections a manifest restricts; none if it is no such NetworkPolicy."""
    spec = document.get("spec") or {}
    if document.get("kind") != "NetworkPolicy" or "Ingress" not in (spec.get("policyTypes") or []):
        return {}
    return (spec.get("podSelector") or {}).get("matchLabels") or {}


def _version(file: str, document: dict, expected: str) -> Iterator[Problem]:
    if document.get("apiVersion") != expected:
        yield Problem("not-allowed", file, "apiVersion", document.get("apiVersion"), f"give {expected}")


def _cluster(file: str, key: str, spec: dict, protected: list[dict], images: Images) -> Iterator[Problem]:
    if spec.get("rayVersion") != locked_version("ray"):
        yield Problem(
            "ray-version",
            file,
            f"{key}.rayVersion",
            spec.get("rayVersion"),
            f"requirements.lock, and so the image, has {locked_version('ray')}",
        )
    if (spec.get("authOptions") or {}).get("mode") != "token":
        yield Problem(
            "no-token",
            file,
            f"{key}.authOptions.mode",
            (spec.get("authOptions") or {}).get("mode"),
            "give token: without one, whoever reaches a port runs code",
        )
    head = spec.get("headGroupSpec")
    if not head:
        yield Problem("no-head", file, f"{key}.headGroupSpec", head, "a cluster needs a head")
    else:
        yield from _head(file, f"{key}.headGroupSpec", head, protected, images)
    names = [group.get("groupName") for group in spec.get("workerGroupSpecs") or []]
    for group in spec.get("workerGroupSpecs") or []:
        where = f"{key}.workerGroupSpecs.{group.get('groupName')}"
        if names.count(group.get("groupName")) > 1:
            yield Problem("duplicate-group", file, where, group.get("groupName"), "every group needs a name of its own")
        yield from counts(file, where, group, "minReplicas", "maxReplicas", "replicas")
        yield from _pod(file, f"{where}.template", group.get("template") or {}, images)


def _tls(file: str, key: str, spec: dict, *, wanted: bool) -> Iterator[Problem]:
    """Whether the operator is asked for certificates where the settings ask for TLS, and may give them to every pod."""
    enabled = (spec.get("tlsOptions") or {}).get("enabled")
    if wanted and enabled is not True:
        remedy = "give true: cluster.tls is true in common.yaml, and the jobs would refuse the cluster"
        yield Problem("no-tls", file, f"{key}.tlsOptions.enabled", enabled, remedy)
    if not enabled:
        return
    for group in [spec.get("headGroupSpec") or {}, *(spec.get("workerGroupSpecs") or [])]:
        name = group.get("groupName", "headGroupSpec")
        for container in ((group.get("template") or {}).get("spec") or {}).get("containers") or []:
            for variable in container.get("env") or []:
                if variable.get("name") in VARIABLES:
                    remedy = "take it out: the operator sets it, and refuses a cluster that does"
                    yield Problem("tls-by-hand", file, f"{key}.{name}.env.{variable['name']}", "(a value)", remedy)


def _head(file: str, key: str, head: dict, protected: list[dict], images: Images) -> Iterator[Problem]:
    start, template = head.get("rayStartParams") or {}, head.get("template") or {}
    if start.get("num-cpus") != "0":
        yield Problem(
            "head-takes-work",
            file,
            f"{key}.rayStartParams.num-cpus",
            start.get("num-cpus"),
            "give '0': work on the head can take the whole cluster down",
        )
    labels = (template.get("metadata") or {}).get("labels") or {}
    covered = any(selector.items() <= labels.items() for selector in protected)
    if start.get("dashboard-host", "0.0.0.0") not in LOOPBACK and not covered:
        yield Problem(
            "dashboard-open",
            file,
            f"{key}.rayStartParams.dashboard-host",
            start.get("dashboard-host"),
            "only with a NetworkPolicy whose podSelector matches the head's labels; common.yaml has it",
        )
    if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
        yield Problem(
            "dashboard-open",
            file,
            f"{key}.serviceType",
            head.get("serviceType"),
            "give ClusterIP and no ingress, and use kubectl port-forward",
        )
    yield from _pod(file, f"{key}.template", template, images, is_head=True)


def _pod(file: str, key: str, template: dict, images: Images, *, is_head: bool = False) -> Iterator[Problem]:
    spec = template.get("spec") or {}
    if not is_head and spec.get("automountServiceAccountToken") is not False:
        where, remedy = (
            f"{key}.spec.automountServiceAccountToken",
            "give false: only the head's autoscaler speaks to it",
        )
        yield Problem("api-token", file, where, spec.get("automountServiceAccountToken"), remedy)
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield Problem(
                "dashboard-open" if name == "hostNetwork" else "root-user",
                file,
                f"{key}.spec.{name}",
                True,
                "take it out: the pod belongs in its own network",
            )
    whole = spec.get("securityContext") or {}
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        where = f"{key}.spec.containers.{container.get('name')}"
        images.append((file, f"{where}.image", str(container.get("image"))))
        yield from image_of_lock(file, f"{where}.image", container.get("image"))
        yield from _rights(file, where, whole | (container.get("securityContext") or {}))
        yield from _amounts(file, where, container, spec)
        for variable in container.get("env") or []:
            if VARIABLE.search(str(variable.get("name"))) and "value" in variable:
                yield Problem("secret-value", file, f"{where}.env.{variable['name']}", "(a value)", REFERENCE)


def _rights(file: str, key: str, context: dict) -> Iterator[Problem]:
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") in (0, None) or context.get("privileged"):
        yield Problem(
            "root-user",
            file,
            f"{key}.securityContext",
            context,
            "give runAsNonRoot: true and a runAsUser above 0, and no privileged",
        )
    if context.get("allowPrivilegeEscalation") is not False or "ALL" not in (context.get("capabilities") or {}).get(
        "drop", []
    ):
        yield Problem(
            "root-user",
            file,
            f"{key}.securityContext",
            context,
            "give allowPrivilegeEscalation: false and capabilities.drop: [ALL]",
        )


def _amounts(file: str, key: str, container: dict, spec: dict) -> Iterator[Problem]:
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name in ("cpu", "memory"):
        if name not in limits:
            yield Problem(
                "no-limit",
                file,
                f"{key}.resources.limits.{name}",
                None,
                "give one: Ray takes a pod's limits for what the node has",
            )
    wants = GPU in requests or any(toleration.get("key") == GPU for toleration in spec.get("tolerations") or [])
    if wants and (GPU not in limits or requests.get(GPU, limits.get(GPU)) != limits.get(GPU)):
        yield Problem(
            "gpu-without-limit",
            file,
            f"{key}.resources.limits.{GPU}",
            limits.get(GPU),
            f"give the number of GPUs, as requested ({requests.get(GPU)}): "
            "Kubernetes gives none without, and Ray sees none",
        )
