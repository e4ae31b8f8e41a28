"""cluster/render.py and cluster/check.py: files of every kind are right, and each planted mistake is told by name."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster import check, render
from cluster.check import problems_of
from cluster.description import APPLICATION, LOCKS, PACKAGES, Description, code_digest, locked_version, place, tag
from cluster.kinds.aws import CLUSTER_TAG
from robust.config_file import load_config, parse
from robust.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
COMMON = (
    "storage.uri=s3://lab-bucket/runs",
    "cluster.deploy.image=registry.example.com/lab/robust-deepfake",
    "data.datasets=[{layout: dfdc, uri: s3://lab-videos/dfdc}]",
)
FILLED_IN = {
    "aws": ("cluster.deploy.aws.ami=ami-0123456789abcdef0",),
    "gcp": (
        "cluster.deploy.gcp.project=lab-1",
        "cluster.deploy.gcp.machine_image=projects/lab-1/global/images/family/docker",
        "storage.endpoint_url=https://storage.googleapis.com",
        "cluster.deploy.credentials_file=~/.aws/gcs",
    ),
    "kuberay": (),
    "slurm": (),
    "image": (),
}


def described(kind: str, *overrides: str) -> Description:
    return Description(load_config(ROOT / "ray_config.yaml", [*COMMON, *FILLED_IN[kind], *overrides]))


@pytest.fixture(scope="module")
def rendered():
    return {kind: render.render(kind, described(kind)) for kind in FILLED_IN}


def documents(text: str) -> list[dict]:
    return list(yaml.safe_load_all(text))


# What is planted: a change of one document (found by file and number), or of a file's text.


def at(document, path: str):
    """(the mapping or list that holds it, the last key) of a dotted path."""
    *parts, last = [int(part) if part.isdigit() else part.replace("~", "/") for part in path.split("/")]
    for part in parts:
        document = document[part]
    return document, last


def put(path: str, value):
    def change(document):
        holder, key = at(document, path)
        holder[key] = value

    return change


def drop(path: str):
    def change(document):
        holder, key = at(document, path)
        del holder[key]

    return change


def rename(path: str, name: str):
    def change(document):
        holder, key = at(document, path)
        holder[name] = holder.pop(key)

    return change


def replaced(old: str, new: str):
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


# fmt: off
TRAIN, NODE = "available_node_types/train/", "available_node_types/train/node_config/"
AWS, GCP, JOB, SPEC = "aws.yaml", "gcp.yaml", "rayjob-train.yaml", "spec/rayClusterSpec/"
HEAD_POD, GPU_POD = SPEC + "headGroupSpec/template/spec/", SPEC + "workerGroupSpecs/1/template/spec/"
CUDA, SBATCH = "Dockerfile.cuda", "job.sbatch"
OTHER_IMAGE = "registry.example.com/lab/robust-deepfake:ray2.59.0-0123456789ab-cuda"

PLANTED = [
    # kind, file, change, name, a part of the key
    ("aws", AWS, rename(TRAIN + "max_workers", "max_worker"), "unknown-key", "available_node_types.train.max_worker"),
    ("aws", AWS, put("max_workers", "twelve"), "wrong-type", "max_workers"),
    ("aws", AWS, drop("head_node_type"), "no-head", "head_node_type"),
    ("aws", AWS, put(TRAIN + "min_workers", -1), "negative-workers", "train.min_workers"),
    ("aws", AWS, put(TRAIN + "min_workers", 5), "min-above-max", "train.min_workers"),
    ("aws", AWS, put(TRAIN + "docker", {"worker_image": "other:1"}), "image-differs", "train.docker.worker_image"),
    ("aws", AWS, put("docker/image", OTHER_IMAGE), "image-not-of-lock", "docker.image"),
    ("aws", AWS, rename(NODE + "InstanceType", "InstanceTyp"), "unknown-instance-field", "node_config.InstanceTyp"),
    ("aws", AWS, rename(NODE + "BlockDeviceMappings/0/Ebs/VolumeSize", "Size"),
     "unknown-instance-field", "train.node_config.BlockDeviceMappings[0].Ebs.Size"),
    ("aws", AWS, put(NODE + "BlockDeviceMappings/0/Ebs/VolumeSize", "big"),
     "wrong-instance-field", "BlockDeviceMappings[0].Ebs.VolumeSize"),
    ("aws", AWS, put(NODE + "InstanceType", "g6.4xlarg"), "unknown-instance-type", "node_config.InstanceType"),
    ("aws", AWS, drop("available_node_types/head/node_config/IamInstanceProfile"),
     "no-role", "head.node_config.IamInstanceProfile"),
    ("aws", AWS, rename("provider/region", "regoin"), "unknown-key", "provider.regoin"),
    ("aws", AWS, put("provider/region", "us-east-9"), "unknown-region", "provider.region"),
    ("aws", AWS, put("docker/run_options", []), "no-token", "docker.run_options"),
    ("aws", AWS, drop("file_mounts"), "no-token", "docker.run_options"),
    ("aws", AWS, lambda d: d["docker"]["run_options"].append("--user=root"), "root-user", "docker.run_options"),
    ("aws", AWS, lambda d: d["docker"]["run_options"].append("--env=AWS_SECRET_ACCESS_KEY=wJal/XUtn=EMI:K7MDENG"),
     "secret-value", "AWS_SECRET_ACCESS_KEY"),
    ("aws", AWS, put("head_start_ray_commands/1", "ray start --head --dashboard-host=0.0.0.0"),
     "dashboard-open", "head_start_ray_commands"),
    ("aws", AWS, drop("setup_commands"), "missing-key", "setup_commands"),
    ("aws", AWS, put("available_node_types/head/resources/CPU", 8), "head-takes-work", "head.resources.CPU"),
    ("aws", AWS, lambda d: (d.update(max_workers=1), d["available_node_types"]["train"].update(min_workers=3)),
     "refused-by-ray", "(the file)"),
    ("aws", "iam/worker.json", put("Statement/1/Action", ["s3:*"]), "too-wide", "Statement.1.Action"),
    ("aws", "iam/worker.json", put("Statement/1/Resource", ["arn:aws:s3:::*"]), "too-wide", "Statement.1.Resource"),
    ("aws", "iam/head.json", rename("Statement/5/Condition", "Conditions"), "unknown-key", "Statement.5.Conditions"),
    ("gcp", GCP, put(NODE + "scheduling", [{"preemptible": True}]), "wrong-type", "train.node_config.scheduling"),
    ("gcp", GCP, rename(NODE + "machineType", "machinType"), "unknown-instance-field", "node_config.machinType"),
    ("gcp", GCP, drop("available_node_types/head/node_config/serviceAccounts"),
     "no-role", "head.node_config.serviceAccounts"),
    ("gcp", "iam/bucket-role.yaml", put("includedPermissions/0", "storage.buckets.setIamPolicy"),
     "too-wide", "includedPermissions"),
    ("kuberay", JOB, rename("spec/shutdownAfterJobFinishes", "shutdownAfterJobFinished"),
     "unknown-key", "spec.shutdownAfterJobFinished"),
    ("kuberay", JOB, rename(GPU_POD + "containers/0/image", "imge"), "unknown-key", "containers.0.imge"),
    ("kuberay", JOB, put(SPEC + "workerGroupSpecs/1/maxReplicas", "four"),
     "wrong-type", "workerGroupSpecs.1.maxReplicas"),
    ("kuberay", JOB, drop(SPEC + "headGroupSpec"), "no-head", "spec.rayClusterSpec.headGroupSpec"),
    ("kuberay", JOB, put(SPEC + "workerGroupSpecs/1/replicas", -1), "negative-workers", "train.replicas"),
    ("kuberay", JOB, put(SPEC + "workerGroupSpecs/1/minReplicas", 9), "min-above-max", "train.minReplicas"),
    ("kuberay", JOB, put(SPEC + "rayVersion", "2.59.0"), "ray-version", "rayVersion"),
    ("kuberay", JOB, put(GPU_POD + "containers/0/image", f"elsewhere:{tag('cuda')}"), "image-differs", "image"),
    ("kuberay", JOB, put(SPEC + "authOptions/mode", "disabled"), "no-token", "authOptions.mode"),
    ("kuberay", JOB, drop(GPU_POD + "containers/0/resources/limits/nvidia.com~gpu"),
     "gpu-without-limit", "ray-worker.resources.limits.nvidia.com/gpu"),
    ("kuberay", JOB, drop(GPU_POD + "containers/0/resources/limits/memory"), "no-limit", "limits.memory"),
    ("kuberay", JOB, put(HEAD_POD + "securityContext/runAsUser", 0), "root-user", "ray-head.securityContext"),
    ("kuberay", JOB, put(HEAD_POD + "hostNetwork", True), "dashboard-open", "hostNetwork"),
    ("kuberay", JOB, put(SPEC + "headGroupSpec/serviceType", "LoadBalancer"), "dashboard-open", "serviceType"),
    ("kuberay", JOB, put(SPEC + "headGroupSpec/template/metadata/labels", {}), "dashboard-open", "dashboard-host"),
    ("kuberay", JOB, put(HEAD_POD + "containers/0/env/0", {"name": "RAY_AUTH_TOKEN", "value": "open sesame"}),
     "secret-value", "RAY_AUTH_TOKEN"),
    ("kuberay", JOB, put(GPU_POD + "automountServiceAccountToken", True), "api-token", "automountServiceAccountToken"),
    ("kuberay", JOB, put("metadata/name", "x" * 48), "name-too-long", "metadata.name"),
    ("kuberay", JOB, put(GPU_POD + "restartPolicy", "Always"), "needs-autoscaler", "train.template.spec.restartPolicy"),
    ("kuberay", JOB, drop(SPEC + "autoscalerOptions/version"), "needs-autoscaler", "idleTimeoutSeconds"),
    ("kuberay", JOB, put("metadata/labels", {"kueue.x-k8s.io/queue-name": "q"}),
     "refused-by-kueue", "enableInTreeAutoscaling"),
    ("kuberay", "common.yaml", replaced("policyTypes:\n  - Ingress", "policyType:\n  - Ingress"),
     "unknown-key", "spec.policyType"),  # and so the head is open
    ("kuberay", "common.yaml", replaced("      name: run\n", "      nam: run\n"), "settings", "run.nam"),
    ("kuberay", "raycluster.yaml", replaced("kind: RayCluster\n", "kind: RayCluster\nkind: RayCluster\n"),
     "not-yaml", "(the file)"),
    ("slurm", SBATCH, replaced("folder=/shared/robust-deepfake", "folder=/shared/$(id)"),
     "shell-metacharacters", "folder"),
    ("slurm", SBATCH, replaced("--time=24:00:00", "--time=1;reboot"), "shell-metacharacters", "--time"),
    ("slurm", SBATCH, replaced("--nodes=2", "--node=2"), "unknown-key", "--node"),
    ("slurm", SBATCH, replaced("--nodes=2", "--nodes=-2"), "negative-workers", "--nodes"),
    ("slurm", SBATCH, replaced("done\n", ""), "shell-syntax", "(the file)"),
    ("slurm", SBATCH, replaced("export RAY_AUTH_MODE=token ", "export "), "no-token", "RAY_AUTH_MODE"),
    ("slurm", SBATCH, replaced("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
     "dashboard-open", "--dashboard-host"),
    ("image", CUDA, replaced("USER 1000:1000", "USER root"), "root-user", "USER"),
    ("image", CUDA, replaced("--require-hashes ", ""), "unhashed-install", "RUN"),
    ("image", CUDA, replaced("COPY jobs ", "ADD https://example.com/jobs.tar "), "add", "ADD"),
    ("image", CUDA, replaced("python:3.11-slim-bookworm", "python:latest"), "floating-base", "FROM"),
    ("image", CUDA, replaced(f"io.ray.version={locked_version('ray')}", "io.ray.version=2.59.0"),
     "ray-version", "io.ray.version"),
    ("image", CUDA, replaced("ENV RAY_AUTH_MODE=token\n", ""), "no-token", "ENV RAY_AUTH_MODE"),
    ("image", CUDA, replaced("USER 1000", "ENV AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENG\nUSER 1000"),
     "secret-value", "AWS_SECRET_ACCESS_KEY"),
    ("image", CUDA, replaced("WORKDIR ", "WORKDIRS "), "unknown-key", "WORKDIRS"),
]
# fmt: on
ALSO = {
    ("unknown-instance-field", AWS): {"unknown-instance-type"},
    ("unknown-key", JOB): {"image-not-of-lock", "image-differs"},
    ("unknown-key", AWS): {"min-above-max", "unknown-region"},
    ("no-head", JOB): {"missing-key"},
    ("no-head", AWS): {"refused-by-ray"},
    ("unknown-key", "job.sbatch"): {"missing-key"},
    ("unknown-key", "common.yaml"): {"dashboard-open"},
}
"""Names that follow from the same mistake."""


@pytest.mark.parametrize(
    "kind, file, change, name, key",
    PLANTED,
    ids=[f"{entry[0]}-{entry[3]}-{number}" for number, entry in enumerate(PLANTED)],
)
def test_a_planted_mistake_is_told_by_name(rendered, kind, file, change, name, key):
    files = {name: rendered[kind][name] for name in {file, "common.yaml"} & set(rendered[kind])}
    if change.__qualname__.startswith("replaced"):
        files[file] = change(files[file])
    else:
        read = documents(files[file])
        change(read[0])
        files[file] = json.dumps(read[0]) if file.endswith(".json") else yaml.safe_dump_all(read)
    found = problems_of(kind, files)
    assert name in {problem.name for problem in found}, found
    assert {problem.name for problem in found} <= {name} | ALSO.get((name, file), set()), found
    problem = next(problem for problem in found if problem.name == name)
    assert key in problem.key and Path(file).name in problem.file and len(problem.remedy) > 5
    assert "wJalr" not in str(problem) and "sesame" not in str(problem)


@pytest.mark.parametrize("kind", FILLED_IN)
def test_what_is_rendered_is_right_also_when_read_back_from_disk(rendered, kind, tmp_path, capsys):
    render.write(tmp_path, rendered[kind])
    assert check.main([kind, str(tmp_path)]) == 0, capsys.readouterr().err
    for path in tmp_path.rglob("*.yaml"):
        assert "&id" not in path.read_text() and documents(path.read_text())  # no anchors


@pytest.mark.parametrize(
    "kind, overrides, told",
    [
        ("aws", ["storage.uri=s3://lab;$(reboot)/runs"], "storage.uri: 's3://lab;$(reboot)/runs': no name of a bucket"),
        ("aws", ["storage.uri=s3://lab-bucket/$(id)"], "no name of a bucket and prefix"),
        (
            "kuberay",
            ["storage.uri=outputs/storage"],
            "storage.uri: 'outputs/storage': the nodes of a cluster share no disk",
        ),
        *(
            (
                kind,
                ["data.datasets.0.uri=/videos"],
                "data.datasets.0.uri: '/videos': the nodes of a cluster share no disk",
            )
            for kind in ("aws", "gcp", "kuberay")
        ),
        ("aws", ["cluster.deploy.image="], "cluster.deploy.image: None: give the repository"),
        ("aws", ["cluster.deploy.image=lab/robust:1.0"], "cluster.deploy.image: 'lab/robust:1.0': leave the tag out"),
        ("aws", ["cluster.deploy.aws.ami="], "cluster.deploy.aws.ami: None: give the id of a machine image"),
        ("kuberay", [f"cluster.deploy.name={'x' * 39}"], "[name-too-long]"),
        (
            "aws",
            ["storage.endpoint_url=https://minio.example.com"],
            "cluster.deploy.credentials_file: None: give a file",
        ),
        ("aws", ["cluster.deploy.name=a b"], "cluster.deploy.name: 'a b'"),
        ("aws", ["cluster.deploy.token_file=~/t;id"], "cluster.deploy.token_file"),
        ("aws", ["cluster.deploy.groups.1.min=9"], "train: min 9 is above max 4"),
        ("aws", ["cluster.deploy.groups.1.min=-1"], "cluster.deploy.groups.1.min: -1"),
        ("aws", ["cluster.deploy.groups.1.name=extract"], "every group needs a name of its own"),
        ("aws", ["cluster.deploy.groups.1.gpu=1"], "cluster.deploy.groups.1.gpu: unknown key; did you mean 'gpus'?"),
        ("aws", ["cluster.deploy.aws.region=us-east-9"], "provider.region: 'us-east-9': AWS has"),
        ("gcp", ["storage.endpoint_url="], "storage.endpoint_url: None: a bucket of Google Cloud"),
        (
            "gcp",
            ["cluster.deploy.name=a-name-of-twenty-four-xx"],
            "cluster.deploy.name: 'a-name-of-twenty-four-xx': Google's",
        ),
        ("slurm", ["cluster.deploy.slurm.folder=/a b"], "cluster.deploy.slurm.folder: '/a b'"),
        ("slurm", ["cluster.deploy.slurm.group=gpu"], "cluster.deploy.slurm.group: 'gpu' is not one of"),
        ("slurm", ["cluster.deploy.slurm.time=1 day"], "cluster.deploy.slurm.time: '1 day'"),
        (
            "kuberay",
            ["train.workers=5", "train.batch_size=40", "train.gpus_per_worker=1"],
            "train.workers: 5 x (1 CPU, 1 GPU) do not fit: the groups of cluster.deploy have room for 4",
        ),
        ("slurm", ["tune.gpus_per_trial=2"], "tune (one trial): 1 x (1 CPU, 2 GPU) do not fit"),
        *((kind, ["cluster.tls=true"], "cluster.tls: True: not with `ray up`") for kind in ("aws", "gcp")),
    ],
)
def test_a_wrong_description_is_told_by_its_key(kind, overrides, told, tmp_path, capsys):
    arguments = [
        kind,
        "--config",
        str(ROOT / "ray_config.yaml"),
        "--output",
        str(tmp_path / "out"),
        *COMMON,
        *FILLED_IN[kind],
        *overrides,
    ]
    assert render.main(arguments) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_one_image_one_ray_version_one_bucket_over_all_kinds(rendered):
    image = described("aws").image
    assert image == f"registry.example.com/lab/robust-deepfake:{tag('cuda')}" and locked_version("ray") in image
    assert (
        documents(rendered["aws"]["aws.yaml"])[0]["docker"]["image"]
        == documents(rendered["gcp"]["gcp.yaml"])[0]["docker"]["image"]
        == image
    )
    assert (
        rendered["kuberay"][JOB].count(f"image: {image}") == 4 and "image:" not in rendered["slurm"]["job.sbatch"]
    )  # head, two groups, submitter
    assert f"org.opencontainers.image.version={tag('cuda')}" in rendered["image"]["Dockerfile.cuda"]


def test_the_image_holds_all_that_the_digest_of_the_code_is_of(rendered):
    for kind in ("cpu", "cuda"):
        dockerfile, kept = (rendered["image"][f"Dockerfile.{kind}{end}"].splitlines() for end in ("", ".dockerignore"))
        for name in (*PACKAGES, *LOCKS):
            assert f"COPY {name} {APPLICATION}/{name}" in dockerfile and kept.count(f"!{name}") == 1


def test_the_images_tag_follows_the_locks_and_the_code(tmp_path, monkeypatch, request):
    before = tag("cpu")
    for name in ("requirements.lock", "requirements-gcp.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    for package in ("jobs", "robust", "cluster"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("cluster.description.ROOT", tmp_path)
    code_digest.cache_clear()
    for cached in (code_digest, locked_version):
        request.addfinalizer(cached.cache_clear)
    assert tag("cpu") == before
    with (tmp_path / "robust/errors.py").open("a") as code:
        code.write("\n")
    code_digest.cache_clear()
    changed = tag("cpu")
    assert changed.split("-")[0] == before.split("-")[0] and changed != before
    lock = tmp_path / "requirements.lock"
    lock.write_text(lock.read_text().replace(f"ray=={locked_version('ray')}", "ray==2.61.0"))
    code_digest.cache_clear()
    locked_version.cache_clear()
    assert tag("cpu").startswith("ray2.61.0-") and tag("cpu").split("-")[1] != before.split("-")[1]


def test_jobs_on_the_cluster_have_the_same_settings_as_here(rendered):
    config = described("kuberay").config
    texts = [
        document["data"]["ray_config.yaml"]
        for document in documents(rendered["kuberay"]["common.yaml"])
        if document["kind"] == "ConfigMap"
    ]
    for text in (*texts, rendered["slurm"]["ray_config.yaml"]):
        there = parse(yaml.safe_load(text))
        assert there.cluster.address == "auto" and there.model_copy(update={"cluster": config.cluster}) == config
    local = described("kuberay", "cluster.address=local", "cluster.local_s3=true")
    assert parse(yaml.safe_load(local.job_settings)).cluster == config.cluster


def allowed(policy: dict, action: str, resource: str) -> bool:
    """What IAM would say of a request without tags or conditions that are text: enough for S3's objects."""
    return any(
        action in statement["Action"]
        and any(fnmatch.fnmatchcase(resource, pattern) for pattern in statement["Resource"])
        for statement in policy["Statement"]
    )


