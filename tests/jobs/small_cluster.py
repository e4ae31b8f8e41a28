"""A local Ray of the project's own kind for tests, whose workers find the code."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.local import LocalCluster

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def small_cluster(config):
    """Ray as config.cluster says, one computing thread a worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        patch.setenv("OMP_NUM_THREADS", "1")
        with LocalCluster(config) as cluster:
            yield cluster
