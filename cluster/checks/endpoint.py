"""The RayService: what Ray Serve would pass over or refuse late in serveConfigV2, and who reaches the endpoint."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.checks import Problem, fitted
from cluster.checks.common import LOOPBACK, REFERENCE, VARIABLE
from cluster.checks.reading import read
from cluster.demands import Demand, endpoint_demands, fitting, without_room
from cluster.description import PACKAGES, ROOT
from cluster.kinds.pods import GPU, PART_OF
from cluster.kinds.rayservice import IMPORT_PATH, PORT_NAME
from cluster.schemas import schema
from robust.config import Config
from robust.config_overrides import overridden
from robust.errors import ConfigError

EVERYBODY = ("0.0.0.0/0", "::/0")
UNLIMITED = 100
"""Replicas of Ray Serve's "auto" without a max_replicas."""


@dataclass(frozen=True)
class Served:
    """A RayService as it was read, without what has a wrong type.

    Attributes:
        file: the manifest's, for messages.
        inner: the same for messages about serveConfigV2.
        groups: the head's spec and those of the workers, by where they are.
    """

    file: str
    inner: str
    spec: dict
    config: dict
    groups: dict[str, dict]

    @property
    def applications(self) -> list[tuple[str, dict]]:
        return [(f"applications.{number}", item) for number, item in enumerate(self.config.get("applications") or [])]

    @property
    def workers(self) -> list[dict]:
        return list(self.groups.values())[1:]

    @property
    def http(self) -> dict:
        return self.config.get("http_options") or {}

    @property
    def port(self) -> int:
        return self.http.get("port", 8000)


def problems(file: str, document: dict, policies: list[dict], settings: Config) -> Iterator[Problem]:
    """
    Args:
        document: a RayService in which nothing has a wrong type.
        policies: the specs of all NetworkPolicies.
        settings: those of the ConfigMap, which the application lays its arguments over.
    """
    spec = document.get("spec") or {}
    inner, text = f"{file}, serveConfigV2", spec.get("serveConfigV2")
    if not text:
        yield Problem("missing-key", file, "spec.serveConfigV2", text, "is required: without it nothing answers")
        return
    parsed, wrong = read(inner, text)
    yield from wrong
    if len(parsed) != 1:
        if not wrong:
            yield Problem("not-yaml", inner, "(the text)", len(parsed), "give one document; Ray reads no more")
        return
    found, config = fitted(inner, parsed[0], schema("serve", "ServeDeploySchema"))
    yield from found
    cluster = spec.get("rayClusterConfig") or {}
    groups = {"headGroupSpec": cluster.get("headGroupSpec") or {}}
    for group in cluster.get("workerGroupSpecs") or []:
        groups[f"workerGroupSpecs.{group.get('groupName')}"] = group
    served = Served(file, inner, spec, config, {f"spec.rayClusterConfig.{key}": group for key, group in groups.items()})
    variable = settings.serve.token_env
    for key, application in served.applications:
        yield from _import(inner, f"{key}.import_path", application.get("import_path"))
        yield from _code(inner, key, application, variable)
        try:
            config = overridden(settings, application.get("args") or {})
        except ConfigError as error:
            for line in str(error).splitlines():
                name, _, told = line.partition(": ")
                remedy = "the application would refuse its arguments; render again"
                yield Problem("settings", inner, f"{key}.args.{name}", told, remedy)
        else:
            variable = config.serve.token_env
            yield from _agreement(served, f"{key}.args", config)
        for number, deployment in enumerate(application.get("deployments") or []):
            yield from _room(served, f"{key}.deployments.{number}", deployment)
    yield from _ports(served)
    yield from _tokens(served, variable)
    yield from _reach(served, policies)
    if spec.get("excludeHeadPodFromServeSvc") is not True:
        remedy = "give true: requests would load the head, and the operator may not ask it whether it is ready"
        yield Problem("head-takes-work", file, "spec.excludeHeadPodFromServeSvc", None, remedy)


