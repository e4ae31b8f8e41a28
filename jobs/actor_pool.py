"""What jobs.extract and jobs.detect_many share of Ray Data: how many actors fit, and the settings of a pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator

import ray.data

from cluster.demands import WRITE_CPUS, Demand, room
from jobs.room import Nodes


@dataclasses.dataclass(frozen=True)
class Pool:
    """Actors of one kind, as the configuration asks for them.

    Args:
        actors: how many; None: as many as there is room for.
        decode_cpus: of a decoding task, which feeds actors on GPUs; those on CPUs decode for themselves.
    """

    demand: Demand
    actors: int | None
    decode_cpus: float

    def size(self, nodes: Nodes) -> int:
        """How many actors these nodes get."""
        return self.actors or room(nodes, self.demand)

    @property
    def threads(self) -> int:
        """Computing threads of one actor."""
        return max(1, int(self.demand.cpus))

    def work(self, videos: ray.data.Dataset, actors: int, *, whole: tuple[type, tuple], decode: Callable,
             rest: tuple[type, tuple]) -> ray.data.Dataset:
        """Streams videos through so many actors. On CPUs each does the whole; on GPUs tasks decode, and actors do the rest.

        Args:
            whole, rest: class of the actors and what it is made with.
            decode: a function of one batch.
        """
        arrow = dict(batch_size=None, batch_format="pyarrow", zero_copy_batch=True)
        cpus, gpus = self.demand.cpus, self.demand.gpus
        kind, arguments = rest if gpus else whole
        share = dict(num_cpus=cpus, num_gpus=gpus) if gpus else dict(num_cpus=cpus * (1 - WRITE_CPUS))
        if gpus:
            videos = videos.map_batches(decode, num_cpus=self.decode_cpus, **arrow)
        return videos.map_batches(kind, fn_constructor_args=arguments, **share, **arrow,
                                  compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2))


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
