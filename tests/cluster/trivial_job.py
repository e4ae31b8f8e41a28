"""A job for the tests of this folder: a Ray task writes to storage, then the driver waits to be stopped."""

import os
import sys
import time

import ray

from cluster.local import KEEP_MEMORY
from jobs.cli import run_job


@ray.remote
def write_from_a_task(storage) -> dict:
    storage.write_bytes("from/task", b"hello")
    return {"auth_mode": os.environ["RAY_AUTH_MODE"], "kept_memory": [os.environ.get(name) for name in KEEP_MEMORY], "home_token": os.path.exists(os.path.expanduser("~/.ray"))}


def main(config, storage) -> dict:
    seen = ray.get(write_from_a_task.remote(storage))
    print("ready", seen, flush=True)
    while config.run.name == "wait":
        time.sleep(0.1)
    return {"summary": storage.read_bytes("from/task").decode()}


if __name__ == "__main__":
    sys.exit(run_job("evaluate", main))
