"""The `cluster.deploy` section of ray_config.yaml: the one description of a cluster to be (docs/cluster)."""
from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from robust.config_section import Section

DnsName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
"""What AWS, GCP, Kubernetes and Slurm all take as a name, and no shell takes for anything else."""
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@=+-]*$")]
"""An identifier of a cloud, an image or an account: no space and nothing that a shell or YAML reads in its own way."""

Stage = Literal["pipeline", "extract", "train", "tune", "evaluate"]
"""The pipeline and its parts."""
STAGES: tuple[str, ...] = get_args(Stage)
Job = Literal[Stage, "detect_many"]
"""A job that a cluster is made for."""
JOBS: tuple[str, ...] = get_args(Job)


class MachineConfig(Section):
    """What one node has; each way to a cluster takes what it needs of it."""

    aws_type: Word = Field(description="EC2 instance type")
    gcp_type: Word = Field(description="Compute Engine machine type")
    cpus: int = Field(ge=1, description="CPUs of the node")
    memory_gb: int = Field(ge=1, description="its memory, GiB")
    disk_gb: int = Field(200, ge=50, description="its disk, GiB; the image alone takes about 7")


class GroupConfig(MachineConfig):
    """Workers of one kind, as many as the work asks for."""

    name: DnsName = Field(description="name of the group")
    gpus: int = Field(0, ge=0, description="GPUs of a node")
    gcp_accelerator: Word | None = Field(None, description="GPU type where gcp_type has none of its own (nvidia-tesla-t4)")
    min: int = Field(0, ge=0, description="nodes that are always there")
    max: int = Field(ge=1, description="at most so many")
    spot: bool = Field(True, description="cheaper nodes that may be taken away at any time; lost work is done again")
    idle_timeout_s: int = Field(300, ge=30, description="seconds without work after which a node is given back")

    @model_validator(mode="after")
    def _consistent(self) -> GroupConfig:
        if self.min > self.max:
            raise ValueError(
                f"cluster.deploy.groups: {self.name}: min {self.min} is above max {self.max}; lower min or raise max"
            )
        return self


class AwsConfig(Section):
    region: Word = Field("us-east-1", description="of the machines; storage.region is the bucket's")
    ami: Word | None = Field(
        None, description="machine image with Docker, rsync and, for GPUs, NVIDIA driver and container toolkit"
    )
    security_groups: list[Word] = Field([], description="ids; empty: Ray makes one, which lets SSH in from everywhere")
    root_device: Annotated[str, Field(pattern=r"^/dev/[a-z0-9]+$")] = Field(
        "/dev/sda1", description="its root disk's name, else disk_gb makes a second, empty disk; Amazon Linux: /dev/xvda"
    )
    ssh_user: Word = Field("ubuntu", description="user of the machine image")


class GcpConfig(Section):
    project: Word | None = Field(None, description="project id")
    zone: Annotated[str, Field(pattern=r"^[a-z]+-[a-z]+\d+-[a-z]$")] = Field("us-central1-a", description="of the machines")
    machine_image: Word | None = Field(None, description="source of the boot disk; needs what aws.ami needs")
    ssh_user: Word = Field("ubuntu", description="user that Ray logs in as")


class EndpointConfig(Section):
    """The RayService: jobs.serve on a cluster of its own (docs/cluster/kuberay.md)."""

    group: DnsName | None = Field(None, description="which of the groups its nodes are of; null: the first")
    min: int = Field(2, ge=1, description="nodes that are always there; of two one may be lost")
    max: int | None = Field(None, ge=1, description="at most so many; null: the group's max")
    token_secret: DnsName = Field(
        "robust-deepfake-endpoint", description="Secret with the endpoint's token under its variable's name"
    )
    clients: list[DnsName] = Field([], description="namespaces whose pods may call it; empty: its own")
    redis: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*:\d{1,5}$")] | None = Field(
        None, description="host:port of a Redis that keeps the head's state over its loss; null: it is lost"
    )
    redis_secret: DnsName | None = Field(None, description="Secret with REDIS_PASSWORD; null: Redis asks for none")

    @model_validator(mode="after")
    def _consistent(self) -> EndpointConfig:
        if self.redis is None and self.redis_secret:
            raise ValueError(
                f"cluster.deploy.kubernetes.endpoint.redis_secret: {self.redis_secret!r}: of no Redis; give redis, or take it out"
            )
        return self


