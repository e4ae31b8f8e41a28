"""The detection endpoint as a RayService: jobs.serve on a cluster of its own, with nodes of one group.

All settings that the endpoint reads stand in serveConfigV2, so that other values of them change the endpoint where it
runs; another image or other pods make a new cluster, to which KubeRay turns once it answers.
"""

from __future__ import annotations

from cluster.demands import Demand, fitting
from cluster.description import HOME, Description
from cluster.kinds import dumped
from cluster.kinds.pods import cluster_spec, from_namespace, labels_of, metadata_of, tcp, usable_cpus
from robust.config import Config
from robust.config_overrides import flattened
from robust.deploy_config import GroupConfig
from robust.errors import ConfigError

IMPORT_PATH = "jobs.serve:application"
DEPLOYMENT = "Detector"
"""The class in jobs.serve that has replicas."""
SECTIONS = ("run", "storage", "extract", "detect", "serve")
"""What jobs.serve reads."""
COMPONENT, ENDPOINT = "app.kubernetes.io/component", "endpoint"
"""The label that the endpoint's pods have and no others."""
PORT_NAME = "serve"
"""By which KubeRay finds the port: it makes the Service of the head's, and asks each worker there whether it is ready."""
KEY = "cluster.deploy.kubernetes.endpoint"


def serve_port(config: Config) -> int:
    return config.serve.port if "serve" in Config.model_fields else 8000


def token_variable(config: Config) -> str:
    """Name of the environment variable that the endpoint reads its token from."""
    return config.serve.token_env if "serve" in Config.model_fields else "ROBUST_DEEPFAKE_TOKEN"


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
            "ingress": [{"from": clients, "ports": [tcp(serve_port(description.config))]}],
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
    config, endpoint = description.config, description.deploy.kubernetes.endpoint
    few, many = endpoint.min_replicas, endpoint.max_replicas
    size = (
        {"num_replicas": few}
        if few == many
        else {"num_replicas": "auto", "autoscaling_config": {"min_replicas": few, "max_replicas": many}}
    )
    resources = {"num_cpus": config.detect.actor_cpus, "num_gpus": config.detect.actor_gpus}
    replicas = {"name": DEPLOYMENT, **size, "max_replicas_per_node": endpoint.replicas_per_node}
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": serve_port(config)},  # the pod network: network_policy
        "applications": [
            {
                "name": "detection",
                "import_path": IMPORT_PATH,
                "route_prefix": "/",
                "args": flattened(config, [name for name in SECTIONS if name in Config.model_fields]),
                "deployments": [{**replicas, "ray_actor_options": resources}],
            }
        ],
    }


def endpoint_cluster(description: Description) -> dict:
    """Head and nodes of the one group; the token comes from its Secret by name, as the bucket's credentials do."""
    config, endpoint = description.config, description.deploy.kubernetes.endpoint
    spec = cluster_spec(description, [nodes_of(description)])
    variable = token_variable(config)
    token = {"name": variable, "valueFrom": {"secretKeyRef": {"name": endpoint.token_secret, "key": variable}}}
    name = "ray_config.yaml"
    settings = {"name": "settings", "mountPath": f"{HOME}/{name}", "subPath": name, "readOnly": True}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        group["template"]["metadata"]["labels"] = endpoint_labels(description)
        container = group["template"]["spec"]["containers"][0]
        container["env"].append(token)
        container["volumeMounts"].append(settings)  # where the application finds it: in its working folder
        container.setdefault("ports", []).append({"containerPort": serve_port(config), "name": PORT_NAME})
    if endpoint.redis:
        secret = {"name": endpoint.redis_secret, "key": "REDIS_PASSWORD"}
        password = {"redisPassword": {"valueFrom": {"secretKeyRef": secret}}} if endpoint.redis_secret else {}
        spec["gcsFaultToleranceOptions"] = {"redisAddress": endpoint.redis, **password}
    return spec


def nodes_of(description: Description) -> GroupConfig:
    """The group that serves, with as many nodes as the replicas need.

    Raises: ConfigError: a replica does not fit on a node, or all do not fit into the group.
    """
    deploy, detect = description.deploy, description.config.detect
    endpoint = deploy.kubernetes.endpoint
    group = description.group(endpoint.group) if endpoint.group else deploy.groups[0]
    demand = Demand(KEY, "serve", endpoint.max_replicas, detect.actor_cpus, detect.actor_gpus)
    a_node = min(endpoint.replicas_per_node, fitting(usable_cpus(group.cpus), group.gpus, demand))
    if a_node == 0:
        raise ConfigError(
            f"{KEY}.group: {group.name}: a replica of {detect.actor_cpus:g} CPU and {detect.actor_gpus:g} GPU "
            f"(detect.actor_cpus, actor_gpus) does not fit on a node of {usable_cpus(group.cpus)} CPU and "
            f"{group.gpus} GPU; name another group"
        )
    few, many = -(-endpoint.min_replicas // a_node), -(-endpoint.max_replicas // a_node)
    if many > group.max:
        raise ConfigError(
            f"{KEY}.max_replicas: {endpoint.max_replicas} need {many} nodes with {a_node} on each, but the group "
            f"{group.name} has at most {group.max}; lower max_replicas and min_replicas, or raise replicas_per_node or "
            "the group's max"
        )
    return group.model_copy(update={"min": few, "max": many})


def name_of(description: Description) -> str:
    return f"{description.deploy.name}-serve"


def endpoint_labels(description: Description) -> dict[str, str]:
    return {**labels_of(description), COMPONENT: ENDPOINT}
