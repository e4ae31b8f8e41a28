"""Clients that are made once in a process for the same settings and environment; never for one that was forked from it."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable


def kept(make: Callable) -> Callable:
    """Decorator of a function that makes something of a StorageConfig: what was made is given again."""
    made = {}

    @functools.wraps(make)
    def of(config):
        key = os.getpid(), kind_of(config)  # what a fork inherits is left alone: its threads are gone, its sockets shared
        found = made.get(key)
        return made.setdefault(key, make(config)) if found is None else found

    return of


def kind_of(config) -> tuple:
    """What decides about a client: the settings but for the uri, and the environment."""
    return tuple(sorted((name, value) for name, value in vars(config).items() if name != "uri")), _environment()


def _environment() -> str:
    """A digest of what decides about credentials, endpoint and trust; other keys in the environment, another client."""
    names = ("REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    owners = ("AWS_", "GOOGLE_", "CLOUDSDK_")
    chosen = sorted(
        (name, value) for name, value in os.environ.items() if name.startswith(owners) or name.upper() in names
    )
    return hashlib.sha256(repr(chosen).encode()).hexdigest()
