"""The endpoint as a RayService (cluster/kinds/rayservice.py), its check, and a RayJob for each job."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import yaml
from test_check_damage import OTHERS, REMOVED, damaged, nodes
from test_render import described, documents, drop, put, rename

from cluster import render
from cluster.check import problems_of
from cluster.demands import Demand, without_room
from cluster.kinds import kuberay, rayservice
from robust.config import Config
from robust.config_overrides import flattened, overridden
from robust.deploy_config import JOBS
from robust.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FILE = "rayservice.yaml"
ENDPOINT = "cluster.deploy.kubernetes.endpoint"
CLUSTER = "spec/rayClusterConfig/"
HEAD, WORKER = (CLUSTER + group + "/template/spec/containers/0/" for group in ("headGroupSpec", "workerGroupSpecs/0"))
APPLICATION = "applications/0/"


@pytest.fixture(scope="module")
def rendered():
    return render.render("kuberay", described("kuberay"))


def service_of(files: dict[str, str]) -> tuple[dict, dict, dict]:
    """The NetworkPolicy, the RayService, and what stands in its serveConfigV2."""
    policy, service = documents(files[FILE])
    return policy, service, yaml.safe_load(service["spec"]["serveConfigV2"])


def problems_after(files, change_policy=None, change_service=None, change_config=None):
    policy, service, config = service_of(files)
    for document, change in ((policy, change_policy), (service, change_service), (config, change_config)):
        if change:
            change(document)
    if change_config:
        service["spec"]["serveConfigV2"] = json.dumps(config)
    return problems_of("kuberay", {"common.yaml": files["common.yaml"], FILE: yaml.safe_dump_all([policy, service])})


def at_once(*changes):
    def change(document):
        for one in changes:
            one(document)

    return change


TOO_MANY = [{"name": "Any", "num_replicas": "auto", "autoscaling_config": {"min_replicas": 1, "max_replicas": 999}}]
CALLED = "env_vars", {"DETECT_TOKEN": "open sesame"}
EVERYBODY = {"ports": [{"port": 8000}]}
RULE, PORTS = "spec/ingress/0", "spec/ingress/0/ports"

# fmt: off
PLANTED = {
    "config": [
        (put(APPLICATION + "args/serve.port", 9000), {"port-differs"}, "http_options.port"),
        (put(APPLICATION + "args/serve.token_env", "OTHER"), {"no-token"}, "env.OTHER"),
        (at_once(put(APPLICATION + "args/serve.model.least", 999), put(APPLICATION + "args/serve.model.most", 999)),
         {"no-room"}, "args.serve.model.most"),
        (rename(APPLICATION + "import_path", "import_pth"), {"missing-key", "unknown-key", "no-such-import"}, "import_pth"),
        (put("http_options/prot", 8000), {"unknown-key"}, "http_options.prot"),
        (put("http_options/port", "8000"), {"wrong-type"}, "http_options.port"),
        (put(APPLICATION + "deployments", [{"name": "Any", "num_replica": 2}]), {"unknown-key"}, "deployments.0.num_replica"),
        (put(APPLICATION + "deployments", [{"name": "Any", "autoscaling_config": {"max_replica": 2}}]),
         {"unknown-key"}, "autoscaling_config.max_replica"),
        (put(APPLICATION + "port", 8000), {"unknown-key"}, "applications.0.port"),
        (put(APPLICATION + "import_path", "jobs.server:application"), {"no-such-import"}, "import_path"),
        (put(APPLICATION + "import_path", "jobs.detect:application"), {"no-such-import"}, "import_path"),
        (put(APPLICATION + "import_path", "os:system"), {"no-such-import"}, "import_path"),
        (put(APPLICATION + "import_path", "jobs.detect:find_checkpoint"), {"no-such-import"}, "import_path"),
        (put(APPLICATION + "args/detect.frame", 20), {"settings"}, "args.detect.frame"),
        (put(APPLICATION + "args/detect.frames", 0), {"settings"}, "args.detect.frames"),
        (put(APPLICATION + "args/detect.frames", "None"), {"settings"}, "args.detect.frames"),
        (put(APPLICATION + "args/frames", 20), {"settings"}, "args.frames"),
        (put("http_options/port", 8001), {"port-differs", "endpoint-closed"}, "http_options.port"),
        (put("http_options/host", "127.0.0.1"), {"endpoint-closed"}, "http_options.host"),
        (put(APPLICATION + "deployments", TOO_MANY), {"no-room"}, "autoscaling_config.max_replicas"),
        (put(APPLICATION + "deployments", [{"name": "Any", "num_replicas": 9, "max_replicas_per_node": 1}]),
         {"no-room"}, "deployments.0.num_replicas"),
        (put(APPLICATION + "runtime_env", {"working_dir": "https://example.com/code.zip"}),
         {"code-not-of-image"}, "runtime_env.working_dir"),
        (put(APPLICATION + "runtime_env", dict([CALLED])), {"secret-value"}, "env_vars.DETECT_TOKEN"),
    ],
    "service": [
        (rename("spec/upgradeStrategy", "upgradeStrategi"), {"unknown-key"}, "spec.upgradeStrategi"),
        (put("spec/upgradeStrategy/type", "Rolling"), {"not-allowed"}, "spec.upgradeStrategy.type"),
        (put("spec/serveConfigV2", "applications: ["), {"not-yaml"}, "(the file)"),
        (put("spec/serveConfigV2", "a: b\n---\nc: d\n"), {"not-yaml"}, "(the text)"),
        (drop("spec/serveConfigV2"), {"missing-key"}, "spec.serveConfigV2"),
        (drop(HEAD + "ports/3"), {"no-serve-port"}, "headGroupSpec.template.spec.containers.0.ports"),
        (put(WORKER + "ports/0/containerPort", 9000), {"port-differs"}, "extract.template.spec.containers.0.ports.serve"),
        (drop(WORKER + "env/1"), {"no-token"}, "extract.template.spec.containers.0.env.DETECT_TOKEN"),
        (put(HEAD + "env/1", {"name": "DETECT_TOKEN", "value": "open sesame"}),
         {"secret-value"}, "headGroupSpec.template.spec.containers.0.env.DETECT_TOKEN"),
        (put("spec/serveService", {"spec": {"type": "LoadBalancer"}}), {"endpoint-open"}, "serveService.spec.type"),
        (drop("spec/excludeHeadPodFromServeSvc"), {"head-takes-work"}, "excludeHeadPodFromServeSvc"),
        (put(CLUSTER + "workerGroupSpecs/0/template/metadata/labels", {}), {"endpoint-open"}, "template.metadata.labels"),
        (put(CLUSTER + "headGroupSpec/serviceType", "NodePort"), {"dashboard-open"}, "serviceType"),
        (put(CLUSTER + "gcsFaultToleranceOptions", {"redisAddress": "r:6379", "redisPassword": {"value": "open sesame"}}),
         {"secret-value"}, "redisPassword"),
        (put("metadata/name", "x" * 48), {"name-too-long"}, "metadata.name"),
        (put(CLUSTER + "authOptions/mode", "disabled"), {"no-token"}, "authOptions.mode"),
    ],
    "policy": [
        (put(RULE, EVERYBODY), {"endpoint-open"}, "spec.ingress"),
        (put(RULE + "/from", [{"ipBlock": {"cidr": "0.0.0.0/0"}}]), {"endpoint-open"}, "spec.ingress"),
        (put(RULE + "/from", [{"namespaceSelector": {}}]), {"endpoint-open"}, "spec.ingress"),
        (put(PORTS, [{"port": 8000}, {"port": 8265}]), {"endpoint-open"}, "spec.ingress"),
        (drop(PORTS), {"endpoint-open", "endpoint-closed"}, "spec.ingress"),
        (put(PORTS, [{"port": 8001}]), {"endpoint-closed"}, "spec.ingress"),
        (put("spec/policyTypes", ["Egress"]), {"endpoint-closed"}, "spec.ingress"),
    ],
}
# fmt: on
CASES = [(place, *case) for place, cases in PLANTED.items() for case in cases]


@pytest.mark.parametrize("place, change, names, key", CASES, ids=[f"{case[0]}-{case[3]}" for case in CASES])
def test_a_planted_mistake_is_told_by_name(rendered, place, change, names, key):
    found = problems_after(rendered, **{f"change_{place}": change})
    assert {problem.name for problem in found} == names, found
    assert any(key in problem.key for problem in found), found
    assert all(FILE in problem.file and len(problem.remedy) > 5 for problem in found)
    assert not any("sesame" in str(problem) for problem in found)


def test_nothing_is_wrong_with_what_is_rendered_whatever_is_asked_for(rendered):
    assert problems_after(rendered) == []
    files = render.render("kuberay", described(
        "kuberay", "cluster.deploy.kubernetes.queue=q", f"{ENDPOINT}.group=train", f"{ENDPOINT}.clients=[web, shop]",
        f"{ENDPOINT}.redis=redis.redis:6380", f"{ENDPOINT}.redis_secret=store", f"{ENDPOINT}.max=3"))
    policy, service, _ = service_of(files)
    assert policy["spec"]["ingress"] == [{
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}} for name in ("web", "shop")],
        "ports": [{"port": 8000, "protocol": "TCP"}]}]
    assert policy["spec"]["egress"] == [{"ports": [{"port": 6380, "protocol": "TCP"}]}]
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis.redis:6380",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "store", "key": "REDIS_PASSWORD"}}}}
    assert service["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "q" and not cluster["enableInTreeAutoscaling"]
    assert [(group["groupName"], group["replicas"]) for group in cluster["workerGroupSpecs"]] == [("train", 3)]


def test_the_endpoint_is_reached_at_one_port_by_its_own_namespace_alone(rendered):
    policy, service, _ = service_of(rendered)
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {}}], "ports": [{"port": 8000, "protocol": "TCP"}]}]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    cluster = service["spec"]["rayClusterConfig"]
    selected, (general, *_) = policy["spec"]["podSelector"]["matchLabels"], (
        document for document in documents(rendered["common.yaml"]) if document["kind"] == "NetworkPolicy")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        labels = group["template"]["metadata"]["labels"]
        assert selected.items() <= labels.items() and general["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    for file in ("raycluster.yaml", "rayjob-train.yaml"):
        assert "endpoint" not in rendered[file]  # no job's pods are opened


def test_every_pod_has_the_token_by_reference_and_the_settings_in_its_working_folder(rendered):
    _, service, _ = service_of(rendered)
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        reference = {"name": "robust-deepfake-endpoint", "key": "DETECT_TOKEN"}
        assert {"name": "DETECT_TOKEN", "valueFrom": {"secretKeyRef": reference}} in container["env"]
        assert f"{container['workingDir']}/ray_config.yaml" in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert container["ports"][-1] == {"containerPort": 8000, "name": "serve"}


def test_the_arguments_are_the_settings_and_lead_back_to_them(rendered):
    store = "storage.endpoint_url=https://minio.example.com"
    description = described("kuberay", "run.name='on'", "detect.frames=7", store, "detect.threshold=1.5")
    _, _, config = service_of(render.render("kuberay", description))
    (application,) = config["applications"]
    there = overridden(Config(), application["args"])
    for section in ("run", "storage", "extract", "detect"):
        assert getattr(there, section) == getattr(description.config, section)
    assert application["args"]["detect.checkpoint"] is None
    assert there.serve.host == config["http_options"]["host"] and there.serve.port == config["http_options"]["port"]


@pytest.mark.parametrize("overrides, told", [
    ([f"{ENDPOINT}.group=gpu"], f"{ENDPOINT}.group: 'gpu' is not one of"),
    ([f"{ENDPOINT}.max=9"], f"{ENDPOINT}.max: 9: the group extract has at most 8"),
    ([f"{ENDPOINT}.min=5", f"{ENDPOINT}.max=4"], f"{ENDPOINT}.min: 5: "),
    ([f"{ENDPOINT}.redis=nowhere"], f"{ENDPOINT}.redis: 'nowhere'"),
    ([f"{ENDPOINT}.redis_secret=store"], f"{ENDPOINT}.redis_secret: 'store'"),
    ([f"{ENDPOINT}.clients=[A b]"], f"{ENDPOINT}.clients.0"),
    (["detect.input=/videos"], "detect.input: '/videos': the nodes of a cluster share no disk"),
    (["serve.model.least=3", "serve.model.most=3", "serve.model.cpus=14"],
     "serve.model.least: 3 x (14 CPU, 0 GPU) do not fit beside the rest of the endpoint on 2 nodes"),
])
def test_a_wrong_description_is_told_by_its_key(overrides, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        render.render("kuberay", described("kuberay", *overrides))


def test_room_for_several_kinds_of_processes():
    big, small = Demand("big", "serve", 2, 3, 1), Demand("small", "serve", 3, 1, 0)
    assert without_room([(4, 1), (4, 1), (1, 0)], [small, big]) is None  # 3 + 1, 3 + 1, 1
    assert without_room([(4, 1), (4, 1)], [small, big]) is small
    assert without_room([(8, 1), (8, 0)], [small, big]) is big
    assert without_room([], []) is None


def test_whatever_stands_in_serve_config_is_told_and_not_an_exception(rendered):
    _, service, config = service_of(rendered)
    cases = [(path, value) for path in nodes(config) for value in ((*OTHERS, REMOVED) if path else OTHERS)]
    for path, value in random.Random(24).sample(cases, 60):
        text = json.dumps(damaged(config, path, value))
        changed = {**service, "spec": {**service["spec"], "serveConfigV2": text}}
        try:
            assert all(str(problem) for problem in problems_of("kuberay", {FILE: json.dumps(changed)}))
        except Exception as error:
            raise AssertionError(f"{path}: {value!r}: {type(error).__name__}: {error}") from error


def test_ray_serve_takes_what_is_rendered(rendered):
    schema = pytest.importorskip("ray.serve.schema")
    _, _, config = service_of(rendered)
    taken = schema.ServeDeploySchema.model_validate(config)
    assert taken.http_options.port == 8000 and taken.applications[0].import_path == rayservice.IMPORT_PATH


def test_the_application_takes_its_arguments_in_a_pods_working_folder(tmp_path, monkeypatch):
    serve = pytest.importorskip("jobs.serve")
    from robust.models.checkpoint import save_checkpoint
    from robust.models.detector import Architecture, empty_detector
    from robust.storage import Storage

    store = f"storage.uri={tmp_path / 'storage'}"
    description = described("kuberay", store, "detect.frames=7", "serve.faces.least=2", "serve.faces.most=3")
    network = empty_detector(Architecture("meso_inception4", 64, (0.5,) * 3, (0.5,) * 3, None))
    card = {"threshold": 0.01, "threshold_rule": "made up", "extract": {}}
    save_checkpoint(Storage.from_config(description.config.storage), "run/train/defended", network, card)
    (tmp_path / "ray_config.yaml").write_text(description.job_settings)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(description.config.serve.token_env, "t" * 40)
    (application,) = yaml.safe_load(rayservice.dumped(rayservice.serve_config(description)))["applications"]
    plan, _ = serve.application(application["args"])._bound_deployment.init_args
    for section in ("run", "storage", "extract", "detect"):
        assert getattr(plan.config, section) == getattr(description.config, section)
    assert plan.config.serve == description.config.serve.model_copy(update={"host": "0.0.0.0"})


def test_the_schema_is_that_of_the_installed_ray():
    pytest.importorskip("ray.serve.schema")
    from cluster.schemas import reduce

    assert json.loads((ROOT / "cluster" / "schemas" / "serve.json").read_text()) == reduce.serve()


def test_the_schema_of_a_kubernetes_service_knows_its_type(rendered):
    typed = put(CLUSTER + "headGroupSpec/headService", {"spec": {"type": "ClusterIP"}})  # a field that is called type
    assert problems_after(rendered, change_service=typed) == []


def test_arguments_are_read_as_on_a_command_line():
    values = {"detect.checkpoint": None, "detect.frames": 3, "detect.threshold": "1e-3", "evaluate.epsilons": [0.5, 1]}
    config = overridden(Config(), values)
    assert (config.detect.checkpoint, config.detect.frames, config.detect.threshold) == (None, 3, 0.001)
    assert config.evaluate.epsilons == [0.5, 1]
    odd = overridden(config, {"run.name": '"on"', "detect.output": '"null"', "detect.input": '"s3://bucket/a: b#c"'})
    assert (odd.run.name, odd.detect.output, odd.detect.input) == ("on", "null", "s3://bucket/a: b#c")
    assert overridden(Config(), flattened(odd, Config.model_fields)) == odd
    with pytest.raises(ConfigError, match="detect.framez: unknown key; did you mean 'frames'"):
        overridden(config, {"detect.framez": 3})
    for key in ("detect.", "detect..frames", "detect.frames.x"):
        with pytest.raises(ConfigError, match=f"^override '?{key}"):
            overridden(config, {key: 3})


@pytest.mark.parametrize("job", JOBS)
def test_each_job_has_a_rayjob(rendered, job):
    files = rendered
    if job == "detect_many":
        files = render.render("kuberay", described("kuberay", "detect.input=s3://lab-uploads/new"))
    (manifest,) = documents(files[f"rayjob-{job.replace('_', '-')}.yaml"])
    module = manifest["spec"]["entrypoint"].split()[2]
    assert module == f"jobs.{job}" and (ROOT / f"{module.replace('.', '/')}.py").exists()
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", manifest["metadata"]["name"])  # DNS-1035, as KubeRay asks for
    settings = next(document for document in documents(files["common.yaml"]) if document["kind"] == "ConfigMap")
    if job == "detect_many":
        assert yaml.safe_load(settings["data"]["ray_config.yaml"])["detect"]["input"] == "s3://lab-uploads/new"


def test_without_anything_to_judge_there_is_no_job_for_it(rendered):
    assert "rayjob-detect-many.yaml" not in rendered and kuberay.dashed("detect_many") == "detect-many"
