"""Settings that name a checkpoint: jobs/detect.py and jobs/candidates.py refuse what is no folder, before anything is read."""

import pytest

from jobs.candidates import find_candidates
from jobs.detect import find_checkpoint
from robust.config_file import parse
from robust.errors import ConfigError


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "gs://bucket", "/"])
def test_a_bucket_or_the_root_is_no_checkpoint(local_storage, uri):
    config = parse({"run": {"name": "r"}, "evaluate": {"checkpoints": {"m": uri}}, "detect": {"checkpoint": uri}})
    with pytest.raises(ConfigError, match=f"detect.checkpoint: '{uri}' names no folder"):
        find_checkpoint(config, local_storage)
    with pytest.raises(ConfigError, match=f"evaluate.checkpoints.m: '{uri}' names no folder"):
        find_candidates(config, local_storage)