def test_the_roles_reach_one_bucket_and_this_clusters_machines(rendered):
    worker, head = (json.loads(rendered["aws"][f"iam/{role}.json"]) for role in ("worker", "head"))
    for role in (worker, head):
        assert allowed(role, "s3:PutObject", "arn:aws:s3:::lab-bucket/runs/a/b") and allowed(
            role, "s3:GetObject", "arn:aws:s3:::lab-videos/dfdc/1.mp4"
        )
        assert not allowed(role, "s3:PutObject", "arn:aws:s3:::lab-bucket/other/b") and not allowed(
            role, "s3:PutObject", "arn:aws:s3:::lab-bucket/runs2/b"
        )
        assert not allowed(role, "s3:PutObject", "arn:aws:s3:::lab-videos/dfdc/1.mp4") and not allowed(
            role, "s3:GetObject", "arn:aws:s3:::lab-bucket2/runs/b"
        )
    assert not any(
        action.startswith(("ec2:", "iam:")) for statement in worker["Statement"] for action in statement["Action"]
    )
    passes = [statement["Resource"] for statement in head["Statement"] if "iam:PassRole" in statement["Action"]]
    assert passes == [["arn:aws:iam::*:role/robust-deepfake-worker"]]
    ends = next(statement for statement in head["Statement"] if "ec2:TerminateInstances" in statement["Action"])
    assert ends["Condition"] == {"StringEquals": {"aws:ResourceTag/ray-cluster-name": "robust-deepfake"}}


