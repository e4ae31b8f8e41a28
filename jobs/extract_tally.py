"""How far an extraction is, as its stages tell on the way: for people alone, nothing that is kept depends on it.

A video counts here when its crops are made. It is in storage only with its whole shard, which of a small set is the last
moment of the job.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs import telemetry
from robust.data.shards import NUMBER

DECODE, DETECT, WRITE = STAGES = ("decode", "detect", "write")
"""`detect` is all between frames and encoded crops."""
TELL_EVERY_S = 1.0
ANSWER_WITHIN_S = 5.0
MOST_REASONS = 3


@dataclasses.dataclass
class Tally:
    """An actor's state, and what it answers with.

    Attributes:
        videos: ids of those that passed detection: one that is done again after a lost worker counts once.
        faces: frames with the subject's face.
        not_ok: videos by reason, numbers in it replaced by N.
        seconds: of work by stage, over all processes.
    """

    videos: set[str] = dataclasses.field(default_factory=set)
    faces: int = 0
    not_ok: Counter[str] = dataclasses.field(default_factory=Counter)
    seconds: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, statuses: Sequence[tuple[str, str, str, int]], seconds: Mapping[str, float]) -> None:
        """Args: statuses: (video_id, status, reason, frames_found) of each video."""
        for video_id, status, reason, faces in statuses:
            if video_id in self.videos:
                continue
            self.videos.add(video_id)
            self.faces += faces
            if status != "ok":
                self.not_ok[re.sub(NUMBER, "N", reason)] += 1
        self.seconds.update(seconds)

    def told(self) -> Told:
        return Told(len(self.videos), self.faces, dict(self.not_ok), dict(self.seconds))


@dataclasses.dataclass(frozen=True)
class Told:
    """A Tally as the progress line needs it."""

    videos: int = 0
    faces: int = 0
    not_ok: Mapping[str, int] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def note(self, elapsed_s: float, cpus: float) -> str:
        """Rates, how many processes work in each stage on average, and what is wrong with videos that are not ok."""
        elapsed_s = max(elapsed_s, 1e-9)
        work = " + ".join(f"{stage} {self.seconds.get(stage, 0) / elapsed_s:.1f}" for stage in STAGES)
        parts = [f"{self.videos / elapsed_s:.3g} videos/s", f"{self.faces} faces, {self.faces / elapsed_s:.3g}/s",
                 f"at work: {work} of {cpus:g} CPUs"]
        if self.not_ok:
            reasons = sorted(self.not_ok.items(), key=lambda one: (-one[1], one[0]))
            more = [f"{len(reasons) - MOST_REASONS} other reasons"] if len(reasons) > MOST_REASONS else []
            shown = [f"{count} {reason}" for reason, count in reasons[:MOST_REASONS]]
            parts.append(f"{sum(self.not_ok.values())} not ok: {'; '.join([*shown, *more])}")
        return ", ".join(parts)


class Teller:
    """What a stage has done, passed on to a Tally's actor at most once in TELL_EVERY_S, and when a task ends."""

    def __init__(self, tally=None, run: str = ""):
        """Args: tally: the actor; None: nobody listens. run: for the metrics."""
        self.tally, self.run = tally, run
        self.statuses, self.seconds, self.last = [], Counter(), 0.0

    @contextlib.contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Around work of a stage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - began

    def video(self, status: Mapping) -> None:
        """A row of STATUS_SCHEMA."""
        self.statuses.append(tuple(status[name] for name in ("video_id", "status", "reason", "frames_found")))
        if time.monotonic() - self.last >= TELL_EVERY_S:
            self.tell()

    def tell(self) -> None:
        telemetry.stages_worked(self.run, self.seconds)
        if self.tally is not None:
            self.tally.add.remote(self.statuses, dict(self.seconds))
        self.statuses, self.seconds, self.last = [], Counter(), time.monotonic()


class Watch:
    """The driver's side: starts the actor on its own node, and gives a Progress its figures (`poll`).

    Attributes:
        teller: for the stages.
        written: videos whose shards are in storage, counted by the driver: no less is done, should the actor be lost.
    """

    def __init__(self, run: str, cpus: float, clock: Callable[[], float] = time.monotonic):
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self.actor = ray.remote(Tally).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
        self.teller, self.cpus, self.clock, self.began = Teller(self.actor, run), cpus, clock, clock()
        self.written, self.last = 0, Told()

    def poll(self) -> tuple[int, str]:
        """(videos done, note). An actor that does not answer harms nothing: what it said last is told again."""
        with contextlib.suppress(ray.exceptions.RayError):  # its time is up, it is lost, or all of Ray is
            self.last = ray.get(self.actor.told.remote(), timeout=ANSWER_WITHIN_S)
        return max(self.written, self.last.videos), self.last.note(self.clock() - self.began, self.cpus)