def _import(file: str, key: str, path: str | None) -> Iterator[Problem]:
    """Whether the image has what is named: read, and not imported."""
    module, _, name = str(path).partition(":") if ":" in str(path) else str(path).rpartition(".")
    parts = module.split(".")
    if not all(part.isidentifier() for part in (*parts, name)) or parts[0] not in PACKAGES:
        remedy = f"give module:function, the module being one of the image's own ({', '.join(PACKAGES)})"
        yield Problem("no-such-import", file, key, path, remedy)
        return
    source = ROOT.joinpath(*parts).with_suffix(".py")
    if not source.is_file():
        yield Problem("no-such-import", file, key, path, f"there is no {source.relative_to(ROOT)}; give {IMPORT_PATH}")
        return
    defined = [node for node in ast.parse(source.read_text()).body if getattr(node, "name", None) == name]
    if not isinstance(defined[-1] if defined else None, ast.FunctionDef):
        yield Problem("no-such-import", file, key, path, f"{module} has no function {name}; give {IMPORT_PATH}")
    elif len(defined[-1].args.posonlyargs) + len(defined[-1].args.args) != 1:
        yield Problem("no-such-import", file, key, path, "Ray Serve gives a builder one argument, a mapping")


def _code(file: str, key: str, application: dict, token: str) -> Iterator[Problem]:
    """Whether the code that runs is the image's, and no secret stands in its environment."""
    places = {f"{key}.runtime_env": application.get("runtime_env") or {}}
    for number, deployment in enumerate(application.get("deployments") or []):
        options = deployment.get("ray_actor_options") or {}
        places[f"{key}.deployments.{number}.ray_actor_options.runtime_env"] = options.get("runtime_env") or {}
    for where, environment in places.items():
        for name in sorted(set(map(str, environment)) - {"env_vars"}):
            remedy = "take it out: the image holds the code and the packages, and nothing else may bring some"
            yield Problem("code-not-of-image", file, f"{where}.{name}", environment.get(name), remedy)
        variables = environment.get("env_vars")
        for name in variables if isinstance(variables, dict) else ():
            if VARIABLE.search(str(name)) or name == token:
                yield Problem("secret-value", file, f"{where}.env_vars.{name}", "(a value)", REFERENCE)


def _agreement(served: Served, key: str, config: Config) -> Iterator[Problem]:
    """Whether what the application was told is what the cluster has: port, and room for its processes."""
    if config.serve.port != served.port:
        remedy = f"the application's serve.port is {config.serve.port}; give the same"
        yield Problem("port-differs", served.inner, "http_options.port", served.port, remedy)
    asked = endpoint_demands(config, "most")
    enough = sum(demand.workers for demand in asked)  # more nodes than processes would change nothing
    nodes = [_size(group) for group in served.workers for _ in range(min(group.get("maxReplicas", 0), enough))]
    if (demand := without_room(nodes, asked)) is not None:
        most = sum(group.get("maxReplicas", 0) for group in served.workers)
        remedy = f"{demand} do not fit beside the rest on the {most} nodes at most; ask for less, or raise maxReplicas"
        yield Problem("no-room", served.inner, f"{key}.{demand.key}", demand.workers, remedy)


def _room(served: Served, key: str, deployment: dict) -> Iterator[Problem]:
    """Whether the most replicas of an overridden deployment fit; else requests wait for some that never come."""
    scaling, fixed = deployment.get("autoscaling_config"), deployment.get("num_replicas", 1)
    if scaling is not None or not isinstance(fixed, int):
        usual = 1 if fixed != "auto" else UNLIMITED
        where, most = f"{key}.autoscaling_config.max_replicas", (scaling or {}).get("max_replicas", usual)
    else:
        where, most = f"{key}.num_replicas", fixed
    options = deployment.get("ray_actor_options") or {}
    demand = Demand(where, "serve", most, options.get("num_cpus") or 1, options.get("num_gpus") or 0)
    a_node, places = deployment.get("max_replicas_per_node") or most, 0
    for group in served.workers:
        places += max(0, min(a_node, fitting(*_size(group), demand))) * max(0, group.get("maxReplicas", 0))
    if places < most:
        remedy = f"the worker groups have room for {places} at their largest; lower it, or raise maxReplicas"
        yield Problem("no-room", served.inner, where, most, remedy)
    if isinstance((scaling or {}).get("min_replicas"), int) and scaling["min_replicas"] > most:
        remedy = f"max_replicas is {most}; lower one or raise the other"
        yield Problem("min-above-max", served.inner, f"{key}.autoscaling_config.min_replicas", scaling["min_replicas"], remedy)


def _size(group: dict) -> tuple[float, float]:
    """(CPUs, GPUs) of a node, as Ray will see them."""
    limits = (_container(group).get("resources") or {}).get("limits") or {}
    return _number(limits.get("cpu")), _number(limits.get(GPU))


def _number(quantity: str | int | None) -> float:
    """A Kubernetes quantity of CPUs or GPUs, such as 14 or 500m; 0 if it is none."""
    text = str(quantity)
    try:
        return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        return 0.0


