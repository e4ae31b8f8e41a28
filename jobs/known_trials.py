"""What the newest state of a Ray Tune search says about its trials."""
from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

STATE = "experiment_state-*.json"
SEARCHERS = (("basic-variant-state-*.json",), ("search_gen_state-*.json", "searcher-state-*.pkl"))
"""Files of a search that is under way: its trials, and its searcher's place, one of these sets."""


@dataclass(frozen=True)
class KnownTrial:
    trial_id: str
    settings: dict
    ended: bool
    result: dict  # what it last reported


def newest_state(names: Iterable[str]) -> str | None:
    """The newest experiment_state-*.json of a search's files, None where they are not enough to go on from."""
    names = list(names)
    placed = any(all(fnmatch.filter(names, pattern) for pattern in patterns) for patterns in SEARCHERS)
    return max(fnmatch.filter(names, STATE), default=None) if placed else None


def known_trials(folder: str | Path) -> list[KnownTrial]:
    """Trials of the newest experiment_state-*.json of a folder."""
    newest = max(Path(folder).glob(STATE), key=lambda path: path.name)
    return trials_of(newest.read_bytes())


def trials_of(state: bytes) -> list[KnownTrial]:
    """Trials of such a file. Ray keeps each as two JSON texts: what it is, and how far it is."""
    trials = []
    for what, how_far in json.loads(state)["trial_data"]:
        what, how_far = json.loads(what), json.loads(how_far)
        ended = what["status"] in ("TERMINATED", "ERROR")
        trials.append(KnownTrial(what["trial_id"], what["config"], ended, how_far.get("last_result") or {}))
    return trials
