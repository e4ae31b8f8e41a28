"""Kubernetes with the KubeRay operator (1.6 or later): a cluster to submit to, and a job a stage that brings its own.

No RayService: nothing in jobs/ answers requests; `jobs.detect` is a batch job.
"""

from __future__ import annotations

from cluster.description import HOME, USER_ID, Description
from cluster.kinds import dumped
from robust.deploy_config import STAGES, GroupConfig, MachineConfig

SETTINGS = "/etc/robust-deepfake"
GPU = "nvidia.com/gpu"
DASHBOARD, METRICS, DNS = 8265, 8080, 53
API_SERVER = 6443
PART_OF = "app.kubernetes.io/part-of"


def files(description: Description) -> dict[str, str]:
    description.require_room({group.name: group.max for group in description.deploy.groups}, usable_cpus)
    description.require_buckets()
    jobs = {f"rayjob-{stage}.yaml": dumped(ray_job(description, stage)) for stage in STAGES}
    common = dumped(service_account(description), settings(description), network_policy(description))
    return {"common.yaml": common, "raycluster.yaml": dumped(ray_cluster(description)), **jobs}


def service_account(description: Description) -> dict:
    kubernetes = description.deploy.kubernetes
    metadata = _metadata(description, kubernetes.service_account)
    if kubernetes.aws_role:
        metadata["annotations"] = {"eks.amazonaws.com/role-arn": kubernetes.aws_role}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "automountServiceAccountToken": False}


def settings(description: Description) -> dict:
    """What the jobs read as their ray_config.yaml."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(description, description.deploy.name),
        "data": {"ray_config.yaml": description.job_settings},
    }


def network_policy(description: Description) -> dict:
    """The pods talk among themselves, to the bucket, DNS and the Kubernetes API.

    The operator reaches the head's dashboard, Prometheus the metrics; nobody else reaches anything.
    """
    kubernetes, ours = description.deploy.kubernetes, {"podSelector": {"matchLabels": _labels(description)}}
    incoming = [{"from": [ours]}, {"from": [_namespace(kubernetes.operator_namespace)], "ports": [_port(DASHBOARD)]}]
    if kubernetes.monitoring_namespace:
        incoming.append({"from": [_namespace(kubernetes.monitoring_namespace)], "ports": [_port(METRICS)]})
    outgoing = [
        {"to": [ours]},
        {"to": [{"namespaceSelector": {}}], "ports": [_port(DNS), {"port": DNS, "protocol": "UDP"}]},
        {"ports": [_port(port) for port in sorted({443, API_SERVER, description.endpoint_port})]},
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(description, description.deploy.name),
        "spec": {
            "podSelector": {"matchLabels": _labels(description)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": incoming,
            "egress": outgoing,
        },
    }


def ray_cluster(description: Description) -> dict:
    metadata = _metadata(description, description.deploy.name, queued=True)
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": cluster_spec(description)}


def ray_job(description: Description, stage: str) -> dict:
    """A stage on a cluster of its own, which ends with it; after a failure two more tries go on where it was."""
    kubernetes = description.deploy.kubernetes
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(description, f"{description.deploy.name}-{stage}", queued=True),
        "spec": {
            "entrypoint": f"python -m jobs.{stage} --config {SETTINGS}/ray_config.yaml",
            "submissionMode": "K8sJobMode",
            "backoffLimit": 2,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": kubernetes.keep_finished_s,
            "rayClusterSpec": cluster_spec(description),
            "submitterPodTemplate": _pod(
                description, _container(description, "ray-job-submitter", {"cpu": "500m", "memory": "1Gi"})
            ),
        },
    }


def cluster_spec(description: Description) -> dict:
    """With Kueue the groups are there whole from the start: it admits a job with all that the job may use."""
    deploy, grows = description.deploy, description.deploy.kubernetes.queue is None
    spec = {
        "rayVersion": description.ray_version,
        "authOptions": {"mode": "token"},  # the operator makes the token's Secret and gives it to every pod
        "enableInTreeAutoscaling": grows,
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {
                "num-cpus": "0",
                "dashboard-host": "0.0.0.0",
                "metrics-export-port": str(METRICS),
            },  # the pod network: network_policy
            "template": _pod(description, _ray_container(description, "ray-head", deploy.head), mounts_token=grows),
        },
        "workerGroupSpecs": [_worker_group(description, group, grows) for group in deploy.groups],
    }
    if grows:
        spec["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": max(group.idle_timeout_s for group in deploy.groups),
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
        "template": _pod(description, _ray_container(description, "ray-worker", group), **choices),
    }


def _ray_container(description: Description, name: str, machine: MachineConfig) -> dict:
    """Requests and limits are the same, a little less than the node: Kubernetes keeps some of it."""
    amounts = {"cpu": str(usable_cpus(machine.cpus)), "memory": f"{machine.memory_gb * 1024 * 9 // 10}Mi"}
    gpus = getattr(machine, "gpus", 0)
    container = _container(description, name, amounts | ({GPU: str(gpus)} if gpus else {}))
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


def _container(description: Description, name: str, amounts: dict[str, str]) -> dict:
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


def _pod(description: Description, container: dict, *, mounts_token: bool = False, **more) -> dict:
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
    return {"metadata": {"labels": _labels(description)}, "spec": spec}


def _container_security() -> dict:
    return {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}


def _resources(amounts: dict[str, str]) -> dict:
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _metadata(description: Description, name: str, *, queued: bool = False) -> dict:
    queue = description.deploy.kubernetes.queue
    labels = _labels(description) | ({"kueue.x-k8s.io/queue-name": queue} if queued and queue else {})
    return {"name": name, "namespace": description.deploy.kubernetes.namespace, "labels": labels}


def _labels(description: Description) -> dict[str, str]:
    return {PART_OF: description.deploy.name}


def _namespace(name: str) -> dict:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _port(number: int) -> dict:
    return {"port": number, "protocol": "TCP"}
