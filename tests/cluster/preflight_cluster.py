"""Run by test_preflight.py in a process of its own: a head without CPUs and two nodes, and jobs.preflight on them, three times,
and jobs.pipeline once, which it refuses.

python preflight_cluster.py FOLDER section.key=value ...
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path


def main(folder: Path, overrides: list[str]) -> None:
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    os.environ.update(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_USAGE_STATS_ENABLED="0", RAY_TMPDIR=str(folder)
    )
    from ray.cluster_utils import Cluster

    from cluster.local import LocalCluster
    from cluster.preflight import as_json
    from jobs.pipeline import main as pipeline
    from jobs.preflight import main as preflight
    from jobs.preflight import quick, session_folder
    from robust.config_file import load_config
    from robust.storage import Storage

    small = dict(object_store_memory=100 * 2**20)
    cluster = patiently(
        lambda: Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False, **small))
    )
    try:
        for _ in range(2):
            patiently(lambda: cluster.add_node(num_cpus=1, **small))
        (folder / "config.yaml").write_text("{}")
        common = ["--json", "--config", str(folder / "config.yaml"), f"cluster.address={cluster.address}", *overrides]
        told = []
        for more in ([], ["train.workers=3", "train.batch_size=9"], ["storage.uri=s3://no-such-bucket/x"]):
            with contextlib.redirect_stdout(io.StringIO()) as output:
                code = preflight([*common, *more])
            told.append({"code": code, **json.loads(output.getvalue())})
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            code = pipeline([*common[1:], "train.workers=3", "train.batch_size=9", "run.name=refused"])
        told.append({"code": code, "error": errors.getvalue()})
        config = load_config(folder / "config.yaml", common[3:])
        with LocalCluster(config):
            findings = as_json(quick(config, Storage.from_config(config.storage), ["train"]))
            told.append({**findings, "session": str(Path(session_folder()).resolve())})
        (folder / "told.json").write_text(json.dumps(told))
    finally:
        cluster.shutdown()


def patiently(start):
    """Ray gives each of its processes a fixed 30 s, which a busy machine can exceed."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            last = error
    raise last


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
