"""What KubeRay's and Kueue's own validation refuse after the API server has taken a manifest.

Source: KubeRay, ray-operator/controllers/ray/utils/validation.go; Kueue, the page on RayJobs, under limitations.
"""

from __future__ import annotations

from collections.abc import Iterator

from cluster.checks import Problem
from cluster.checks.common import REFERENCE

LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
"""KubeRay makes names of services and of a job's or service's cluster by adding to them."""
UPGRADES = ("NewCluster", "None")
"""Strategies of a RayService; a third, NewClusterWithIncrementalUpgrade, needs a Gateway, which nothing here makes."""
QUEUE = "kueue.x-k8s.io/queue-name"
MOST_GROUPS = 7


def problems(file: str, document: dict, key: str, cluster: dict) -> Iterator[Problem]:
    """
    Args:
        key, cluster: where the cluster's spec is in the document, and the spec.
    """
    metadata, job = document.get("metadata") or {}, document.get("spec") or {}
    name, longest = str(metadata.get("name")), LONGEST[document["kind"]]
    if len(name) > longest:
        remedy = f"KubeRay takes {longest} characters; shorten cluster.deploy.name"
        yield Problem("name-too-long", file, "metadata.name", name, remedy)
    grows = bool(cluster.get("enableInTreeAutoscaling"))
    second = grows and (cluster.get("autoscalerOptions") or {}).get("version") == "v2"
    groups = cluster.get("workerGroupSpecs") or []
    for group in groups:
        where = f"{key}.workerGroupSpecs.{group.get('groupName')}"
        if "idleTimeoutSeconds" in group and not second:
            remedy = "needs enableInTreeAutoscaling and autoscalerOptions.version v2"
            yield Problem("needs-autoscaler", file, f"{where}.idleTimeoutSeconds", group["idleTimeoutSeconds"], remedy)
        policy = ((group.get("template") or {}).get("spec") or {}).get("restartPolicy", "Never")
        if second and policy != "Never":
            remedy = "autoscaler v2 wants Never: it replaces a pod itself"
            yield Problem("needs-autoscaler", file, f"{where}.template.spec.restartPolicy", policy, remedy)
    strategy = (job.get("upgradeStrategy") or {}).get("type", "NewCluster")
    if document["kind"] == "RayService" and strategy not in UPGRADES:
        yield Problem("not-allowed", file, "spec.upgradeStrategy.type", strategy, f"give {' or '.join(UPGRADES)}")
    password = (cluster.get("gcsFaultToleranceOptions") or {}).get("redisPassword") or {}
    if "value" in password:
        yield Problem("secret-value", file, f"{key}.gcsFaultToleranceOptions.redisPassword", "(a value)", REFERENCE)
    if QUEUE not in (metadata.get("labels") or {}):
        return
    if grows:
        remedy = "Kueue admits a job whole and refuses one that grows; give false, and replicas as many as it may use"
        yield Problem("refused-by-kueue", file, f"{key}.enableInTreeAutoscaling", True, remedy)
    if document["kind"] == "RayJob" and job.get("shutdownAfterJobFinishes") is not True:
        remedy = "Kueue wants true: what a job was given goes back when it ends"
        yield Problem("refused-by-kueue", file, "spec.shutdownAfterJobFinishes", None, remedy)
    if len(groups) > MOST_GROUPS:
        yield Problem("refused-by-kueue", file, f"{key}.workerGroupSpecs", len(groups), f"at most {MOST_GROUPS} groups")
