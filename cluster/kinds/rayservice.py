"""The detection endpoint as a RayService: jobs.serve on a cluster of its own, with nodes of one group.

All settings that the endpoint reads stand in serveConfigV2, so that other values of them change the endpoint where it
runs; another image or other pods make a new cluster, to which KubeRay turns once it answers.
"""

from __future__ import annotations

from cluster.demands import endpoint_demands, without_room
from cluster.description import HOME, Description
from cluster.kinds import dumped
from cluster.kinds.pods import cluster_spec, from_namespace, labels_of, metadata_of, tcp, usable_cpus
from robust.config_overrides import flattened
from robust.deploy_config import GroupConfig
from robust.errors import ConfigError
from robust.serve_config import http_options

IMPORT_PATH = "jobs.serve:application"
SECTIONS = ("run", "storage", "extract", "detect", "serve")
"""What jobs.serve reads."""
COMPONENT, ENDPOINT = "app.kubernetes.io/component", "endpoint"
"""The label that the endpoint's pods have and no others."""
EVERYWHERE = "0.0.0.0"
"""The pod network: who is let in is for network_policy to say."""
PORT_NAME = "serve"
"""By which KubeRay finds the port: it makes the Service of the head's, and asks each worker there whether it is ready."""
KEY = "cluster.deploy.kubernetes.endpoint"


def network_policy(description: Description) -> dict:
    """Whom the configuration names reaches the endpoint's port; policies add up: all else stays as common.yaml has it."""
    endpoint = description.deploy.kubernetes.endpoint
    clients = [from_namespace(name) for name in endpoint.clients] or [{"podSelector": {}}]
    redis = [{"ports": [tcp(int(endpoint.redis.rpartition(":")[2]))]}] if endpoint.redis else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata_of(description, name_of(description)),
        "spec": {
            "podSelector": {"matchLabels": endpoint_labels(description)},
            "policyTypes": ["Ingress", *(["Egress"] if redis else [])],
            "ingress": [{"from": clients, "ports": [tcp(description.config.serve.port)]}],
            **({"egress": redis} if redis else {}),
        },
    }


def ray_service(description: Description) -> dict:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata_of(description, name_of(description), queued=True),
        "spec": {
            "upgradeStrategy": {"type": "NewCluster"},
            "excludeHeadPodFromServeSvc": True,  # requests go past the head, and its port is closed to the operator
            "serveConfigV2": dumped(serve_config(description)),
            "rayClusterConfig": endpoint_cluster(description),
        },
    }


def serve_config(description: Description) -> dict:
    """Replicas and their resources are not here: the application takes them from its arguments (serve.faces, serve.model)."""
    config = description.config
    arguments = flattened(config, SECTIONS)
    return {
        "proxy_location": "EveryNode",
        "http_options": http_options(config.serve, host=EVERYWHERE),
        "applications": [
            {
                "name": "detection",
                "import_path": IMPORT_PATH,
                "route_prefix": "/",
                "args": {key: EVERYWHERE if key == "serve.host" else value for key, value in arguments.items()},
            }
        ],
    }


def endpoint_cluster(description: Description) -> dict:
    """Head and nodes of the one group; the token comes from its Secret by name, as the bucket's credentials do."""
    config, endpoint = description.config, description.deploy.kubernetes.endpoint
    spec = cluster_spec(description, [nodes_of(description)])
    variable = config.serve.token_env
    token = {"name": variable, "valueFrom": {"secretKeyRef": {"name": endpoint.token_secret, "key": variable}}}
    name = "ray_config.yaml"
    settings = {"name": "settings", "mountPath": f"{HOME}/{name}", "subPath": name, "readOnly": True}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        group["template"]["metadata"]["labels"] = endpoint_labels(description)
        container = group["template"]["spec"]["containers"][0]
        container["env"].append(token)
        container["volumeMounts"].append(settings)  # where the application finds it: in its working folder
        container.setdefault("ports", []).append({"containerPort": config.serve.port, "name": PORT_NAME})
    if endpoint.redis:
        secret = {"name": endpoint.redis_secret, "key": "REDIS_PASSWORD"}
        password = {"redisPassword": {"valueFrom": {"secretKeyRef": secret}}} if endpoint.redis_secret else {}
        spec["gcsFaultToleranceOptions"] = {"redisAddress": endpoint.redis, **password}
    return spec


def nodes_of(description: Description) -> GroupConfig:
    """The group that serves, with the endpoint's own number of nodes.

    Raises: ConfigError: the group has not so many, or the endpoint's processes do not fit on them.
    """
    deploy = description.deploy
    endpoint = deploy.kubernetes.endpoint
    group = description.group(endpoint.group) if endpoint.group else deploy.groups[0]
    few, many = endpoint.min, endpoint.max or group.max
    if few > many or many > group.max:
        key, value = ("min", few) if few > many else ("max", many)
        raise ConfigError(
            f"{KEY}.{key}: {value}: the group {group.name} has at most {group.max} nodes, of which the endpoint may have {many}; "
            f"lower it, or raise the group's max or {KEY}.max"
        )
    node = usable_cpus(group.cpus), group.gpus
    for amount, nodes in (("least", few), ("most", many)):
        if (demand := without_room([node] * nodes, endpoint_demands(description.config, amount))) is not None:
            raise ConfigError(
                f"{demand.key}: {demand} do not fit beside the rest of the endpoint on {nodes} nodes of {node[0]} CPU and "
                f"{node[1]} GPU ({KEY}: group {group.name}, min {few}, max {many}); ask for less, or for more nodes"
            )
    return group.model_copy(update={"min": few, "max": many})


def name_of(description: Description) -> str:
    return f"{description.deploy.name}-serve"


def endpoint_labels(description: Description) -> dict[str, str]:
    return {**labels_of(description), COMPONENT: ENDPOINT}
