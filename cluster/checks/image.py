"""A Dockerfile: packages by hash only, a user that is not root, the lock's Ray, no secret in a layer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cluster.checks import Problem
from cluster.checks.common import REFERENCE, VARIABLE
from cluster.description import locked_version, tag

INSTRUCTIONS = {
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
}


def problems(file: str, text: str) -> Iterator[Problem]:
    lines = instructions(text)
    for word, rest in lines:
        if word not in INSTRUCTIONS:
            yield Problem(
                "unknown-key",
                file,
                word,
                rest,
                f"no instruction of a Dockerfile; known are {', '.join(sorted(INSTRUCTIONS))}",
            )
        elif word == "FROM":
            yield from _base(file, rest)
        elif word == "ADD":
            yield Problem("add", file, word, rest, "use COPY: ADD fetches addresses and unpacks archives, unchecked")
        elif word == "RUN":
            yield from _installs(file, rest)
        elif word in ("ENV", "ARG") and VARIABLE.search(re.split(r"[= ]", rest)[0]) and re.search(r"[= ]\S", rest):
            yield Problem("secret-value", file, f"{word} {re.split(r'[= ]', rest)[0]}", "(a value)", REFERENCE)
    yield from _user(file, [rest for word, rest in lines if word == "USER"])
    yield from _labels(file, dict(rest.split("=", 1) for word, rest in lines if word == "LABEL" and "=" in rest))
    if ("ENV", "RAY_AUTH_MODE=token") not in lines:
        yield Problem(
            "no-token", file, "ENV RAY_AUTH_MODE", None, "set it to token: no Ray of this image then runs without one"
        )


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, the rest) with continued lines joined and comments dropped."""
    joined = re.sub(r"\\\n\s*", " ", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    ]


def _base(file: str, rest: str) -> Iterator[Problem]:
    image = rest.partition(" ")[0]
    name = image.rpartition("/")[2]
    if "@sha256:" not in image and (":" not in name or name.endswith(":latest")):
        yield Problem("floating-base", file, "FROM", image, "give a version or, better, a digest (python@sha256:...)")


def _installs(file: str, command: str) -> Iterator[Problem]:
    for part in re.split(r"&&|;|\|\|", command):
        if re.search(r"\b(pip3?|uv pip)\s+install\b", part) and not (
            "--require-hashes" in part and "--no-deps" in part
        ):
            yield Problem(
                "unhashed-install", file, "RUN", part.strip(), "install from the lock with --require-hashes --no-deps"
            )
        if re.search(r"\b(curl|wget)\b\s+\S*(https?:|-)", part):
            yield Problem(
                "add", file, "RUN", part.strip(), "nothing is fetched by address while building: put it into the lock"
            )


def _user(file: str, users: list[str]) -> Iterator[Problem]:
    user = users[-1].partition(":")[0] if users else None
    if user is None or not re.fullmatch(r"[1-9][0-9]*", user):
        yield Problem(
            "root-user", file, "USER", user, "end with a number above 0: Kubernetes proves runAsNonRoot by it"
        )


def _labels(file: str, labels: dict[str, str]) -> Iterator[Problem]:
    found = labels.get("io.ray.version", "").strip("'\"")
    if found != locked_version("ray"):
        yield Problem(
            "ray-version",
            file,
            "LABEL io.ray.version",
            found,
            f"requirements.lock has {locked_version('ray')}; render again",
        )
    made = labels.get("org.opencontainers.image.version", "").strip("'\"")
    if made != tag(file.rpartition(".")[2]):
        yield Problem(
            "image-not-of-lock",
            file,
            "LABEL org.opencontainers.image.version",
            made,
            f"the locks and the code give {tag(file.rpartition('.')[2])}; render again",
        )
