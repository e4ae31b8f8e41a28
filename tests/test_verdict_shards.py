"""robust/verdict_shards.py, robust/detection_summary.py: what counts, beside the same in plain Python; what is told."""

import random

import pyarrow as pa
import pytest

from robust.data.video_listing import VIDEO_SCHEMA
from robust.detection_summary import MOST_REASONS, counts_of, most_suspicious
from robust.verdict_shards import FACTS, VERDICT_SCHEMA, compare, plan_key

FACTS_SCHEMA = pa.schema([VERDICT_SCHEMA.field(name) for name in FACTS])


def made_up(rng: random.Random) -> tuple[list[dict], list[dict]]:
    """A listing, and rows of files as they are, as they were, gone ones, and some twice."""
    paths = [f"p{number:02d}" for number in range(20)]
    listed = [{"path": path, "size": rng.randint(1, 2), "version": rng.choice(["", "a", "b"])}
              for path in paths if rng.random() < 0.8]
    rows = []
    for path in paths:
        for shard in rng.sample("stuv", rng.choice([0, 0, 1, 1, 2])):
            now = next((one for one in listed if one["path"] == path), None)
            other = {"size": 3, "version": "a"}
            like = rng.choice([now or other, other, {"size": None, "version": None}])
            rows.append({**like, "path": path, "shard": shard, "status": "ok"})
    rng.shuffle(rows)
    return listed, rows


@pytest.mark.parametrize("with_vanished", [False, True])
def test_what_counts_is_what_plain_python_says(with_vanished):
    rng = random.Random(0)
    for _ in range(50):
        listed, rows = made_up(rng)
        now = {one["path"]: (one["size"], one["version"]) for one in listed}
        expected: dict[str, tuple] = {}
        for row in rows:
            same = (row["size"], row["version"]) == now.get(row["path"], 0)
            gone = with_vanished and row["size"] is None and row["path"] in now
            if same or gone:
                rank = (gone, row["shard"])
                expected[row["path"]] = min(rank, expected.get(row["path"], rank))
        found = compare(pa.Table.from_pylist(listed, VIDEO_SCHEMA), pa.Table.from_pylist(rows, FACTS_SCHEMA),
                        with_vanished=with_vanished)
        current = [(row["path"], row["shard"]) for row in found.current.to_pylist()]
        assert current == sorted((path, shard) for path, (_, shard) in expected.items())
        assert found.missing.to_pylist() == [one for one in listed if one["path"] not in expected]
        stale = {(row["path"], row["shard"]): row["reason"] for row in found.stale.to_pylist()}
        assert set(stale) == {(row["path"], row["shard"]) for row in rows} - set(current)
        assert len(stale) == len(found.stale)
        for (path, _), reason in stale.items():
            assert (reason == "no longer in the input") == (path not in now)


def test_a_plan_has_the_name_of_its_files_and_settings_and_takes_no_name_that_is_there():
    files = [{"path": "a", "size": 1, "version": "v"}, {"path": "b", "size": 2, "version": ""}]

    def name(files, settings="s", taken=()):
        return plan_key(pa.Table.from_pylist(files, VIDEO_SCHEMA), settings, taken)

    first = name(files)
    changed = [[{**files[0], key: value}, files[1]] for key, value in (("path", "c"), ("size", 2), ("version", "w"))]
    names = {first, name(files[:1]), name(files, "t"), name(files, taken={first}), *map(name, changed)}
    assert len(names) == 7 and name(files) == first and all(one.startswith("verdicts/") for one in names)


def test_reasons_that_differ_in_numbers_are_one_and_the_rare_ones_are_counted_together():
    rows = [("partial", f"damaged: {n} of {n + 0.5} frames", "fake", float(n % 7)) for n in range(30)]
    rows += [("unreadable", f"odd {chr(97 + n)}", "undecided", None) for n in range(MOST_REASONS + 3)]
    rows += [("ok", "", "real", -1.0)]
    columns = [list(column) for column in zip(*rows)]
    table = pa.table({"path": [f"{n:02d}" for n in range(len(rows))], "status": columns[0], "reason": columns[1],
                      "verdict": columns[2], "score": columns[3]})
    counts = counts_of(table)
    assert counts["counts"] == {"fake": 30, "real": 1, "undecided": MOST_REASONS + 3}
    assert counts["by_status"] == {"ok": 1, "partial": 30, "no_face": 0, "unreadable": MOST_REASONS + 3}
    assert counts["reasons"][0] == {"status": "partial", "reason": "damaged: N of N frames", "videos": 30}
    assert len(counts["reasons"]) == MOST_REASONS + 1
    assert counts["reasons"][-1] == {"status": "any", "reason": "4 other reasons", "videos": 4}
    assert [(one["path"], one["score"]) for one in most_suspicious(table, 6)] == [
        ("06", 6.0), ("13", 6.0), ("20", 6.0), ("27", 6.0), ("05", 5.0), ("12", 5.0)]
    nothing = table.slice(0, 0)
    assert most_suspicious(nothing) == [] and counts_of(nothing)["reasons"] == []