def test_rays_tag_is_the_one_that_the_policy_asks_for():
    from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME

    assert CLUSTER_TAG == TAG_RAY_CLUSTER_NAME


def test_with_kueue_a_job_is_admitted_whole():
    spec = documents(render.render("kuberay", described("kuberay", "cluster.deploy.kubernetes.queue=gpus"))[JOB])[0]
    assert (
        spec["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
        and spec["spec"]["shutdownAfterJobFinishes"] is True
    )
    cluster = spec["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False and "autoscalerOptions" not in cluster
    assert [(group["replicas"], group["maxReplicas"]) for group in cluster["workerGroupSpecs"]] == [(8, 8), (4, 4)]


def test_secrets_go_by_name_and_the_options_of_the_description_arrive():
    files = render.render(
        "kuberay",
        described(
            "kuberay",
            "cluster.deploy.kubernetes.credentials_secret=store",
            "cluster.deploy.kubernetes.image_pull_secret=pull",
            "storage.endpoint_url=http://minio:9000",
            "cluster.deploy.kubernetes.monitoring_namespace=watch",
            "cluster.deploy.kubernetes.spot_labels={spot: yes-please}",
            "cluster.deploy.kubernetes.aws_role=arn:aws:iam::123456789012:role/lab",
        ),
    )
    pod = documents(files[JOB])[0]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert {
        "name": "AWS_SECRET_ACCESS_KEY",
        "valueFrom": {"secretKeyRef": {"name": "store", "key": "AWS_SECRET_ACCESS_KEY"}},
    } in pod["containers"][0]["env"]
    assert pod["imagePullSecrets"] == [{"name": "pull"}] and pod["nodeSelector"] == {"spot": "yes-please"}
    account, _, policy = documents(files["common.yaml"])
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/lab"}
    assert {"port": 9000, "protocol": "TCP"} in policy["spec"]["egress"][-1]["ports"]
    assert policy["spec"]["ingress"][-1]["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watch"}}}
    ]


