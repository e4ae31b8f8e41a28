"""What one machine of the cluster sees: its versions, its disks, its clock, and the bucket."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import platform
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from cluster.description import code_digest
from robust.config import StorageConfig
from robust.errors import UserError
from robust.object_stores.address import endpoint_url
from robust.object_stores.s3_client import ca_bundle, region_of
from robust.storage import Storage, is_s3

SHARED = ".preflight"
"""Folder of the probe objects below storage.uri; no run can have the name."""
RANDOM = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
"""Names of probe objects, of their claims and partial files."""


def report(storage: StorageConfig, probe: str, temporary: str) -> dict:
    """All of it, as plain values.

    Args:
        probe: key of an object that the driver has written.
        temporary: folder of Ray's session on this machine.
    """
    return {
        "host": platform.node(),
        "time": time.time(),
        "versions": versions(),
        "disk": space(temporary),
        "shm": space("/dev/shm"),
        "bucket": bucket(storage, probe),
        "bucket_clock": bucket_clock(storage),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "code": code_digest()}
    for package in ("ray", "torch", "torchvision", "pyarrow"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def space(folder: str) -> dict | None:
    """Bytes of the file system that a folder is on; None if there is none."""
    while folder and not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        folder = "" if parent == folder else parent
    if not folder:
        return None
    usage = shutil.disk_usage(folder)
    return {"folder": folder, "total": usage.total, "free": usage.free}


def bucket(config: StorageConfig, probe: str | None) -> dict[str, str | None]:
    """{step: None or what went wrong} of a life of one small object, which is gone afterwards; ends at the first error.

    Args:
        probe: key of an object that another machine has written, to be read here.
    """
    storage = Storage.from_config(config.model_copy(update={"max_attempts": min(3, config.max_attempts)}))
    key, told = f"{SHARED}/{uuid.uuid4().hex}", {}

    def refuses_a_second() -> str | None:
        again = storage.write_bytes(key, b"second", if_absent=True)
        return "what was to be written only where there is nothing replaced an object" if again else None

    steps: list[tuple[str, Callable[[], str | None]]] = [
        ("list", storage.check),
        ("write", lambda: None if storage.write_bytes(key, b"first", if_absent=True) else "a new object was refused"),
        ("read", lambda: None if storage.read_bytes(key) == b"first" else "other bytes came back"),
        ("write once", refuses_a_second),
        ("shared", lambda: None if probe is None or storage.read_bytes(probe) else "the driver's object is empty"),
        ("list folder", lambda: None if key in storage.list(SHARED) else "a new object is not in the list"),
    ]
    try:
        for name, step in steps:
            told[name] = _outcome(step)
            if told[name] is not None and name in ("list", "write"):
                break
    finally:
        if told.get("list", "") is None:
            told["delete"] = _outcome(lambda: _delete(storage, key))
    return told


def _delete(storage: Storage, key: str) -> str | None:
    storage.delete(key)
    return "an object is still there after it was deleted" if storage.exists(key) else None


def _outcome(step: Callable[[], str | None]) -> str | None:
    try:
        return step() or None
    except UserError as error:
        return RANDOM.sub("*", str(error))  # the same on all nodes, so that they can be told as one


def bucket_clock(config: StorageConfig) -> dict | None:
    """{"before", "date", "after"}: seconds of this machine around an answer of the object store, and the answer's Date.

    None: no S3, no answer with a Date, or settings that `bucket` tells to be wrong. Nothing is signed: a refusal has a
    Date, too.
    """
    if not is_s3(config.uri):
        return None
    try:
        address = endpoint_url(config) or f"https://s3.{region_of(config)}.amazonaws.com"
        context = ssl.create_default_context(cafile=ca_bundle(config))
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        before = time.time()
        with opener.open(urllib.request.Request(address, method="HEAD"), timeout=10) as answer:
            date = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
    except (OSError, UserError, http.client.HTTPException):
        return None
    try:
        return {"before": before, "date": parsedate_to_datetime(date).timestamp(), "after": time.time()}
    except (TypeError, ValueError):
        return None
