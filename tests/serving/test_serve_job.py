"""jobs/serve.py: what is refused before it starts, and once for all the real thing: Ray Serve over real HTTP."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from jobs import room
from jobs import serve as job
from jobs.serve_deployments import score_apart, score_in_parts, score_together
from robust.config_file import parse
from robust.data.faces import build_detector
from robust.data.images import encode_image
from robust.detection import VIDEO, Examiner, score_crops, thresholds_of
from robust.errors import ConfigError, UserError
from robust.models.checkpoint import load_checkpoint, save_checkpoint
from robust.models.detector import Architecture, empty_detector
from robust.serve_config import ServeConfig
from robust.serving.access import Access
from robust.storage import Storage
from tests import clips
from tests.cluster.processes import Marked, listening
from tests.serving.asgi import TOKEN

ROOT = Path(__file__).resolve().parents[2]
CARD = {"threshold": 0.01, "threshold_rule": "made up", "extract": {"margin": 0.25}}


def save_model(storage, key, **card):
    torch.manual_seed(0)
    save_checkpoint(storage, key, empty_detector(Architecture("meso_inception4", 64, (0.5,) * 3, (0.5,) * 3, None)), CARD | card)


@pytest.mark.parametrize(("host", "local"), [
    ("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.9.9.9", True), ("0.0.0.0", False), ("::", False), ("", False),
    ("10.0.0.1", False), ("example.org", False), ("127.0.0.1.example.org", False)])
def test_only_this_machines_addresses_do_without_a_token(host, local):
    config = ServeConfig(host=host)
    assert config.is_local == local
    if local:
        assert Access.from_environment(config, {}, local=config.is_local).token is None
    else:
        with pytest.raises(ConfigError, match="DETECT_TOKEN is not set.*openssl rand"):
            Access.from_environment(config, {}, local=config.is_local)
    access = Access.from_environment(config, {"DETECT_TOKEN": TOKEN}, local=config.is_local)
    assert access.token == TOKEN and TOKEN not in repr(access)


@pytest.mark.parametrize("token", ["short", "with a space in it, and long", "ä" * 30, "line\nbreak in a token of length"])
def test_a_token_that_is_none_is_refused_and_not_repeated(token):
    with pytest.raises(ConfigError, match="is no token") as told:
        Access.from_environment(ServeConfig(), {"DETECT_TOKEN": token}, local=True)
    assert token not in str(told.value)


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    (tmp_path / "ray_config.yaml").write_text(f"storage: {{uri: {tmp_path / 'storage'}}}\nrun: {{name: r}}\n")
    monkeypatch.chdir(tmp_path)


def test_the_application_for_a_cluster_needs_the_token_and_takes_settings(config_file, local_storage, monkeypatch):
    monkeypatch.delenv("DETECT_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="DETECT_TOKEN is not set"):
        job.application({})
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    settings = {"serve.token_env": "MY_TOKEN", "serve.faces.most": 3, "serve.batch_wait_s": "0.5", "detect.frames": 7}
    with pytest.raises(UserError, match="run jobs.train first"):
        job.application(settings)
    save_model(local_storage, "r/train/defended")
    built = job.application(settings)
    plan, _ = built._bound_deployment.init_args
    assert (plan.config.serve.faces.most, plan.config.serve.batch_wait_s, plan.config.detect.frames) == (3, 0.5, 7)
    assert plan.about["warnings"] == ["extract.margin is 0.3, the checkpoint was trained with 0.25"] and not plan.open_here
    assert built._bound_deployment.name == "faces" and TOKEN not in repr(plan)
    scaled = built._bound_deployment._deployment_config.autoscaling_config
    assert (scaled.min_replicas, scaled.max_replicas) == (1, 3)
    with pytest.raises(ConfigError, match="serve.prot: unknown key"):
        job.application({"serve.prot": 1})


class Nodes:
    """In Ray's place: nodes that come one after another as often as somebody asks for some."""

    def __init__(self, monkeypatch, *nodes, there: int):
        self.nodes, self.there, self.asked = nodes, there, []
        monkeypatch.setattr(room, "request_resources", self.ask)
        monkeypatch.setattr(room, "LOOK_EVERY_S", 0)
        for module in (room, job):
            monkeypatch.setattr(module, "living_nodes", lambda: self.nodes[:self.there])

    def ask(self, *, bundles):
        self.asked.append(bundles)
        self.there += bool(bundles)


