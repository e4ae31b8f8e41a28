"""What every way to a cluster takes from the one description: image, Ray's version, buckets, the jobs' settings."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from cluster.demands import demands, endpoint_demands, room
from robust.config import Config
from robust.config_identity import dump_yaml
from robust.deploy_config import DeployConfig, GroupConfig
from robust.errors import ConfigError
from robust.object_stores.address import bucket_path
from robust.storage import is_s3

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-gcp.lock")
"""What the image installs; the second has what only Ray's autoscaler on Google Cloud needs."""
PACKAGES = ("jobs", "robust", "cluster")
"""The code that the image holds."""
USER_ID = 1000
"""Of the image's user; also the first user of Ubuntu's machine images, so that mounted files can be read."""
HOME = "/home/ray"
APPLICATION = "/opt/robust-deepfake"
"""Where the image has the code."""
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
PREFIX = re.compile(r"[A-Za-z0-9!_.'()/=+@:-]*")


@dataclass(frozen=True)
class Place:
    """A bucket and the prefix in it that a uri names."""

    bucket: str
    prefix: str


@dataclass(frozen=True)
class Description:
    """A configuration, and what follows from it for every kind of file."""

    config: Config

    @property
    def deploy(self) -> DeployConfig:
        return self.config.cluster.deploy

    @cached_property
    def ray_version(self) -> str:
        return locked_version("ray")

    @cached_property
    def image(self) -> str:
        """Repository and tag. One image for all groups: the tag changes with the lock, so that the two cannot disagree.

        Raises: ConfigError: cluster.deploy.image is not given.
        """
        repository = required(
            "cluster.deploy.image",
            self.deploy.image,
            "the repository that you push the image to, without a tag, such as registry.example.com/robust-deepfake",
        )
        if "@" in repository or ":" in repository.rpartition("/")[2]:
            raise ConfigError(
                f"cluster.deploy.image: {repository!r}: leave the tag out; it follows from the lock ({self.tag})"
            )
        return f"{repository}:{self.tag}"

    @cached_property
    def tag(self) -> str:
        return tag(self.variant)

    @property
    def variant(self) -> str:
        return "cuda" if any(group.gpus for group in self.deploy.groups) else "cpu"

    @cached_property
    def storage(self) -> Place:
        """Where runs live. Raises: ConfigError: not in a bucket."""
        return place("storage.uri", self.config.storage.uri)

    @cached_property
    def inputs(self) -> list[Place]:
        """Where the data sets are; jobs only read there. Raises: ConfigError: one is not in a bucket."""
        return [
            place(f"data.datasets.{number}.uri", dataset.uri)
            for number, dataset in enumerate(self.config.data.datasets)
        ]

    @cached_property
    def judged(self) -> Place | None:
        """Where jobs.detect_many reads; None: detect.input is not set. Raises: ConfigError: not in a bucket."""
        return place("detect.input", self.config.detect.input) if self.config.detect.input else None

    def require_buckets(self) -> None:
        """Raises: ConfigError: runs or a data set are where the nodes cannot reach them."""
        _ = self.storage, self.inputs

    @property
    def endpoint_port(self) -> int:
        """TCP port of the object store."""
        endpoint = urlsplit(self.config.storage.endpoint_url or "https://")
        return endpoint.port or (80 if endpoint.scheme == "http" else 443)

    @property
    def job_settings(self) -> str:
        """ray_config.yaml for the jobs on the cluster: these settings, but Ray is there and only joined."""
        cluster = self.config.cluster.model_copy(update={"address": "auto", "local_s3": False})
        return dump_yaml(self.config.model_copy(update={"cluster": cluster}))

    @property
    def asks_for_gpus(self) -> bool:
        return any(demand.gpus for demand in (*demands(self.config), *endpoint_demands(self.config, "most")))

    def group(self, name: str) -> GroupConfig:
        return next(group for group in self.deploy.groups if group.name == name)

    def require_room(self, nodes: dict[str, int], usable: Callable[[int], int] = int) -> None:
        """Whether the jobs' workers fit into so many nodes of each group at all; else they would wait for ever.

        Args:
            usable: how many of a node's CPUs Ray has.
        Raises: ConfigError: names the settings.
        """
        groups = [(self.group(name), count) for name, count in nodes.items()]
        sizes = [(usable(group.cpus), group.gpus) for group, count in groups for _ in range(count)]
        for demand in demands(self.config):
            if (places := room(sizes, demand)) < demand.workers:
                raise ConfigError(
                    f"{demand.key}: {demand} do not fit: the groups of cluster.deploy have room for {places} at their "
                    "largest; raise max, or ask for less"
                )


def required(key: str, value: str | None, what: str) -> str:
    """Raises: ConfigError: the value is missing."""
    if not value:
        raise ConfigError(f"{key}: {value!r}: give {what}")
    return value


def place(key: str, uri: str) -> Place:
    """Raises: ConfigError: no bucket, or a name that is none."""
    if not is_s3(uri):
        raise ConfigError(f"{key}: {uri!r}: the nodes of a cluster share no disk; give s3://bucket/prefix")
    bucket, _, prefix = bucket_path(uri).partition("/")
    if not BUCKET.fullmatch(bucket) or not PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"{key}: {uri!r}: no name of a bucket and prefix: 3 to 63 of a-z, 0-9, '.' and '-', then letters, "
            "digits and !_.'()/=+@:-; give s3://bucket/prefix"
        )
    return Place(bucket, prefix)


@functools.cache
def locked_version(package: str) -> str:
    """Of a package in requirements.lock."""
    found = re.search(rf"^{re.escape(package)}==(\S+)", (ROOT / LOCKS[0]).read_text(), re.MULTILINE)
    if found is None:
        raise ConfigError(f"requirements.lock has no {package}; run make lock")
    return found[1]


def tag(variant: str) -> str:
    """Of the image with what is locked and written now, such as ray2.60.0-0123456789ab-cuda.

    Nodes keep an image under its tag, so code that changed must be another tag, too.
    """
    return f"ray{locked_version('ray')}-{code_digest()}-{variant}"


@functools.cache
def code_digest() -> str:
    """Of the locks and the code: 12 hex digits. Read once a process: a file of several pods asks for each."""
    digest = hashlib.sha256()
    code = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*")))
    for path in (*(ROOT / lock for lock in LOCKS), *code):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
