"""Who is linked to whom by a video: a fake carries two people, the target and the source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def connected_components(groups: Sequence[Sequence[str]]) -> np.ndarray:
    """(V,) numbers 0, 1, ...: groups that share a member, directly or through others, get the same one."""
    parent: dict[str, str] = {}

    def root(member: str) -> str:
        while parent.setdefault(member, member) != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for group in groups:
        for member in group[1:]:
            parent[root(member)] = root(group[0])
    _, numbers = np.unique([root(group[0]) for group in groups], return_inverse=True)
    return numbers