TWO_AND_HALF_A_GPU = {"faces": {"least": 2, "most": 2}, "model": {"gpus": 0.5}}


def test_what_could_not_start_is_told_before_it_is_tried(monkeypatch):
    config = parse({"serve": TWO_AND_HALF_A_GPU})
    cases = [((2, 1), r"serve.faces.least: 2 x \(1 CPU, 0 GPU\) do not fit .*2 CPU and 1 GPU.*lower serve.faces.least"),
             ((3, 0), r"serve.model.least: 1 x \(1 CPU, 0.5 GPU\) do not fit .*lower serve.model.least")]
    for node, told in cases:
        nodes = Nodes(monkeypatch, node, there=1)
        with pytest.raises(UserError, match=told):
            job.require_room(config)
        assert nodes.asked == []  # it waits only where it is told to
    Nodes(monkeypatch, (1, 1), (2, 0), there=2)
    job.require_room(config)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UserError, match="cannot listen on 127.0.0.1 port"):
            job.require_free_port("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="serve.faces.*least = 3|least = 3"):
        parse({"serve": {"faces": {"least": 3, "most": 2}}})


def test_the_endpoint_waits_for_the_nodes_of_a_cluster_that_grows(monkeypatch, capsys):
    waits = {"address": "auto", "wait_for_nodes_s": 60}
    nodes = Nodes(monkeypatch, (0, 0), (2, 0), (1, 1), there=1)
    job.require_room(parse({"serve": TWO_AND_HALF_A_GPU, "cluster": waits}))
    everything = [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0, "GPU": 0.5}]
    assert nodes.asked == [everything, everything, []]  # the last: or the nodes would stay for ever
    assert "waiting up to 60 s for nodes" in capsys.readouterr().out
    nodes = Nodes(monkeypatch, (0, 0), there=1)
    with pytest.raises(UserError, match="serve.model.least: .*wait_for_nodes_s"):
        job.require_room(parse({"serve": TWO_AND_HALF_A_GPU, "cluster": waits | {"wait_for_nodes_s": 0.05}}))
    assert nodes.asked[-1] == []


def test_scores_of_a_batch_are_those_of_its_requests():
    torch.manual_seed(0)
    model = empty_detector(Architecture("meso_inception4", 64, (0.5,) * 3, (0.5,) * 3, None)).eval()
    crops = np.random.default_rng(0).integers(0, 255, (7, 40, 40, 3), np.uint8)
    encoded = [encode_image(crop) for crop in crops]
    requests = [encoded[:1], encoded[1:5], encoded[5:]]
    apart, together = score_apart(model, requests), score_together(model, requests)
    for found, wanted in zip(apart, (crops[:1], crops[1:5], crops[5:])):
        assert np.array_equal(found, score_crops(model, list(wanted)))
    assert [len(one) for one in together] == [1, 4, 2]
    assert np.allclose(np.concatenate(together), np.concatenate(apart), atol=1e-6)


