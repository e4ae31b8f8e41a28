"""Every port on which a Ray started here listens, asked without a token and with a wrong one."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

import grpc
import pytest
from processes import listening

from cluster.guardian import session_processes
from cluster.local import SESSION_MARK, LocalCluster
from robust.config_file import parse

METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ObjectManagerService/FreeObjects",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.autoscaler.AutoscalerStateService/GetClusterStatus",
)
"""Calls that a port of Ray answers: of the GCS, the raylet, the workers, the object manager and the agents."""
PATHS = ("/", "/metrics", "/api/jobs/", "/api/v0/actors", "/nodes?view=summary", "/api/job_agent/jobs/")
SERVED_TO_ALL = ("/", "/metrics")
"""Without a token, as docs/threat-model.md says: the empty page and the metrics."""

WRONG = (None, "0" * 64)
"""No token, and another one."""


def of_the_session() -> dict[int, str]:
    """{pid: name} of Ray's processes."""
    import ray  # noqa: F401  makes psutil importable

    # isort: split
    import psutil

    return {one.pid: one.name() for one in session_processes(psutil, SESSION_MARK, os.environ[SESSION_MARK])}


def call(address: str, method: str, token: str | None) -> str:
    """The status of a gRPC call with an empty request."""
    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=2, metadata=metadata)
            return "OK"
        except grpc.RpcError as error:
            return error.code().name


def get(address: str, path: str, token: str | None) -> int | str | None:
    """The HTTP status, or "metrics": a Prometheus exporter gives these on any path; None: the port speaks something else."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(
        f"http://{address}{path}", headers={"Authorization": f"Bearer {token}"} if token else {}
    )
    try:
        with opener.open(request, timeout=2) as answer:
            return "metrics" if answer.read(6) == b"# HELP" else answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None
    except Exception:  # http.client has many for what is no HTTP
        return None


@pytest.mark.cluster
def test_no_port_of_the_embedded_cluster_serves_without_the_token(tmp_path):
    config = parse(
        {
            "cluster": {
                "address": "local",
                "num_cpus": 1,
                "object_store_memory_mb": 100,
                "dashboard": True,
                "dashboard_port": 28799,
                "outputs": str(tmp_path),
            }
        }
    )
    with LocalCluster(config):
        token = (tmp_path / "ray" / "auth_token").read_text()
        processes = of_the_session()
        ports, served = listening(processes), {}
        owners = {name for pid, name in processes.items() if listening([pid])}
        for ip, port in sorted(ports, key=lambda address: address[1]):
            address = f"{host_of(ip)}:{port}"
            speaks_http = get(address, "/", None) is not None
            asked = [(path, other) for path in PATHS for other in WRONG] if speaks_http else []
            statuses = {(path, other): get(address, path, other) for path, other in asked}
            calls = [] if speaks_http else [(method, other) for method in METHODS for other in WRONG]
            open_pages = [path for (path, _), status in statuses.items() if status == 200 and path not in SERVED_TO_ALL]
            served[ip, port] = open_pages + [method for method, other in calls if call(address, method, other) == "OK"]
            told = {path: status for (path, other), status in statuses.items() if other is None and status}
            print(f"{ip}:{port}: {told or 'gRPC or another protocol'}")
        with_token = [call(f"{host_of(ip)}:{port}", METHODS[0], token) for ip, port in ports]
    assert owners >= {"gcs_server", "raylet"}, ports
    assert "OK" in with_token  # the same question, so it was the token
    assert not any(served.values()), served


def host_of(ip: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(ip, f"[{ip}]" if ":" in ip else ip)