class KubernetesConfig(Section):
    namespace: DnsName = Field("robust-deepfake", description="where everything goes; not made by us")
    service_account: DnsName = Field("robust-deepfake", description="of all pods; bind it to a role that may use the bucket")
    aws_role: Word | None = Field(None, description="ARN of that role on EKS (IRSA); null: no annotation")
    credentials_secret: DnsName | None = Field(
        None, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; null: the role"
    )
    image_pull_secret: DnsName | None = Field(None, description="Secret for a private image registry")
    operator_namespace: DnsName = Field("kuberay-system", description="where the KubeRay operator runs; it may reach the head")
    monitoring_namespace: DnsName | None = Field(None, description="where Prometheus runs; it may read the metrics; null: nobody")
    queue: DnsName | None = Field(None, description="Kueue LocalQueue that admits the jobs; null: no Kueue")
    spot_labels: dict[str, str] = Field(
        {}, description="labels of spot nodes, such as {eks.amazonaws.com/capacityType: SPOT}; empty: any node"
    )
    keep_finished_s: int = Field(600, ge=0, description="seconds that a finished job's cluster stays for its logs")
    endpoint: EndpointConfig = EndpointConfig()


class SlurmConfig(Section):
    group: DnsName = Field("train", description="which of the groups a node is: its CPUs, GPUs and memory")
    nodes: int = Field(2, ge=1, description="nodes of the allocation; the first is the head, and works too")
    stage: Job = Field("pipeline", description="the job that is run")
    time: Annotated[str, Field(pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$")] = Field(
        "24:00:00", description="limit, [days-]hours:minutes:seconds"
    )
    partition: Word | None = Field(None, description="null: the site's default")
    account: Word | None = Field(None, description="null: yours")
    folder: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/+-]*$")] = Field(
        "/shared/robust-deepfake", description="the checkout with its .venv, on a disk that all nodes see")


class DeployConfig(Section):
    """The one description of a cluster that all ways to one are rendered from (docs/cluster)."""

    name: DnsName = Field("robust-deepfake", description="of the cluster, and the beginning of what belongs to it")
    image: Word | None = Field(None, description="image repository without a tag; the tag follows from requirements.lock")
    base_image: Word = Field("python:3.11-slim-bookworm", description="what the image is built on; a digest pins it")
    token_file: Annotated[str, Field(pattern=r"^[~/][A-Za-z0-9._/+-]*$")] = Field(
        "~/.ray/auth_token", description="file with the cluster's token on your machine (ray get-auth-token --generate)")
    credentials_file: Annotated[str, Field(pattern=r"^[~/][A-Za-z0-9._/+-]*$")] | None = Field(
        None, description="AWS-style credentials file that ray up copies to the nodes, for other stores than S3; null: the role")
    head: MachineConfig = MachineConfig(aws_type="m7i.2xlarge", gcp_type="n2-standard-8", cpus=8, memory_gb=32)
    groups: list[GroupConfig] = Field([
        GroupConfig(name="extract", aws_type="c7i.4xlarge", gcp_type="n2-highcpu-16", cpus=16, memory_gb=16, max=8),
        GroupConfig(name="train", aws_type="g6.4xlarge", gcp_type="g2-standard-16", cpus=16, memory_gb=64, gpus=1, max=4),
    ], min_length=1, description="kinds of workers: spot CPUs for extraction, spot GPUs for training and attacks")
    aws: AwsConfig = AwsConfig()
    gcp: GcpConfig = GcpConfig()
    kubernetes: KubernetesConfig = KubernetesConfig()
    slurm: SlurmConfig = SlurmConfig()

    @model_validator(mode="after")
    def _consistent(self) -> DeployConfig:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names) or "head" in names:
            raise ValueError(
                f"cluster.deploy.groups: {', '.join(names)}: every group needs a name of its own, and none may be head"
            )
        if self.slurm.group not in names:
            raise ValueError(
                f"cluster.deploy.slurm.group: {self.slurm.group!r} is not one of cluster.deploy.groups ({', '.join(names)})"
            )
        if (serving := self.kubernetes.endpoint.group) not in (None, *names):
            raise ValueError(
                f"cluster.deploy.kubernetes.endpoint.group: {serving!r} is not one of cluster.deploy.groups ({', '.join(names)})"
            )
        return self
