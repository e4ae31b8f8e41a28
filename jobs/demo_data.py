"""The demo data set of a configuration: made by jobs.extract or jobs.pipeline where `data.demo.enabled` asks for it."""
from __future__ import annotations

from pathlib import Path

from robust.config import Config
from robust.data.demo import DemoSummary, make_demo


def make_demo_data(config: Config) -> DemoSummary:
    """Makes it at `data.datasets[0].uri`; does nothing if it is there.

    Raises:
        UserError: packages can not be fetched, or the folder holds something else.
    """
    settings = config.data.demo
    return make_demo(
        Path(config.data.datasets[0].uri), seed=config.run.seed, identities=settings.identities, fakes_per_kind=settings.fakes_per_kind,
        takes=settings.takes, frames=settings.frames, size=settings.size, fps=settings.fps, workers=config.cluster.num_cpus or 2,
        photographs=settings.photographs,
    )
