"""Verdicts over HTTP: `python -m jobs.serve [detect.checkpoint=FOLDER] [serve.port=8000] [section.key=value ...]`.

A page to drop a video on at /, `POST /v1/detect` for programs (docs/serving.md). A verdict is that of jobs.detect. Ctrl-C ends
it. On a cluster that Kubernetes runs, `jobs.serve:application` is the import path of a RayService.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator

from ray import serve
from ray.exceptions import RayError

from cluster import tls
from cluster.demands import endpoint_demands, without_room
from jobs.cli import run_job
from jobs.detect import checkpoint_facts, find_checkpoint
from jobs.room import Nodes, bundles, grown, living_nodes, waits_s
from jobs.serve_deployments import Plan, bind
from robust.config import Config
from robust.config_file import default_config, load_config
from robust.config_identity import science
from robust.config_overrides import as_overrides
from robust.detection import crop_differences, thresholds_of
from robust.errors import ConfigError, UserError
from robust.models.checkpoint import CARD
from robust.serve_config import http_options
from robust.serving.access import Access
from robust.storage import MissingObject, Storage

NAME = "detection"
LOOK_EVERY_S = 5


def main(config: Config, storage: Storage) -> dict:
    with served(config, storage) as address:
        print(f"{address}  the page; POST {address}/v1/detect; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(LOOK_EVERY_S)
                require_running()
    return {"summary": "stopped"}


def application(args: dict) -> serve.Application:
    """For serveConfigV2 and `serve run jobs.serve:application section.key=value`.

    Args:
        args: settings as on a command line, {"section.key": value}, and "profile". Who reaches the endpoint is up to the cluster,
            so the token's environment variable must be set.
    """
    overrides = dict(args)
    profile = overrides.pop("profile", None)
    config = load_config(default_config(), as_overrides(overrides), profile=profile)
    if config.cluster.tls:
        tls.require()
    Access.from_environment(config.serve, os.environ, local=False)
    return bind(plan_of(config, Storage.from_config(config.storage), open_here=False))


def plan_of(config: Config, storage: Storage, *, open_here: bool) -> Plan:
    """Finds the checkpoint and what verdicts are given with.

    Raises:
        UserError: there is no checkpoint, or its card has no threshold and none is set.
    """
    place, key = find_checkpoint(config, storage)
    try:
        card = place.read_json(f"{key}/{CARD}")
    except MissingObject as error:
        raise UserError(f"detect.checkpoint: {error} A checkpoint is a folder with model.safetensors and {CARD}.") from None
    thresholds = thresholds_of(card, config.detect.threshold)
    about = {
        "checkpoint": {"uri": place.uri(key), **checkpoint_facts(card)},
        "thresholds": {kind: dataclasses.asdict(threshold) for kind, threshold in thresholds.items()},
        "settings": {"frames": config.detect.frames, "extract": science(config.extract)},
        "warnings": crop_differences(card, config.extract),
    }
    return Plan(config, place, key, card, thresholds, about, open_here)


@contextlib.contextmanager
def served(config: Config, storage: Storage) -> Iterator[str]:
    """The endpoint on the Ray cluster that is up; gives its address, and takes Serve down again.

    Raises:
        ConfigError: others could reach it and there is no token.
        UserError: the port is taken, Serve runs already, the cluster is too small, or it does not start.
    """
    access = Access.from_environment(config.serve, os.environ, local=config.serve.is_local)
    plan = plan_of(config, storage, open_here=access.token is None)
    for warning in plan.about["warnings"]:
        print(f"warning: {warning}", flush=True)
    require_room(config)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    there = serve.status()
    if there.proxies or there.applications:
        raise UserError("Ray Serve runs on this cluster already; deploy jobs.serve:application there (docs/serving.md)")
    if config.cluster.address == "local":
        require_free_port(config.serve.host, config.serve.port)
    try:
        try:
            serve.start(proxy_location="HeadOnly", http_options=http_options(config.serve, host=config.serve.host),
                        logging_config={"log_level": "WARNING", "enable_access_log": False})
            serve.run(bind(plan), name=NAME, route_prefix="/")
        except (RuntimeError, TimeoutError, RayError) as error:
            raise UserError(f"the endpoint does not start: {error}") from error
        host = f"[{config.serve.host}]" if ":" in config.serve.host else config.serve.host
        yield f"http://{host}:{config.serve.port}"
    finally:
        serve.shutdown()


def require_running() -> None:
    """Raises: UserError: the endpoint is no more, or Serve has given it up."""
    found = serve.status().applications.get(NAME)
    if found is None or found.status in ("DEPLOY_FAILED", "DELETING", "NOT_STARTED"):
        raise UserError(f"the endpoint is gone ({found.message if found else 'another has deleted it'}); start it again")


def require_room(config: Config) -> None:
    """Returns once the cluster has room for the least number of processes; one that grows is asked to.

    Raises:
        UserError: there is no room; Serve would wait without end.
    """
    demands = endpoint_demands(config, "least")

    def lacks(nodes: Nodes) -> str | None:
        if (demand := without_room(nodes, demands)) is None:
            return None
        there = ", ".join(f"{cpus:g} CPU and {gpus:g} GPU" for cpus, gpus in nodes)
        return f"{demand.key}: {demand} do not fit beside the rest of the endpoint on the cluster's nodes ({there})"

    nodes = living_nodes()
    if lacks(nodes) and (wait_s := waits_s(config)):
        nodes = grown(lacks, [bundle for demand in demands for bundle in bundles(demand)], wait_s)
    if (demand := without_room(nodes, demands)) is not None:
        raise UserError(f"{lacks(nodes)}; lower {demand.lower}.least, cpus or gpus, or use a larger cluster (one that grows: set "
                        "cluster.wait_for_nodes_s)")


def require_free_port(host: str, port: int) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        raise ConfigError(f"serve.host: {host!r} is no address of this machine") from None
    except OSError as error:
        raise UserError(f"serve.host, serve.port: cannot listen on {host} port {port}: {error.strerror}; set another") from None


if __name__ == "__main__":
    # By its module's name: Ray's workers cannot import from __main__.
    from jobs.serve import main as job

    sys.exit(run_job("serve", job, in_run_folder=False))
