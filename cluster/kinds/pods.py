"""What the manifests of kuberay.py and rayservice.py share: a cluster's spec, its pods, labels and network peers."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.description import HOME, USER_ID, Description
from robust.deploy_config import GroupConfig, MachineConfig

SETTINGS = "/etc/robust-deepfake"
GPU = "nvidia.com/gpu"
DASHBOARD, METRICS = 8265, 8080
PART_OF = "app.kubernetes.io/part-of"


def cluster_spec(description: Description, groups: Sequence[GroupConfig]) -> dict:
    """With Kueue the groups are there whole from the start: it admits a job with all that the job may use."""
    deploy, grows = description.deploy, description.deploy.kubernetes.queue is None
    spec = {
        "rayVersion": description.ray_version,
        "authOptions": {"mode": "token"},  # the operator makes the token's Secret and gives it to every pod
        **({"tlsOptions": {"enabled": True}} if description.config.cluster.tls else {}),  # and the certificates
        "enableInTreeAutoscaling": grows,
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {
                "num-cpus": "0",
                "dashboard-host": "0.0.0.0",
                "metrics-export-port": str(METRICS),
            },  # the pod network: network_policy
            "template": pod_of(description, _ray_container(description, "ray-head", deploy.head), mounts_token=grows),
        },
        "workerGroupSpecs": [_worker_group(description, group, grows) for group in groups],
    }
    if grows:
        spec["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": max(group.idle_timeout_s for group in groups),
            "imagePullPolicy": "IfNotPresent",
            "securityContext": _container_security(),
            "resources": _resources({"cpu": "500m", "memory": "1Gi"}),
        }
    return spec


def _worker_group(description: Description, group: GroupConfig, grows: bool) -> dict:
    choices = {}
    if group.gpus:
        choices["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    if group.spot and (labels := description.deploy.kubernetes.spot_labels):
        choices["nodeSelector"] = dict(labels)
    few = group.min if grows else group.max
    size = {"groupName": group.name, "replicas": few, "minReplicas": few, "maxReplicas": group.max}
    if grows:
        size["idleTimeoutSeconds"] = group.idle_timeout_s
    return size | {
        "rayStartParams": {"metrics-export-port": str(METRICS)},
        "template": pod_of(description, _ray_container(description, "ray-worker", group), **choices),
    }


def _ray_container(description: Description, name: str, machine: MachineConfig) -> dict:
    """Requests and limits are the same, a little less than the node: Kubernetes keeps some of it."""
    amounts = {"cpu": str(usable_cpus(machine.cpus)), "memory": f"{machine.memory_gb * 1024 * 9 // 10}Mi"}
    gpus = getattr(machine, "gpus", 0)
    container = container_of(description, name, amounts | ({GPU: str(gpus)} if gpus else {}))
    container["volumeMounts"] = [{"name": "settings", "mountPath": SETTINGS, "readOnly": True}]
    if name == "ray-head":
        container["ports"] = [
            {"containerPort": 6379, "name": "gcs-server"},
            {"containerPort": DASHBOARD, "name": "dashboard"},
            {"containerPort": METRICS, "name": "metrics"},
        ]
    return container


def usable_cpus(cpus: int) -> int:
    """Of a node's; whole ones, as Ray counts them."""
    return max(1, cpus * 9 // 10)


def container_of(description: Description, name: str, amounts: dict[str, str]) -> dict:
    environment: list[dict] = [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}]
    if secret := description.deploy.kubernetes.credentials_secret:
        environment += [
            {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
            for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        ]
    return {
        "name": name,
        "image": description.image,
        "imagePullPolicy": "IfNotPresent",
        "workingDir": HOME,
        "env": environment,
        "resources": _resources(amounts),
        "securityContext": _container_security(),
    }


def pod_of(description: Description, container: dict, *, mounts_token: bool = False, **more) -> dict:
    """
    Args:
        mounts_token: whether the pod may speak to the Kubernetes API: the head's autoscaler does.
    """
    kubernetes = description.deploy.kubernetes
    spec = {
        "serviceAccountName": kubernetes.service_account,
        "automountServiceAccountToken": mounts_token,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "restartPolicy": "Never",  # a new pod instead: autoscaler v2 wants it, and a job has its own tries
        **more,
        "containers": [container],
    }
    if "volumeMounts" in container:
        spec["volumes"] = [{"name": "settings", "configMap": {"name": description.deploy.name}}]
    if kubernetes.image_pull_secret:
        spec["imagePullSecrets"] = [{"name": kubernetes.image_pull_secret}]
    return {"metadata": {"labels": labels_of(description)}, "spec": spec}


def _container_security() -> dict:
    return {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}


def _resources(amounts: dict[str, str]) -> dict:
    return {"requests": dict(amounts), "limits": dict(amounts)}


def metadata_of(description: Description, name: str, *, queued: bool = False) -> dict:
    queue = description.deploy.kubernetes.queue
    labels = labels_of(description) | ({"kueue.x-k8s.io/queue-name": queue} if queued and queue else {})
    return {"name": name, "namespace": description.deploy.kubernetes.namespace, "labels": labels}


def labels_of(description: Description) -> dict[str, str]:
    return {PART_OF: description.deploy.name}


def from_namespace(name: str) -> dict:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def tcp(number: int) -> dict:
    return {"port": number, "protocol": "TCP"}
