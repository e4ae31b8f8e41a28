"""Files for `ray up`: Ray's own validation, the cloud's fields, which Ray passes on unread, and what holds on any."""

from __future__ import annotations

import copy
import difflib
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import botocore.loaders
import botocore.model
import botocore.session
import botocore.validate
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.checks import Problem, against_schema, fitted
from cluster.checks.common import counts, dashboard_hosts, image_of_lock
from cluster.schemas import schema

RAYS_OWN = ("SubnetIds",)
"""Fields of node_config that Ray takes out before it asks EC2."""


def problems(file: str, cluster: dict) -> Iterator[Problem]:
    found, left = fitted(file, cluster, rays_schema())
    found += _provider(file, left)
    yield from found or _rays_own(file, cluster)
    yield from _semantics(file, left)


def _semantics(file: str, cluster: dict) -> Iterator[Problem]:
    types = cluster.get("available_node_types") or {}
    if cluster.get("head_node_type") not in types:
        yield Problem(
            "no-head",
            file,
            "head_node_type",
            cluster.get("head_node_type"),
            f"name one of available_node_types: {', '.join(types)}",
        )
    elif types[cluster["head_node_type"]].get("resources", {}).get("CPU") != 0:
        yield Problem(
            "head-takes-work",
            file,
            f"available_node_types.{cluster['head_node_type']}.resources.CPU",
            types[cluster["head_node_type"]].get("resources", {}).get("CPU"),
            "give 0: work on the head can take the whole cluster down",
        )
    for name, node in types.items():
        yield from counts(file, f"available_node_types.{name}", node, "min_workers", "max_workers")
        machine = node.get("node_config") or {}
        check = _ec2 if (cluster.get("provider") or {}).get("type") == "aws" else _gce
        yield from check(file, f"available_node_types.{name}.node_config", machine)
    yield from _container(file, cluster, types)
    yield from _start(file, cluster)


@functools.cache
def rays_schema() -> dict:
    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def _provider(file: str, cluster: dict) -> Iterator[Problem]:
    """Ray's schema takes any field here."""
    provider = cluster.get("provider") or {}
    known = {*rays_schema()["properties"]["provider"]["properties"], "key_pair", "aws_credentials"}
    for key in sorted(set(provider) - known):
        yield Problem(
            "unknown-key",
            file,
            f"provider.{key}",
            provider[key],
            f"no such field here; known are {', '.join(sorted(known))}",
        )
    if provider.get("type") == "aws" and provider.get("region") not in aws_regions():
        yield Problem(
            "unknown-region",
            file,
            "provider.region",
            provider.get("region"),
            f"AWS has {', '.join(sorted(aws_regions()))}",
        )


def _rays_own(file: str, cluster: dict) -> Iterator[Problem]:
    """What Ray itself says, when its schema has nothing to say."""
    try:
        validate_config(prepare_config(copy.deepcopy(cluster)))
    except Exception as error:  # Ray raises whatever comes: ValueError, AssertionError, KeyError
        yield Problem("refused-by-ray", file, "(the file)", type(error).__name__, str(error).partition("\n")[0][:200])


@functools.cache
def aws_regions() -> set[str]:
    session = botocore.session.get_session()
    return {
        region
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("ec2", partition)
    }


@functools.cache
def run_instances() -> botocore.model.StructureShape:
    service = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    return botocore.model.ServiceModel(service).operation_model("RunInstances").input_shape


