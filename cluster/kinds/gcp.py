"""Google Cloud: a file for `ray up`, and the permissions of the two service accounts that its machines have.

The bucket is spoken to as S3 (storage.endpoint_url), with the HMAC key of the worker's service account in a file.
"""

from __future__ import annotations

from cluster.description import Description, required
from cluster.kinds import dumped
from cluster.kinds.ray_up import HEAD, cluster
from robust.deploy_config import GroupConfig, MachineConfig
from robust.errors import ConfigError

ENDPOINT = "https://storage.googleapis.com"
LONGEST_NAME = 30 - len("-worker")
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
AUTOSCALER = [
    "compute.acceleratorTypes.get",
    "compute.disks.create",
    "compute.images.useReadOnly",
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.get",
    "compute.instances.list",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setServiceAccount",
    "compute.machineTypes.get",
    "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp",
    "compute.zoneOperations.get",
]
BUCKET = [
    "storage.multipartUploads.abort",
    "storage.multipartUploads.create",
    "storage.multipartUploads.listParts",
    "storage.objects.create",
    "storage.objects.delete",
    "storage.objects.get",
    "storage.objects.list",
]


def files(description: Description) -> dict[str, str]:
    description.require_room({group.name: group.max for group in description.deploy.groups})
    description.require_buckets()
    name = description.deploy.name
    if len(name) > LONGEST_NAME:
        raise ConfigError(
            f"cluster.deploy.name: {name!r}: Google's service accounts have at most 30 characters, "
            f"so that it may have {LONGEST_NAME}"
        )
    return {
        "gcp.yaml": dumped(configuration(description)),
        "iam/autoscaler-role.yaml": dumped(_role(f"{name}: start and end workers", AUTOSCALER)),
        "iam/bucket-role.yaml": dumped(_role(f"{name}: read and write runs in {description.storage.bucket}", BUCKET)),
    }


def configuration(description: Description) -> dict:
    deploy, gcp, storage = description.deploy, description.deploy.gcp, description.config.storage
    if storage.endpoint_url != ENDPOINT:
        raise ConfigError(
            f"storage.endpoint_url: {storage.endpoint_url!r}: a bucket of Google Cloud is reached with "
            f"storage.endpoint_url={ENDPOINT}"
        )
    required(
        "cluster.deploy.credentials_file",
        deploy.credentials_file,
        "a file in the form of ~/.aws/credentials with the HMAC key of the service account "
        f"{account(description, 'worker') if gcp.project else 'NAME-worker'}: Google's buckets "
        "speak S3 with such a key only",
    )
    provider = {
        "type": "gcp",
        "region": gcp.zone.rpartition("-")[0],
        "availability_zone": gcp.zone,
        "cache_stopped_nodes": False,
        "project_id": required("cluster.deploy.gcp.project", gcp.project, "the id of your project"),
    }
    machines = {HEAD: node_config(description, deploy.head, "head")} | {
        group.name: node_config(description, group, "worker") for group in deploy.groups
    }
    return cluster(description, provider, gcp.ssh_user, machines)


def node_config(description: Description, machine: MachineConfig, role: str) -> dict:
    """The body of Compute Engine's instances.insert; Ray adds name, labels and subnet."""
    image = required(
        "cluster.deploy.gcp.machine_image",
        description.deploy.gcp.machine_image,
        "the image of the boot disk, with Docker, rsync and, for GPUs, "
        "an NVIDIA driver of version 580 or later and the container toolkit, as "
        "projects/PROJECT/global/images/family/FAMILY",
    )
    config = {
        "machineType": machine.gcp_type,
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "type": "PERSISTENT",
                "initializeParams": {"diskSizeGb": machine.disk_gb, "sourceImage": image},
            }
        ],
        "serviceAccounts": [
            {"email": account(description, role), "scopes": [SCOPE]}
        ],  # else Ray gives the head one that may do everything
    }
    if not isinstance(machine, GroupConfig):
        return config
    if machine.gcp_accelerator:
        config["guestAccelerators"] = [{"acceleratorType": machine.gcp_accelerator, "acceleratorCount": machine.gpus}]
    if machine.spot:
        config["scheduling"] = {
            "provisioningModel": "SPOT",
            "instanceTerminationAction": "DELETE",
            "onHostMaintenance": "TERMINATE",
            "automaticRestart": False,
        }
    elif machine.gpus:
        config["scheduling"] = {"onHostMaintenance": "TERMINATE"}  # a machine with GPUs cannot be moved
    return config


def account(description: Description, role: str) -> str:
    return f"{description.deploy.name}-{role}@{description.deploy.gcp.project}.iam.gserviceaccount.com"


def _role(title: str, permissions: list[str]) -> dict:
    return {"title": title, "stage": "GA", "includedPermissions": permissions}
