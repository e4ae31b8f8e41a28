"""What `cluster.tls` costs between two nodes: small tasks and a large object, with and without, in one run.

    python -m benchmarks.tls [--tasks 1000] [--megabytes 100] [--repeats 5] [--json FILE]

Both nodes are Ray's own processes on 127.0.0.1, so no network hides the cost, and both share this machine's cores. Four
clusters one after another: without, with, with, without. The ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.local import SESSION_MARK, LocalCluster
from robust.config_file import parse

SECOND = "second"
"""Ray's name of what only the second node has: a task that asks for it runs there."""
ATTEMPTS = 3
"""Ray gives each of its processes a fixed 30 s to start, which a busy machine can exceed."""
JOIN_S = 120.0
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What every client of HTTP/2, and so of gRPC, begins with: its server answers with settings of its own."""


@contextmanager
def two_nodes(outputs: Path, *, tls: bool, dashboard_port: int | None = None) -> Iterator[LocalCluster]:
    """The embedded cluster of one CPU, and a second node of one CPU beside it with SECOND."""
    settings = {"address": "local", "num_cpus": 1, "object_store_memory_mb": 300, "outputs": str(outputs), "tls": tls}
    dashboard = {"dashboard": True, "dashboard_port": dashboard_port} if dashboard_port else {}
    with LocalCluster(parse({"cluster": settings | dashboard})) as cluster:
        import ray
        from ray.cluster_utils import Cluster

        nodes = Cluster(shutdown_at_exit=False)
        nodes.head_node = ray._private.worker._global_node
        second = _added(nodes)
        try:
            _wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
            yield cluster
        finally:
            nodes.remove_node(second)


def tls_answer(address: str, environment: dict[str, str] | None = None) -> str | None:
    """The TLS version in which a gRPC server at host:port takes a client with these certificates; None: it does not.

    Args:
        environment: Ray's variables, of which the server's authority is trusted, too; None: those of this process.
    """
    files = os.environ if environment is None else environment
    context = ssl.create_default_context(cafile=files["RAY_TLS_CA_CERT"])
    context.set_alpn_protocols(["h2"])
    if "RAY_TLS_SERVER_CERT" in files:
        context.load_cert_chain(files["RAY_TLS_SERVER_CERT"], files["RAY_TLS_SERVER_KEY"])
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=30) as plain:
            with context.wrap_socket(plain, server_hostname=host) as secured:
                secured.sendall(GREETING)
                return (
                    secured.version() if secured.recv(1) else None
                )  # in TLS 1.3 a client is refused after its handshake
    except (ssl.SSLError, ConnectionError):
        return None


def _added(nodes):
    for attempt in range(ATTEMPTS):
        try:
            return nodes.add_node(
                wait=False,
                num_cpus=1,
                resources={SECOND: 1},
                object_store_memory=300 * 2**20,
                temp_dir=os.environ[SESSION_MARK],
            )
        except Exception:  # Ray raises a bare one
            if attempt == ATTEMPTS - 1:
                raise


def _wait_until(there) -> None:
    deadline = time.monotonic() + JOIN_S
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the second node did not join within {JOIN_S:.0f} s")
        time.sleep(0.2)


def measured(tasks: int, megabytes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each repeat: all small tasks at once, and one object from the second node's store to the first's."""
    import numpy as np
    import ray

    @ray.remote(resources={SECOND: 0.001}, num_cpus=1)
    def nothing() -> None:
        pass

    @ray.remote(resources={SECOND: 0.001}, num_cpus=1)
    def noise(seed: int):
        return np.random.default_rng(seed).integers(0, 256, megabytes * 10**6, dtype=np.uint8)

    ray.get([nothing.remote() for _ in range(tasks)])  # the worker is up, connections are made
    seconds: dict[str, list[float]] = {"tasks": [], "object": []}
    for seed in range(repeats):
        began = time.perf_counter()
        ray.get([nothing.remote() for _ in range(tasks)])
        seconds["tasks"].append(time.perf_counter() - began)
        made = noise.remote(seed)
        ray.wait([made], fetch_local=False)
        began = time.perf_counter()
        found = ray.get(made)
        seconds["object"].append(time.perf_counter() - began)
        assert found.nbytes == megabytes * 10**6
        del made, found
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=100, help="at most 200: a store holds 300")
    parser.add_argument("--repeats", type=int, default=5, help="in each of the four clusters")
    parser.add_argument("--json", default="outputs/benchmarks/tls.json", help="where the figures go")
    arguments = parser.parse_args()
    seconds = {tls: {"tasks": [], "object": []} for tls in (False, True)}
    for tls in (False, True, True, False):
        with tempfile.TemporaryDirectory() as folder, two_nodes(Path(folder), tls=tls):
            import ray

            if tls and tls_answer(ray.get_runtime_context().gcs_address) is None:
                raise SystemExit("the cluster does not speak TLS: there is nothing to measure")
            for what, values in measured(arguments.tasks, arguments.megabytes, arguments.repeats).items():
                seconds[tls][what] += values
    sizes = {"tasks": f"{arguments.tasks} small tasks", "object": f"{arguments.megabytes} MB object"}
    result = {}
    print(f"{'':>20}  without  with TLS  ratio   (medians of {2 * arguments.repeats}, seconds)")
    for what, name in sizes.items():
        without, with_tls = (statistics.median(seconds[tls][what]) for tls in (False, True))
        result[what] = {"without": without, "with": with_tls, "ratio": with_tls / without}
        print(f"{name:>20}  {without:7.3f}  {with_tls:8.3f}  {with_tls / without:5.2f}")
    path = Path(arguments.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    every = {"without": seconds[False], "with": seconds[True]}
    path.write_text(json.dumps({"settings": vars(arguments), **result, "seconds": every}, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
