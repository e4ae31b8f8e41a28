"""Writing where there is nothing yet, on a store that knows no conditional writes.

A writer puts a claim beside the object, lists the claims, and writes only if it sees none but its own; else it takes
its claim back and tries again after a random time. Of two writers at once, the one that lists later sees the other's
claim, on any store whose lists show what was written before (S3, GCS and all tested servers do); so at most one writes.

The claim of a writer that died counts no more after a time. A writer that is suspended for longer than that between its
last look and its write could still overwrite; a store without conditions allows no better.
"""

from __future__ import annotations

import hashlib
import random
import time
import uuid
from datetime import timedelta

from robust.errors import StorageError

CLAIMS = ".claims"
"""Folder below the root; what is in it is no object of a user."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 5.0


def write_claimed(store, key: str, data: bytes, *, budget_s: float) -> bool:
    """Whether this call wrote the object; False: there is one already.

    Args:
        store: has exists, write, delete, and list_times (key -> when written, by the store's own clock).
        budget_s: the most seconds that one write may take; a claim of three times that age is dead.
    Raises: StorageError: others hold claims for longer than that without writing.
    """
    folder = claims_of(key)
    lifetime_s = 3 * budget_s + 60
    began, wait_s = time.monotonic(), FIRST_WAIT_S
    while not store.exists(key):
        claim, claimed = f"{folder}/{uuid.uuid4().hex}", time.monotonic()
        store.write(claim, b"", False)
        try:
            alone = _is_alone(store, folder, claim, lifetime_s)
            if alone and store.exists(key):
                return False
            if alone and time.monotonic() - claimed < lifetime_s - 2 * budget_s:
                return store.write(key, data, False)
        finally:
            store.delete([claim])
        if time.monotonic() - began > 2 * lifetime_s:
            raise StorageError(
                f"{key}: other writers claim it in {folder} and do not write; stop them, or delete that folder."
            )
        time.sleep(random.uniform(0, wait_s))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
    return False


def claims_of(key: str) -> str:
    """The folder of the claims to a key."""
    return f"{CLAIMS}/{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _is_alone(store, folder: str, claim: str, lifetime_s: float) -> bool:
    times = store.list_times(folder)
    if claim not in times:
        return False  # taken for dead by somebody, or a list that lags: try again
    dead = times[claim] - timedelta(seconds=lifetime_s)
    return all(written < dead for other, written in times.items() if other != claim)