def _ec2(file: str, key: str, machine: dict) -> Iterator[Problem]:
    """node_config goes to EC2 as it is: botocore's own validation of that call, with the counts that Ray adds."""
    arguments = {name: value for name, value in machine.items() if name not in RAYS_OWN} | {
        "MinCount": 1,
        "MaxCount": 1,
    }
    report = botocore.validate.ParamValidator().validate(arguments, run_instances())
    for line in report.generate_report().splitlines() if report.has_errors() else ():
        unknown = re.search(r'Unknown parameter in (\S+): "([^"]+)", must be one of: (.*)', line)
        wrong = re.search(r"for parameter ([^\s,]+), value: (.*?), type: .*valid types: (.*)", line)
        if unknown:
            path = ".".join([key, *([] if unknown[1] == "input" else [unknown[1]]), unknown[2]])
            near = difflib.get_close_matches(unknown[2], unknown[3].split(", "), n=1)
            yield Problem(
                "unknown-instance-field",
                file,
                path,
                "(a field)",
                f"EC2 has no such field; did you mean {near[0]}?" if near else f"EC2 has {unknown[3][:300]}",
            )
        elif wrong:
            yield Problem("wrong-instance-field", file, f"{key}.{wrong[1]}", wrong[2], f"EC2 wants {wrong[3]}")
        else:
            yield Problem("wrong-instance-field", file, key, machine, f"EC2: {line}"[:300])
    kinds = run_instances().members["InstanceType"].enum
    if machine.get("InstanceType") not in kinds:
        yield Problem(
            "unknown-instance-type",
            file,
            f"{key}.InstanceType",
            machine.get("InstanceType"),
            "EC2 has no such type (a newer one: make lock)",
        )
    if "IamInstanceProfile" not in machine:
        yield Problem(
            "no-role",
            file,
            f"{key}.IamInstanceProfile",
            None,
            "name one: without it Ray makes a role with all of EC2 and S3",
        )


def _gce(file: str, key: str, machine: dict) -> Iterator[Problem]:
    for problem in against_schema(file, machine, schema("gce", "Instance"), key):
        name = {"unknown-key": "unknown-instance-field"}.get(problem.name, problem.name)
        yield Problem(name, file, problem.key, problem.value, problem.remedy)
    if not machine.get("serviceAccounts"):
        yield Problem(
            "no-role",
            file,
            f"{key}.serviceAccounts",
            None,
            "name one: without it Ray gives the head an account with all of Compute Engine",
        )


def _container(file: str, cluster: dict, types: dict) -> Iterator[Problem]:
    docker = cluster.get("docker") or {}
    image, options = docker.get("image"), [str(option) for option in docker.get("run_options") or []]
    others = {f"docker.{key}": docker[key] for key in ("head_image", "worker_image") if key in docker}
    others |= {
        f"available_node_types.{name}.docker.worker_image": node["docker"]["worker_image"]
        for name, node in types.items()
        if "worker_image" in (node.get("docker") or {})
    }
    yield from image_of_lock(file, "docker.image", image)
    for key, other in others.items():
        if other != image:
            yield Problem(
                "image-differs", file, key, other, f"all nodes need one and the same image, {image}; take this line out"
            )
    text = " ".join(options)
    mounted = [str(path) for path in cluster.get("file_mounts") or {}]
    path = re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)", text)
    if "RAY_AUTH_MODE=token" not in text or path is None or path[1].strip("'\"") not in mounted:
        yield Problem(
            "no-token",
            file,
            "docker.run_options",
            options,
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a path of file_mounts: without "
            "a token whoever reaches a port runs code",
        )
    if re.search(r"--user[= ](root|0)\b|--privileged|(^| )-u[= ]?(root|0)\b", text):
        yield Problem(
            "root-user",
            file,
            "docker.run_options",
            options,
            "take out what makes the container's user root or privileged; the image has one of its own",
        )


def _start(file: str, cluster: dict) -> Iterator[Problem]:
    commands = cluster.get("head_start_ray_commands")
    if commands is None:
        yield Problem(
            "missing-key",
            file,
            "head_start_ray_commands",
            commands,
            "Ray's default opens the dashboard to every network; write the command",
        )
        return
    yield from dashboard_hosts(file, "head_start_ray_commands", " ".join(map(str, commands)))
    if "setup_commands" not in cluster:
        yield Problem(
            "missing-key",
            file,
            "setup_commands",
            None,
            "write [] at least: Ray's default installs a nightly build of itself",
        )
