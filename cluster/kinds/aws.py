"""AWS: a file for `ray up`, and the policies of the two roles that its machines have."""

from __future__ import annotations

import json

from cluster.description import Description, Place, required
from cluster.kinds import dumped
from cluster.kinds.ray_up import HEAD, cluster
from robust.deploy_config import GroupConfig, MachineConfig

CLUSTER_TAG = "ray-cluster-name"
"""Ray tags every machine that it starts with it."""
OBJECTS = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]


def files(description: Description) -> dict[str, str]:
    description.require_room({group.name: group.max for group in description.deploy.groups})
    if endpoint := description.config.storage.endpoint_url:
        what = (
            f"a file in the form of ~/.aws/credentials with the key of {endpoint}: the machines' role is for S3 itself"
        )
        required("cluster.deploy.credentials_file", description.deploy.credentials_file, what)
    return {
        "aws.yaml": dumped(configuration(description)),
        "iam/trust.json": _json(
            _policy({"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"})
        ),
        "iam/worker.json": _json(_policy(*bucket_statements(description))),
        "iam/head.json": _json(_policy(*bucket_statements(description), *autoscaler_statements(description))),
    }


def configuration(description: Description) -> dict:
    deploy, aws = description.deploy, description.deploy.aws
    provider = {"type": "aws", "region": aws.region, "cache_stopped_nodes": False, "use_internal_ips": False}
    machines = {HEAD: node_config(description, deploy.head, "head")} | {
        group.name: node_config(description, group, "worker") for group in deploy.groups
    }
    return cluster(description, provider, aws.ssh_user, machines)


def node_config(description: Description, machine: MachineConfig, role: str) -> dict:
    """Arguments of EC2's RunInstances; Ray adds subnet, key and counts."""
    aws = description.deploy.aws
    ami = required(
        "cluster.deploy.aws.ami",
        aws.ami,
        "the id of a machine image of your region with Docker, rsync and, for GPUs, an NVIDIA driver of "
        "version 580 or later and the container toolkit, such as one of the Deep Learning Base images",
    )
    config = {
        "InstanceType": machine.aws_type,
        "ImageId": ami,
        "IamInstanceProfile": {"Name": role_name(description, role)},
        "BlockDeviceMappings": [
            {
                "DeviceName": aws.root_device,
                "Ebs": {
                    "VolumeSize": machine.disk_gb,
                    "VolumeType": "gp3",
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
        },  # no request forged through a job gets the role's keys
    }
    if aws.security_groups:
        config["SecurityGroupIds"] = list(aws.security_groups)
    if isinstance(machine, GroupConfig) and machine.spot:
        config["InstanceMarketOptions"] = {"MarketType": "spot"}
    return config


def role_name(description: Description, role: str) -> str:
    return f"{description.deploy.name}-{role}"


def bucket_statements(description: Description) -> list[dict]:
    """Reading and writing below storage.uri, reading below the data sets; nothing else of S3."""
    return [
        *_bucket(description.storage, OBJECTS),
        *(part for place in description.inputs for part in _bucket(place, ["s3:GetObject"])),
    ]


def _bucket(place: Place, objects: list[str]) -> list[dict]:
    bucket = f"arn:aws:s3:::{place.bucket}"
    listing: dict = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [bucket]}
    if place.prefix:
        listing["Condition"] = {"StringLike": {"s3:prefix": [place.prefix, f"{place.prefix}/*"]}}
    below = f"{bucket}/{place.prefix}/*" if place.prefix else f"{bucket}/*"
    return [listing, {"Effect": "Allow", "Action": objects, "Resource": [below]}]


def autoscaler_statements(description: Description) -> list[dict]:
    """What the head needs to start and end this cluster's workers, and no other machines."""
    name, region = description.deploy.name, description.deploy.aws.region
    ec2 = f"arn:aws:ec2:{region}:*"
    tagged = {"StringEquals": {f"aws:ResourceTag/{CLUSTER_TAG}": name}}
    return [
        {
            "Effect": "Allow",
            "Action": ["ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:DescribeImages"],
            "Resource": ["*"],
        },
        {
            "Effect": "Allow",
            "Action": ["ec2:RunInstances"],
            "Resource": [f"{ec2}:instance/*"],
            "Condition": {"StringEquals": {f"aws:RequestTag/{CLUSTER_TAG}": name}},
        },
        {
            "Effect": "Allow",
            "Action": ["ec2:RunInstances"],
            "Resource": [
                f"arn:aws:ec2:{region}::image/*",
                *(
                    f"{ec2}:{kind}/*"
                    for kind in ("volume", "network-interface", "subnet", "security-group", "key-pair")
                ),
            ],
        },
        {
            "Effect": "Allow",
            "Action": ["ec2:CreateTags"],
            "Resource": [f"{ec2}:instance/*"],
            "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        },
        {
            "Effect": "Allow",
            "Action": ["ec2:CreateTags", "ec2:TerminateInstances"],
            "Resource": [f"{ec2}:instance/*"],
            "Condition": tagged,
        },
        {
            "Effect": "Allow",
            "Action": ["iam:PassRole"],
            "Resource": [f"arn:aws:iam::*:role/{role_name(description, 'worker')}"],
            "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        },
    ]


def _policy(*statements: dict) -> dict:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _json(document: dict) -> str:
    return json.dumps(document, indent=2) + "\n"