def _ports(served: Served) -> Iterator[Problem]:
    """Whether the proxies, KubeRay's Service and its probes mean the same port."""
    for key, group in served.groups.items():
        ports = _container(group).get("ports") or []
        named = [port.get("containerPort") for port in ports if port.get("name") == PORT_NAME]
        where = f"{key}.template.spec.containers.0.ports"
        if not named:
            remedy = f"name one {PORT_NAME!r}: without, KubeRay makes no Service for the endpoint and asks port 8000"
            yield Problem("no-serve-port", served.file, where, ports, remedy)
        elif named[0] != served.port:
            remedy = f"http_options.port of serveConfigV2 is {served.port}; give the same"
            yield Problem("port-differs", served.file, f"{where}.{PORT_NAME}", named[0], remedy)
    if served.http.get("host") in LOOPBACK:
        remedy = "give 0.0.0.0, the pod network: on the loopback no other pod reaches it"
        yield Problem("endpoint-closed", served.inner, "http_options.host", served.http["host"], remedy)


def _tokens(served: Served, variable: str) -> Iterator[Problem]:
    """Whether every pod has the endpoint's token from a Secret: the application is built on any of them."""
    for key, group in served.groups.items():
        where = f"{key}.template.spec.containers.0.env.{variable}"
        given = [item for item in _container(group).get("env") or [] if item.get("name") == variable]
        if any("value" in item for item in given):
            yield Problem("secret-value", served.file, where, "(a value)", REFERENCE)
        elif not any("secretKeyRef" in (item.get("valueFrom") or {}) for item in given):
            remedy = "refer to a Secret (valueFrom.secretKeyRef): without a token the endpoint answers nobody"
            yield Problem("no-token", served.file, where, None, remedy)


def _reach(served: Served, policies: list[dict]) -> Iterator[Problem]:
    """Whether just the endpoint's port is open, and just to whom a policy names."""
    kind = ((served.spec.get("serveService") or {}).get("spec") or {}).get("type", "ClusterIP")
    if kind != "ClusterIP":
        remedy = "give ClusterIP: a proxy of yours with TLS belongs between the endpoint and the world"
        yield Problem("endpoint-open", served.file, "spec.serveService.spec.type", kind, remedy)
    rules: list[dict] = []
    for key, group in served.groups.items():
        labels = ((group.get("template") or {}).get("metadata") or {}).get("labels") or {}
        ours = [policy for policy in policies if _selects(policy, labels)]
        if not ours:
            remedy = "only with a NetworkPolicy whose podSelector matches these labels; rayservice.yaml has it"
            yield Problem("endpoint-open", served.file, f"{key}.template.metadata.labels", labels, remedy)
        for rule in [rule for policy in ours for rule in policy.get("ingress") or [] if rule not in rules]:
            rules.append(rule)
            ports, peers = [port.get("port") for port in rule.get("ports") or []], rule.get("from") or []
            everybody = not peers or any(_is_everybody(peer) for peer in peers)
            if everybody or (served.port in ports and ports != [served.port]) or not (ports or _only_ours(peers, labels)):
                remedy = f"name whom it lets in, and port {served.port} alone"
                yield Problem("endpoint-open", served.file, "spec.ingress", rule, remedy)
    if not any(port.get("port") == served.port for rule in rules for port in rule.get("ports") or []):
        remedy = f"no NetworkPolicy lets anybody in at port {served.port}; render again"
        yield Problem("endpoint-closed", served.file, "spec.ingress", served.port, remedy)


def _selects(policy: dict, labels: dict) -> bool:
    selector = policy.get("podSelector") or {}
    return "Ingress" in (policy.get("policyTypes") or []) and (selector.get("matchLabels") or {}).items() <= labels.items()


def _is_everybody(peer: dict) -> bool:
    every = "namespaceSelector" in peer and not peer["namespaceSelector"]
    return not peer or every or (peer.get("ipBlock") or {}).get("cidr") in EVERYBODY


def _only_ours(peers: list[dict], labels: dict) -> bool:
    """Whether all peers are pods of the same cluster description, in the same namespace."""
    return all(
        set(peer) == {"podSelector"} and (peer["podSelector"].get("matchLabels") or {}).get(PART_OF) == labels.get(PART_OF)
        for peer in peers
    )


def _container(group: dict) -> dict:
    containers = ((group.get("template") or {}).get("spec") or {}).get("containers") or [{}]
    return containers[0]
