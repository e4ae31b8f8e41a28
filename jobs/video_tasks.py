"""Videos as the input of a Ray Data pipeline: parts of a plan, each a task."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

TASKS_OF_A_CPU = 8
"""At least so many, where there are enough videos: then no CPU waits long for the last ones."""


def videos_of_a_task(total: int, cpus: float, *, limit: int) -> int:
    """At most `limit`, that a lost task costs little; fewer in small sets, so that every CPU has TASKS_OF_A_CPU."""
    return min(limit, int(total / (TASKS_OF_A_CPU * cpus)))


def tasks_of(table: pa.Table, *, videos_per_shard: int, most: int) -> list[dict]:
    """Equal parts of the plan, {"plan": compressed Arrow stream}: at most `most` videos, and a whole number of parts is a shard.

    So cutting the stream of results into batches of videos_per_shard gives the shards again. The parts travel as bytes:
    nothing has to guess the types of columns that are empty in some part.
    """
    size = max(divisor for divisor in range(1, max(1, most) + 1) if videos_per_shard % divisor == 0)
    return [{"plan": _to_bytes(table.slice(start, size))} for start in range(0, len(table), size)]


def rows_of(tasks: pa.Table) -> Iterator[pa.Table]:
    """One row of the plan at a time."""
    for data in tasks.column("plan"):
        table = pa.ipc.open_stream(data.as_buffer()).read_all()
        yield from (table.slice(number, 1) for number in range(len(table)))


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
