"""Environment variables for a while: what a server here needs its clients to see, in this process and those it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


@contextmanager
def environment(values: Mapping[str, str], *, without: Sequence[str] = ()) -> Iterator[None]:
    """Sets variables and takes some away; on leaving, puts back what was there under these names."""
    before = {name: os.environ.get(name) for name in (*values, *without)}
    for name in without:
        os.environ.pop(name, None)
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
