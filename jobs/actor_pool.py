"""What jobs.extract and jobs.detect_many share of Ray Data: how many actors fit, and the settings of a pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator

import ray.data

from cluster.demands import WRITE_CPUS
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

    def size(self, what: str, *, cpus: float, gpus: float) -> int:
        """Actors in a cluster of so many CPUs and GPUs. Args: what: needs them, for the message.

        Raises:
            UserError: the cluster has less than they need: Ray would wait for it without end.
        """
        on_gpu = self.gpus > 0
        room = int(gpus // self.gpus) if on_gpu else int(cpus // self.cpus)
        actors = self.actors or max(room, 1)
        needed_cpus = actors * self.cpus + (self.decode_cpus + WRITE_CPUS if on_gpu else 0)
        needed_gpus = actors * self.gpus
        if needed_cpus > cpus or needed_gpus > gpus:
            raise UserError(
                f"{what} with {self.key}={actors} needs {needed_cpus:g} CPUs and {needed_gpus:g} GPUs, the cluster has "
                f"{cpus:g} and {gpus:g}; lower {self.key}, {self.lower}, or join a larger cluster")
        return actors


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
        room = dict(num_cpus=self.cpus, num_gpus=self.gpus) if self.gpus else dict(num_cpus=self.cpus * (1 - WRITE_CPUS))
        if self.gpus:
            videos = videos.map_batches(decode, num_cpus=self.decode_cpus, **arrow)
        return videos.map_batches(kind, fn_constructor_args=arguments, **room, **arrow,
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
