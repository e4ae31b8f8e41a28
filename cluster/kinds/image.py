"""The image: exactly what the locks name, by hash, and the code; the user is not root.

`Dockerfile.cpu` and `Dockerfile.cuda` install the same packages: torch's build for GPUs has its libraries in the lock
and does not load without them, also on a CPU. The second asks the container runtime for the GPUs' driver.
"""

from __future__ import annotations

import shlex

from cluster.description import APPLICATION, HOME, LOCKS, PACKAGES, USER_ID, Description, tag

CODE = (*PACKAGES, *LOCKS, "ray_config.yaml")
"""With the locks: the code's digest, by which preflight compares machines, is of them too."""
DEBIAN = ("ca-certificates", "openssh-client", "openssl", "procps", "rsync", "wget")
"""What is called inside the container: by Ray's launcher (rsync, ssh), by KubeRay's probes (wget), and while it waits for
a certificate (openssl)."""
MOUNTED = (".ray", ".aws")
"""Folders of files that are mounted; Docker would make them as root."""
VARIANTS = ("cpu", "cuda")
PIP = "python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes --only-binary :all:"


def files(description: Description) -> dict[str, str]:
    """The ignore file next to each is BuildKit's: the rest of the checkout, outputs too, never reaches the builder."""
    ignored = "\n".join(["*", *(f"!{name}" for name in CODE), "**/__pycache__"]) + "\n"
    return {
        name: content
        for variant in VARIANTS
        for name, content in (
            (f"Dockerfile.{variant}", dockerfile(description, variant)),
            (f"Dockerfile.{variant}.dockerignore", ignored),
        )
    }


def dockerfile(description: Description, variant: str) -> str:
    environment = {
        "HOME": HOME,  # Ray's launcher reads it to find where files go
        "PYTHONPATH": APPLICATION,
        "PYTHONUNBUFFERED": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    } | (
        {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"} if variant == "cuda" else {}
    )
    labels = {"org.opencontainers.image.version": tag(variant), "io.ray.version": description.ray_version}
    packages = " ".join(shlex.quote(name) for name in DEBIAN)
    return "\n".join(
        [
            f"# docker build --file Dockerfile.{variant} --tag IMAGE:{tag(variant)} CHECKOUT",
            f"FROM {shlex.quote(description.deploy.base_image)}",
            "",
            *(f"LABEL {key}={shlex.quote(value)}" for key, value in labels.items()),
            "",
            'SHELL ["/bin/bash", "-o", "pipefail", "-c"]',
            "# hadolint ignore=DL3008",  # Debian keeps no old version of a package to pin
            f"RUN apt-get update && apt-get install --yes --no-install-recommends {packages} \\",
            "    && rm -rf /var/lib/apt/lists/* \\",
            f"    && useradd --uid {USER_ID} --create-home --home-dir {HOME} --shell /bin/bash ray \\",
            f"    && install --directory --owner=ray --group=ray {' '.join(f'{HOME}/{name}' for name in MOUNTED)}",
            "",
            f"COPY {' '.join(LOCKS)} /tmp/locks/",
            f"RUN {PIP} {' '.join(f'--requirement /tmp/locks/{lock}' for lock in LOCKS)}",
            "",
            *(f"COPY {name} {APPLICATION}/{name}" for name in CODE),
            "",
            *(f"ENV {key}={shlex.quote(value)}" for key, value in environment.items()),
            f"USER {USER_ID}:{USER_ID}",
            f"WORKDIR {HOME}",
            'CMD ["python", "-m", "jobs.pipeline", "--help"]',
            "",
        ]
    )