def test_crops_are_scored_in_parts_and_a_request_that_is_given_up_takes_its_parts_along():
    asked = []

    def ask(part):
        async def answer():
            await asyncio.sleep(0 if len(part) > 1 else 60)
            return np.array([float(crop) for crop in part])

        asked.append(asyncio.ensure_future(answer()))
        return asked[-1]

    async def both():
        whole = await score_in_parts(ask, [b"1", b"2", b"3", b"4"], most=2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await score_in_parts(ask, [b"1", b"2", b"3"], most=2)
        await asyncio.sleep(0)
        return whole

    assert asyncio.run(both()).tolist() == [1, 2, 3, 4] and len(asked) == 4 and asked[-1].cancelled()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def require_token_of_ray(ports):
    """Serve's replicas listen on all addresses, for each other's pickled calls: none without the cluster's token."""
    for port in ports:
        for metadata in [], [("authorization", f"Bearer {'0' * 64}")]:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", metadata=metadata, timeout=30)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, refused.value


@pytest.mark.cluster
def test_it_serves_over_http_and_leaves_nothing_behind(tmp_path):
    storage = Storage.from_config(parse({"storage": {"uri": str(tmp_path / "storage")}}).storage)
    port, marked = free_port(), Marked()
    save_model(storage, "r/train/baseline", extract={})
    settings = ["run.name=r", f"storage.uri={storage.uri()}", "cluster.address=local", "cluster.num_cpus=2",
                "cluster.object_store_memory_mb=100", f"cluster.outputs={tmp_path / 'out'}", f"serve.port={port}",
                "serve.max_upload_mb=1", "detect.frames=2", "extract.detect_size=320"]
    environment = {**marked.environment(), "DETECT_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen([sys.executable, "-m", "jobs.serve", *settings], cwd=ROOT, env=environment, stdout=log, stderr=log,
                               start_new_session=True)

    def said():
        log.seek(0)
        return log.read()

    try:
        deadline = time.monotonic() + 400
        while f"http://127.0.0.1:{port}" not in said():
            assert process.poll() is None and time.monotonic() < deadline, said()
            time.sleep(0.5)
        video, token = clips.real_face().read_bytes(), {"Authorization": f"Bearer {TOKEN}"}
        status, headers, body = ask(port, "POST", "/v1/detect?name=single_face.mp4&pictures=true", video, **token)
        assert status == 200, body
        document = json.loads(body)

        config = parse({"detect": {"frames": 2}, "extract": {"detect_size": 320}})
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        model, card = load_checkpoint(storage, "r/train/baseline")
        alone = Examiner(model, thresholds_of(card, None), config.extract, 2, build_detector(config.extract, device="cpu"),
                         config.storage).examine("single_face.mp4", str(clips.real_face()), VIDEO).verdict.as_dict()
        torch.set_num_threads(threads)
        assert document["verdict"] == json.loads(json.dumps({**alone, "uri": document["verdict"]["uri"]}))
        assert document["verdict"]["frames_with_face"] == 2 and len(document["pictures"]) == 2
        assert document["checkpoint"]["sha256"] == card["sha256"] and headers["x-content-type-options"] == "nosniff"

        expected = [("POST", "/v1/detect", video, {}, 401, "unauthorized"),
                    ("POST", "/v1/detect", b"x" * (2**20 + 1), token, 413, "too_large"),
                    ("POST", "/v1/detect", b"no video", token, 422, "unreadable"),
                    ("POST", "/v1/detect", b"", token, 400, "bad_request"),
                    ("GET", "/v1/detect", None, token, 405, "method_not_allowed")]
        for method, path, content, given, status, kind in expected:
            found, _, body = ask(port, method, path, content, **given)
            assert (found, json.loads(body)["error"]["type"]) == (status, kind)
        assert ask(port, "GET", "/healthz")[::2] == (200, b'{"status":"ok"}')
        assert ask(port, "GET", "/")[0] == 200
        marked.watch(tmp_path / "out")
        open_ports = listening(marked.alive())
        assert ("127.0.0.1", port) in open_ports and {address for address, _ in open_ports} == {"127.0.0.1", "::"}
        require_token_of_ray([port for address, port in open_ports if address == "::"])
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0, said()
        assert said().splitlines()[-1] == "serve: stopped" and TOKEN not in said()
        assert marked.wait_until_gone(30) == {}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        log.close()
    logs = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file() and not path.is_symlink()]
    assert logs and not any(TOKEN.encode() in content for content in logs)
