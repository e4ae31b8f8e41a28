"""cluster.tls on a real cluster of two nodes (Ray's own processes on 127.0.0.1), and its certificates."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from head import free_ports
from processes import listening
from test_ports import METHODS, call, of_the_session

from benchmarks.tls import GREETING, SECOND, tls_answer, two_nodes
from cluster import tls
from cluster.local import LocalCluster
from jobs import serve
from robust.config_file import parse
from robust.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CLIENT = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).get_all_node_info()), "nodes")
"""


def plain_answer(port: int, sent: bytes) -> bytes:
    """What a port answers to somebody who speaks no TLS; nothing where it hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            connection.sendall(sent)
            return connection.recv(9)
        except ConnectionError:
            return b""


def secure_call(address: str, token: str, files: dict[str, str], *, certificate: bool) -> str:
    """The status of a gRPC call with the token, over TLS with these files' authority, and their certificate or none."""
    read = {name: Path(files[name]).read_bytes() for name in tls.FILES}
    own = (
        {"private_key": read["RAY_TLS_SERVER_KEY"], "certificate_chain": read["RAY_TLS_SERVER_CERT"]}
        if certificate
        else {}
    )
    credentials = grpc.ssl_channel_credentials(root_certificates=read["RAY_TLS_CA_CERT"], **own)
    with grpc.secure_channel(address, credentials, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(METHODS[0])(b"", timeout=30, metadata=[("authorization", f"Bearer {token}")])
            return "OK"
        except grpc.RpcError as error:
            return error.code().name


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def cluster(outputs):
    """Two nodes with TLS, and afterwards Ray's variables as they were."""
    before = {name: os.environ.get(name) for name in tls.VARIABLES}
    with two_nodes(outputs, tls=True, dashboard_port=free_ports(1)[0]) as running:
        yield running
    assert {name: os.environ.get(name) for name in tls.VARIABLES} == before


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """The files of another cluster's authority."""
    return tls.issue(tmp_path_factory.mktemp("others") / "tls", ())


@pytest.fixture(scope="module")
def gcs(cluster):
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.mark.cluster
def test_tasks_and_objects_go_to_the_second_node_and_back(cluster):
    import numpy as np
    import ray

    @ray.remote(resources={SECOND: 0.1})
    def doubled(values):
        return ray.get_runtime_context().get_node_id(), 2 * values, os.environ["RAY_USE_TLS"]

    values = np.arange(2_000_000)  # 16 MB: through the object store of both nodes, in several pieces
    node, found, speaks = ray.get(doubled.remote(values))
    assert node != ray.get_runtime_context().get_node_id() and (found == 2 * values).all() and speaks == "1"


@pytest.mark.cluster
def test_every_port_of_grpc_wants_tls_and_a_certificate_of_this_cluster(cluster, gcs, others):
    import ray

    own = {name: os.environ[name] for name in tls.VARIABLES}
    without = {"RAY_TLS_CA_CERT": own["RAY_TLS_CA_CERT"]}
    strangers = {**others, "RAY_TLS_CA_CERT": own["RAY_TLS_CA_CERT"]}  # trusts the cluster, and is of another
    secured, plain = set(), {}
    for pid, name in of_the_session().items():
        for _, port in listening([pid]):
            address = f"127.0.0.1:{port}"
            if tls_answer(address, own):
                secured.add(port)
                assert tls_answer(address, without) is None and tls_answer(address, strangers) is None, (name, port)
                assert (
                    plain_answer(port, GREETING) == b"" == plain_answer(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                ), (name, port)
            else:
                plain[port] = name
                assert plain_answer(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1."), (name, port)
    nodes = ray.nodes()
    data = {node[what] for node in nodes for what in ("NodeManagerPort", "ObjectManagerPort")}
    assert (
        len(data) == 4 and {int(gcs.rpartition(":")[2]), *data} < secured and len(secured) >= 9
    )  # and agents' and workers'
    named = {int(cluster.dashboard_url.rpartition(":")[2]), *(node["MetricsExportPort"] for node in nodes)}
    assert named < set(plain) and not any("gcs" in name or "raylet" in name for name in plain.values()), plain


@pytest.mark.cluster
def test_the_token_alone_is_not_enough(outputs, gcs, others):
    token = (outputs / "ray" / "auth_token").read_text()
    own = {name: os.environ[name] for name in tls.VARIABLES}
    strangers = {**others, "RAY_TLS_CA_CERT": own["RAY_TLS_CA_CERT"]}
    assert secure_call(gcs, token, own, certificate=True) == "OK"
    assert secure_call(gcs, "0" * 64, own, certificate=True) == "UNAUTHENTICATED"  # nor is the certificate
    assert secure_call(gcs, token, own, certificate=False) == "UNAVAILABLE"
    assert secure_call(gcs, token, strangers, certificate=True) == "UNAVAILABLE"
    assert secure_call(gcs, token, others, certificate=True) == "UNAVAILABLE"  # this client refuses the server, too
    assert call(gcs, METHODS[0], token) == "UNAVAILABLE"  # without TLS


@pytest.mark.cluster
def test_rays_own_client_is_refused_without_certificates_or_with_anothers(gcs, others):
    quick = {
        "RAY_py_gcs_connect_timeout_s": "5",
        "RAY_gcs_rpc_server_connect_timeout_s": "2",
    }  # Ray's own patience, or 40 s
    own = {**os.environ, **quick}
    nothing = {name: value for name, value in own.items() if name not in tls.VARIABLES}
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", CLIENT, gcs], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for env in (own, nothing, {**own, **others})
    ]
    told = [client.communicate(timeout=300) for client in clients]
    assert clients[0].returncode == 0 and told[0][0] == "2 nodes\n", told[0]
    for client, (output, errors) in zip(clients[1:], told[1:]):
        assert client.returncode != 0 and output == "" and "GCS" in errors, errors[-2000:]


@pytest.mark.cluster
def test_the_key_is_its_owners_alone_and_nowhere_else(cluster, outputs):
    folder = Path(os.environ["RAY_TLS_SERVER_KEY"]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys(
        tls.FILES.values(), 0o600
    )
    lines = Path(os.environ["RAY_TLS_SERVER_KEY"]).read_text().splitlines()[1:-1]
    files = [
        path for top in (outputs, folder.parent) for path in top.rglob("*") if path.is_file() and path.parent != folder
    ]
    assert files and not [path for path in files if lines[0].encode() in path.read_bytes()]


def test_one_authority_signs_one_certificate_for_server_and_client(tmp_path):
    made = tls.issue(tmp_path / "a", ["192.0.2.1", "2001:db8::1", "node1.lab", "192.0.2.1"])
    leaf, root = (
        x509.load_pem_x509_certificate(Path(made[name]).read_bytes())
        for name in ("RAY_TLS_SERVER_CERT", "RAY_TLS_CA_CERT")
    )
    leaf.verify_directly_issued_by(root)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= tls.VALID_FOR + tls.CLOCKS_DIFFER
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "192.0.2.1", "2001:db8::1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "node1.lab"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usages = {usage._name for usage in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value}
    assert usages == {"serverAuth", "clientAuth"}
    other = x509.load_pem_x509_certificate(Path(tls.issue(tmp_path / "b", ())["RAY_TLS_CA_CERT"]).read_bytes())
    with pytest.raises(InvalidSignature):
        leaf.verify_directly_issued_by(other)
    private = [path.name for path in (tmp_path / "a").iterdir() if "PRIVATE" in path.read_text()]
    assert private == ["tls.key"]  # the authority's is gone


@pytest.mark.parametrize("hosts", [["a b"], ["-x"], ["x_"], [""], ["999.1.1.1/8"], ["a..b"]])
def test_what_is_no_host_is_told_and_nothing_is_written(tmp_path, hosts, capsys):
    assert tls.main([str(tmp_path / "tls"), "--", *hosts]) == 1
    assert "no name of a host" in capsys.readouterr().err and not (tmp_path / "tls").exists()


def test_a_folder_that_is_there_is_not_used(tmp_path, capsys):
    assert tls.main([str(tmp_path), "192.0.2.1"]) == 1
    assert "File exists" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change, told",
    [
        ({"RAY_USE_TLS": None}, "RAY_USE_TLS is not set"),
        ({"RAY_USE_TLS": "0"}, "RAY_USE_TLS is not set"),
        *(({name: None}, f"{name} is not") for name in tls.FILES),
        *(({name: "/no/such"}, f"{name}=/no/such") for name in tls.FILES),
    ],
)
def test_a_job_that_asks_for_tls_does_not_join_a_cluster_without_it(tmp_path, monkeypatch, change, told):
    environment = tls.issue(tmp_path / "tls", ())
    tls.require(environment)
    for name, value in {**environment, **change}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with (
        pytest.raises(UserError, match=told),
        LocalCluster(parse({"cluster": {"address": "127.0.0.1:1", "tls": True}})),
    ):
        pass
    (tmp_path / "ray_config.yaml").write_text("cluster: {tls: true}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        serve.application({})
