"""What the files for `ray up` have in common on every cloud: image, token, start commands, groups."""

from __future__ import annotations

import shlex

from cluster.description import HOME, Description
from robust.deploy_config import GroupConfig
from robust.errors import ConfigError

GCS_PORT = 6379
OBJECTS_PORT = 8076
TOKEN = f"{HOME}/.ray/auth_token"
CREDENTIALS = f"{HOME}/.aws/credentials"
HEAD = "head"


def cluster(description: Description, provider: dict, ssh_user: str, node_configs: dict[str, dict]) -> dict:
    """The cluster's configuration.

    Args:
        node_configs: what the cloud is asked for, for the head ("head") and for each group by name.

    `ray up` of this Ray version starts autoscaler v2, which idle_timeout_s needs. No setup commands: Ray's defaults
    would install a nightly build, and the image has everything.

    Raises: ConfigError: cluster.tls.
    """
    if description.config.cluster.tls:
        raise ConfigError(
            "cluster.tls: True: not with `ray up`: machines come and go, and the authority's key would have to lie on each "
            "for its certificate; give false and keep the machines in a network of their own, or use kuberay or slurm"
        )
    deploy = description.deploy
    head = {"resources": {"CPU": 0}, "min_workers": 0, "max_workers": 0, "node_config": node_configs[HEAD]}
    return {
        "cluster_name": deploy.name,
        "max_workers": sum(group.max for group in deploy.groups),
        "idle_timeout_minutes": max(group.idle_timeout_s for group in deploy.groups) / 60,
        "provider": provider,
        "auth": {"ssh_user": ssh_user},
        "docker": {
            "image": description.image,
            "container_name": "ray",
            "pull_before_run": True,
            "run_options": run_options(),
        },
        "file_mounts": file_mounts(description),
        "available_node_types": {HEAD: head}
        | {group.name: _worker(group, node_configs[group.name]) for group in deploy.groups},
        "head_node_type": HEAD,
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            "ray stop",
            _start(
                "--head",
                f"--port={GCS_PORT}",
                f"--object-manager-port={OBJECTS_PORT}",
                "--autoscaling-config=~/ray_bootstrap_config.yaml",
                "--dashboard-host=127.0.0.1",
            ),
        ],
        "worker_start_ray_commands": [
            "ray stop",
            _start(f"--address=$RAY_HEAD_IP:{GCS_PORT}", f"--object-manager-port={OBJECTS_PORT}"),
        ],
    }


def run_options() -> list[str]:
    """Of docker run; Ray puts them on a command line as they are."""
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": TOKEN}
    variables = [f"--env={shlex.quote(f'{name}={value}')}" for name, value in environment.items()]
    return [*variables, "--ulimit=nofile=65536:65536", "--security-opt=no-new-privileges"]


def file_mounts(description: Description) -> dict[str, str]:
    """{path in the container: path on this machine}: what `ray up` copies, never a value in the file itself."""
    deploy = description.deploy
    return {TOKEN: deploy.token_file} | ({CREDENTIALS: deploy.credentials_file} if deploy.credentials_file else {})


def _worker(group: GroupConfig, node_config: dict) -> dict:
    resources = {"CPU": group.cpus} | ({"GPU": group.gpus} if group.gpus else {})
    return {
        "resources": resources,
        "min_workers": group.min,
        "max_workers": group.max,
        "idle_timeout_s": group.idle_timeout_s,
        "node_config": node_config,
    }


def _start(*options: str) -> str:
    return " ".join(["ulimit -n 65536; ray start", *options])  # the shell on the node fills in ~ and $RAY_HEAD_IP
