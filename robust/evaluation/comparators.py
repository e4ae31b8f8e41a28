"""What benchmarks measured on the very models of a report: a Deep Image Prior's row, the reference's protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scipy.stats import binomtest

from robust.evaluation.bootstrap import LEVEL
from robust.evaluation.protocol import missing

FOLDER = "benchmarks"
"""Below the run's folder; `python -m benchmarks.deep_image_prior` and `benchmarks.reference_protocol` write there."""


def read_comparators(storage, run: str, models: Mapping[str, str]) -> dict | None:
    """What summary.json says of the benchmarks that were run on these models, None if there are none.

    Args:
        storage: where the run is.
        models: SHA-256 of the weights of each model of the report, by its name.
    Returns:
        each of READERS by its name, None if it is not there, and `left_out`: {"name", "reason"} of files not shown.
    """
    found: dict = dict.fromkeys(READERS)
    left_out = []
    for name, read in READERS.items():
        key = f"{run}/{FOLDER}/{name}.json"
        if not storage.exists(key):
            continue
        try:
            document = storage.read_json(key)
            other = [model for model, sha256 in document["models"].items() if models.get(model) != sha256]
            if other:
                left_out.append({"name": name, "reason": f"it was measured on other weights of {', '.join(other)}"})
            else:
                found[name] = read(document)
        except (KeyError, TypeError, ValueError, AttributeError):
            left_out.append({"name": name, "reason": "it does not say on which weights it was measured, or is damaged"})
    return {**found, "left_out": left_out} if left_out or any(found.values()) else None


def rate(counts: list[int] | None) -> dict:
    """A figure from (hits, among), with the exact binomial interval (Clopper and Pearson 1934)."""
    if counts is None or counts[1] == 0:
        return missing("no crop is counted in it" if counts else "this protocol counts none")
    hits, among = map(int, counts)
    interval = binomtest(hits, among).proportion_ci(LEVEL, method="exact")
    low, high = float(interval.low), float(interval.high)
    return {"value": hits / among, "low": low, "high": high, "hits": hits, "among": among}


def _prior(document: Mapping) -> dict:
    rows = [{"detector": str(row["detector"]), "attacker": str(row["attacker"]), "seconds": float(row["seconds"]),
             **{name: rate(row[name]) for name in ("accuracy", "success", "robust")}} for row in document["rows"]]
    numbers = {name: float(document[name]) for name in ("epsilon", "threshold", "published_seconds")}
    prior = {name: int(document["prior"][name]) for name in ("iterations", "size")}
    return {**numbers, "stop": int(document["stop"]), "prior": prior, "rows": rows}


def _protocol(document: Mapping) -> dict:
    rows = [{**{name: str(row[name]) for name in ("model", "group", "protocol")}, "epsilon": float(row["epsilon"]),
             "change": float(row["change"]), **{name: rate(row[name]) for name in ("success", "accuracy")}}
            for row in document["rows"]]
    return {"rows": rows}


READERS: Mapping[str, Callable[[Mapping], dict]] = {"deep_image_prior": _prior, "reference_protocol": _protocol}