@pytest.mark.parametrize("spot", [True, False])
def test_spot_is_asked_for_as_described(spot):
    aws, gcp = (
        documents(render.render(kind, described(kind, f"cluster.deploy.groups.1.spot={spot}"))[f"{kind}.yaml"])[0][
            "available_node_types"
        ]
        for kind in ("aws", "gcp")
    )
    assert ("InstanceMarketOptions" in aws["train"]["node_config"]) is spot and "InstanceMarketOptions" not in aws[
        "head"
    ]["node_config"]
    assert (gcp["train"]["node_config"]["scheduling"].get("provisioningModel") == "SPOT") is spot


def test_a_bucket_whole_and_a_bad_one():
    assert place("x", "s3://abc").prefix == "" and place("x", "s3://abc/d/e/").prefix == "d/e"
    with pytest.raises(ConfigError, match="^x: "):
        place("x", "s3://Abc/d")


@pytest.mark.parametrize(
    "tool, kind, files",
    [("shellcheck", "slurm", ["job.sbatch"]), ("hadolint", "image", ["Dockerfile.cpu", "Dockerfile.cuda"])],
)
def test_linters_have_nothing_to_say(rendered, tmp_path, tool, kind, files):
    render.write(tmp_path, rendered[kind])
    command = Path(sys.executable).with_name(tool)  # of the dev extra
    told = subprocess.run([command, *files], cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout


PLACEHOLDERS = {
    "s3://BUCKET": "s3://lab-bucket",
    "s3://VIDEOS": "s3://lab-videos",
    "REPOSITORY": "registry.example.com/robust",
    "=AMI": "=ami-0123",
    "PROJECT": "lab-1",
    "IMAGES": "lab-1",
    "FAMILY": "docker",
}


@pytest.mark.parametrize("kind", FILLED_IN)
def test_the_command_of_each_page_works(kind, tmp_path, capsys):
    page = (ROOT / "docs" / "cluster" / f"{kind}.md").read_text().replace("\\\n", " ")
    line = next(
        line.strip() for line in page.splitlines() if line.strip().startswith(".venv/bin/python -m cluster.render")
    )
    for name, value in PLACEHOLDERS.items():
        line = line.replace(name, value)
    given = shlex.split(line)[3:]
    assert render.main([*given, "--output", str(tmp_path)]) == 0, capsys.readouterr().err
    if kind in ("aws", "gcp", "kuberay"):  # no node is there before a job asks for it, and waits
        description = Description(load_config(ROOT / "ray_config.yaml", render.parse_arguments(given).overrides))
        assert description.config.cluster.wait_for_nodes_s >= 600
        assert {group.min for group in description.deploy.groups} == {0}
    named = re.findall(
        r"`((?:iam/|rayjob-|job|common|raycluster|rayservice|Dockerfile)[\w./-]*\.(?:yaml|json|sbatch|cpu|cuda))`", page
    )
    assert all((tmp_path / name).exists() for name in named if "STAGE" not in name)
