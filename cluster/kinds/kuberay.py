"""Kubernetes with the KubeRay operator (1.6 or later): a cluster to submit to, a job a stage that brings its own, and the
endpoint (rayservice.py)."""

from __future__ import annotations

from cluster.description import Description
from cluster.kinds import dumped, rayservice
from cluster.kinds.pods import (
    DASHBOARD,
    METRICS,
    SETTINGS,
    cluster_spec,
    container_of,
    from_namespace,
    labels_of,
    metadata_of,
    pod_of,
    tcp,
    usable_cpus,
)
from robust.deploy_config import JOBS

DNS, API_SERVER = 53, 6443


def files(description: Description) -> dict[str, str]:
    description.require_room({group.name: group.max for group in description.deploy.groups}, usable_cpus)
    description.require_buckets()
    stages = [stage for stage in JOBS if stage != "detect_many" or description.judged]  # else it has nothing to judge
    jobs = {f"rayjob-{dashed(stage)}.yaml": dumped(ray_job(description, stage)) for stage in stages}
    return {
        "common.yaml": dumped(service_account(description), settings(description), network_policy(description)),
        "raycluster.yaml": dumped(ray_cluster(description)),
        "rayservice.yaml": dumped(rayservice.network_policy(description), rayservice.ray_service(description)),
        **jobs,
    }


def service_account(description: Description) -> dict:
    kubernetes = description.deploy.kubernetes
    metadata = metadata_of(description, kubernetes.service_account)
    if kubernetes.aws_role:
        metadata["annotations"] = {"eks.amazonaws.com/role-arn": kubernetes.aws_role}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "automountServiceAccountToken": False}


def settings(description: Description) -> dict:
    """What the jobs read as their ray_config.yaml."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata_of(description, description.deploy.name),
        "data": {"ray_config.yaml": description.job_settings},
    }


def network_policy(description: Description) -> dict:
    """The pods talk among themselves, to the bucket, DNS and the Kubernetes API.

    The operator reaches the head's dashboard, Prometheus the metrics; nobody else reaches anything.
    """
    kubernetes, ours = description.deploy.kubernetes, {"podSelector": {"matchLabels": labels_of(description)}}
    incoming = [{"from": [ours]}, {"from": [from_namespace(kubernetes.operator_namespace)], "ports": [tcp(DASHBOARD)]}]
    if kubernetes.monitoring_namespace:
        incoming.append({"from": [from_namespace(kubernetes.monitoring_namespace)], "ports": [tcp(METRICS)]})
    outgoing = [
        {"to": [ours]},
        {"to": [{"namespaceSelector": {}}], "ports": [tcp(DNS), {"port": DNS, "protocol": "UDP"}]},
        {"ports": [tcp(port) for port in sorted({443, API_SERVER, description.endpoint_port})]},
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata_of(description, description.deploy.name),
        "spec": {
            "podSelector": {"matchLabels": labels_of(description)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": incoming,
            "egress": outgoing,
        },
    }


def ray_cluster(description: Description) -> dict:
    metadata = metadata_of(description, description.deploy.name, queued=True)
    spec = cluster_spec(description, description.deploy.groups)
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}


def ray_job(description: Description, stage: str) -> dict:
    """A stage on a cluster of its own, which ends with it; after a failure two more tries go on where it was."""
    kubernetes = description.deploy.kubernetes
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata_of(description, f"{description.deploy.name}-{dashed(stage)}", queued=True),
        "spec": {
            "entrypoint": f"python -m jobs.{stage} --config {SETTINGS}/ray_config.yaml",
            "submissionMode": "K8sJobMode",
            "backoffLimit": 2,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": kubernetes.keep_finished_s,
            "rayClusterSpec": cluster_spec(description, description.deploy.groups),
            "submitterPodTemplate": pod_of(
                description, container_of(description, "ray-job-submitter", {"cpu": "500m", "memory": "1Gi"})
            ),
        },
    }


def dashed(stage: str) -> str:
    """As a part of a name: Kubernetes takes no underscore."""
    return stage.replace("_", "-")
