"""What jobs.extract and jobs.detect_many share of Ray Data: how many actors fit, and the settings of a pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence

import ray.data

from cluster.demands import WRITE_CPUS, Demand, room
from robust.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pool:
    """Actors of one kind, as the configuration asks for them.

    Args:
        key: the setting of their number, for messages; lower: the others that could be lowered instead.
        actors: how many; None: as many as there is room for.
        cpus, gpus: of one actor.
        decode_cpus: of a decoding task, which feeds actors on GPUs; those on CPUs decode for themselves.
    """

    key: str
    lower: str
    actors: int | None
    cpus: float
    gpus: float
    decode_cpus: float

    def size(self, what: str, nodes: Sequence[tuple[float, float]]) -> int:
        """How many actors a cluster gets.

        Args:
            what: needs them, for the message.
            nodes: (CPUs, GPUs) of each.
        Raises:
            UserError: they do not fit: Ray would wait for room without end.
        """
        beside = (self.decode_cpus, WRITE_CPUS) if self.gpus else ()  # on CPUs the actors themselves leave room for writing
        demand = Demand(self.key, what, self.actors or 1, self.cpus, self.gpus, beside)
        fit = room(nodes, demand)
        if fit < demand.workers:
            there = ", ".join(f"{cpus:g} CPU and {gpus:g} GPU" for cpus, gpus in nodes)
            raise UserError(
                f"{what} with {self.key}={demand.workers} needs {demand}, of which the cluster's nodes ({there}) take {fit}; "
                f"lower {self.key}, {self.lower}, or join a larger cluster")
        return self.actors or fit

    @property
    def threads(self) -> int:
        """Computing threads of one actor."""
        return max(1, int(self.cpus))

    def work(self, videos: ray.data.Dataset, actors: int, *, whole: tuple[type, tuple], decode: Callable,
             rest: tuple[type, tuple]) -> ray.data.Dataset:
        """Streams videos through so many actors. On CPUs each does the whole; on GPUs tasks decode, and actors do the rest.

        Args:
            whole, rest: class of the actors and what it is made with.
            decode: a function of one batch.
        """
        arrow = dict(batch_size=None, batch_format="pyarrow", zero_copy_batch=True)
        kind, arguments = rest if self.gpus else whole
        share = dict(num_cpus=self.cpus, num_gpus=self.gpus) if self.gpus else dict(num_cpus=self.cpus * (1 - WRITE_CPUS))
        if self.gpus:
            videos = videos.map_batches(decode, num_cpus=self.decode_cpus, **arrow)
        return videos.map_batches(kind, fn_constructor_args=arguments, **share, **arrow,
                                  compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2))


def living_nodes() -> list[tuple[float, float]]:
    """(CPUs, GPUs) of each node of the cluster."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(one.get("CPU", 0), one.get("GPU", 0)) for one in resources]


@contextlib.contextmanager
def data_context() -> Iterator[None]:
    """Settings of Ray Data for one pipeline alone: quiet, in order, and a lost block is an error."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    bars, errors, level = context.enable_progress_bars, context.max_errored_blocks, logger.level
    order = context.execution_options.preserve_order
    context.enable_progress_bars, context.max_errored_blocks = False, 0
    context.execution_options.preserve_order = True
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.max_errored_blocks = bars, errors
        context.execution_options.preserve_order = order
        logger.setLevel(level)
