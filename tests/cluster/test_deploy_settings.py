"""Every setting of cluster.deploy is read: another value of it changes a rendered file."""

from __future__ import annotations

import importlib

import pytest
from test_render import described

from cluster.description import Description
from robust.config_file import parse_section
from robust.deploy_config import DeployConfig
from robust.errors import ConfigError

KINDS = ("aws", "gcp", "slurm", "image", "kuberay")
"""The quick ones first: the search ends at the first file that differs."""
GIVEN = {
    "gcp_accelerator": "nvidia-l4",
    "root_device": "/dev/xvda",
    "credentials_file": "~/other",
    "aws_role": "arn:aws:iam::123456789012:role/lab",
    "spot_labels": {"spot": "yes"},
    "security_groups": ["sg-1"],
    "zone": "europe-west4-b",
    "time": "1:00:00",
    "slurm.group": "extract",
    "endpoint.group": "train",
    "clients": ["web"],
    "endpoint.max": 3,
    "redis": "other:6380",
    "stage": "train",
}
"""Values for settings whose type does not say one."""
GROUP = dict(gpus=2, gcp_accelerator="nvidia-tesla-t4", min=1, spot=True, idle_timeout_s=60, disk_gb=300)


def leaves(node, path=()):
    if isinstance(node, (dict, list)) and node and path[-1:] != ("spot_labels",):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*path, key))
    else:
        yield path


def another(path, value):
    name = str(path[-1])
    given = GIVEN.get(".".join(map(str, path[-2:])), GIVEN.get(name))
    if given is not None:
        return given
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else f"{value or 'other'}-2"


def with_value(config: dict, path, value) -> dict:
    copied = {**config} if isinstance(config, dict) else [*config]
    copied[path[0]] = with_value(copied[path[0]], path[1:], value) if len(path) > 1 else value
    return copied


@pytest.fixture(scope="module")
def descriptions():
    """{kind: (a filled-in description, its files)}, each group with every field given."""
    found = {}
    for kind in KINDS:
        config = described(kind).config
        tree = config.cluster.deploy.model_dump()
        tree["groups"] = [{**group, **GROUP} for group in tree["groups"]]
        tree["kubernetes"]["endpoint"]["redis"] = "redis:6379"  # its Secret goes with it
        found[kind] = (config, tree, files(kind, config, tree))
    return found


def files(kind, config, tree) -> dict[str, str]:
    """Without the jobs' own settings, which repeat the whole description."""
    deploy = parse_section(DeployConfig, tree)
    whole = config.model_copy(update={"cluster": config.cluster.model_copy(update={"deploy": deploy})})
    return importlib.import_module(f"cluster.kinds.{kind}").files(WithoutSettings(whole))


class WithoutSettings(Description):
    job_settings = ""


FILLED = DeployConfig().model_dump()


@pytest.mark.parametrize("path", list(leaves(FILLED)), ids=lambda path: ".".join(map(str, path)))
def test_another_value_changes_a_file(descriptions, path):
    for kind, (config, tree, before) in descriptions.items():
        value = tree
        for part in path:
            value = value[part]
        try:
            changed = with_value(tree, path, another(path, value))
            if changed["groups"][1]["name"] != "train" and path[-1] == "name":
                changed = with_value(changed, ("slurm", "group"), changed["groups"][1]["name"])
            if files(kind, config, changed) != before:
                return
        except ConfigError as error:
            raise AssertionError(
                f"{'.'.join(map(str, path))}: {another(path, value)!r} is no valid value: {error}"
            ) from error
    raise AssertionError(f"cluster.deploy.{'.'.join(map(str, path))} is read by no kind")
