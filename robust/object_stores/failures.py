"""Requests to the bucket that failed for a while (an outage, throttling), told to whoever listens in this process.

The client tries them again, so without this an outage would show as nothing but slowness. Requests of pyarrow (Ray
Train's checkpoints, single Parquet columns) have no such hook.
"""

from __future__ import annotations

from collections.abc import Callable

listener: Callable[[str], None] | None = None
"""Called with a reason of few values: an HTTP status ("503") or a network error's class. One a process, with its one run."""


def tell(response=None, caught_exception: Exception | None = None, **_) -> None:
    """botocore's event `needs-retry`, which follows each request; only outages and throttling count."""
    if listener is None:
        return
    if caught_exception is not None:
        listener(type(caught_exception).__name__)
    elif response is not None and (response[0].status_code >= 500 or response[0].status_code == 429):
        listener(str(response[0].status_code))
