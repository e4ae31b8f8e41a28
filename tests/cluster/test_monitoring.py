"""cluster/monitoring: rules that fire when they should, queries that Prometheus takes, dashboards, targets, event files."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from head import free_ports
from processes import listening

from cluster import monitor
from cluster.monitor import write_dashboards
from cluster.monitoring import alerts, dashboards, event_files, targets
from cluster.monitoring.prometheus import Prometheus, find_prometheus
from cluster.monitoring.run_storage import RunStorage
from cluster.s3_server import S3Server
from robust.config_file import parse
from robust.errors import UserError
from robust.eventlog import EventLog
from robust.monitoring import metrics

DOCS = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$window": "1m"}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A real one with the project's rules and nothing to read."""
    try:
        find_prometheus()
    except UserError as error:
        pytest.skip(str(error))
    with Prometheus(tmp_path_factory.mktemp("prometheus"), port=free_ports(1)[0], interval_s=1) as running:
        yield running


def all_dashboards() -> dict[str, dict]:
    return {"ours": dashboards.dashboard(), **dashboards.rays_own()}


def concrete(query: str) -> str:
    """A query as Grafana sends it, with its variables' values in it."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return re.sub(r"\$\{?\w+\}?", ".*", query)


def test_prometheus_takes_every_query_of_every_dashboard(prometheus):
    queries = [(name, query) for name, board in all_dashboards().items() for query in dashboards.queries_of(board)]
    assert len(queries) > 200
    for name, query in queries:
        try:
            prometheus.query(concrete(query))
        except ValueError as error:
            pytest.fail(f"{name}: {query}: {error}")


def test_prometheus_runs_the_rules_and_listens_on_loopback_alone(prometheus):
    groups = prometheus.ask("rules")["groups"]
    assert [rule["name"] for rule in groups[0]["rules"]] == [alert.name for alert in alerts.ALERTS]
    assert listening([prometheus.process.pid]) == {("127.0.0.1", prometheus.port)}


def test_prometheus_refuses_a_wrong_query_in_its_own_words(prometheus):
    with pytest.raises(ValueError, match="parse error"):
        prometheus.query("rate(ray_deepfake_train_images_total)[")


def test_a_port_that_another_server_has_is_told(prometheus, tmp_path):
    # The other one would answer, and be taken for ours.
    told = f"port {prometheus.port} is taken.*--prometheus-port"
    with pytest.raises(UserError, match=told), Prometheus(tmp_path, port=prometheus.port):
        pass


# Series as promtool writes them: "0+8x60" begins at 0 and grows by 8 each minute; "_" is no sample.
FIRES = {
    "Stalled": {'ray_deepfake_running{run="a",stage="train"}': "1x120",
                'ray_deepfake_train_images_total{run="a"}': "0+8x20 160x99"},
    "LossNotFinite": {'ray_deepfake_train_nonfinite_total{run="a",model="m",WorkerId="1"}': "_x118 1 1"},
    "CatastrophicOverfitting": {'ray_deepfake_train_collapses_total{run="a",model="m"}': "1x110 2x9"},
    "RobustnessLost": {'ray_deepfake_validation_robust_auc{run="a",model="m"}': "0.8x60 0.6x59"},
    "WaitsForData": {'ray_deepfake_train_data_wait_share{run="a",model="m"}': "0.7x120"},
    "BucketErrors": {'ray_deepfake_storage_retries_total{run="a",reason="503"}': "0x116 20x3"},
    "StageFailed": {'ray_deepfake_failures_total{run="a",stage="train",reason="UserError"}': "_x119 1"},
    "VideosWithoutFaces": {'ray_deepfake_extract_videos_total{run="a",status="ok"}': "0+8x120",
                           'ray_deepfake_extract_videos_total{run="a",status="no_face"}': "0+2x120"},
    "NodeNotWatched": {'up{job="ray",instance="n:1"}': "1x100 0x20"},
    "MemoryShort": {'ray_node_mem_used{instance="n"}': "97x120", 'ray_node_mem_total{instance="n"}': "100x120"},
    "DiskFull": {'ray_node_disk_utilization_percentage{instance="n"}': "97x120"},
}
QUIET = {
    # One stage works while the job's other series are old; a job that has ended shows no `running`.
    "Stalled": {'ray_deepfake_running{run="a",stage="evaluate"}': "1x120", 'ray_deepfake_train_images_total{run="a"}': "160x120",
                'ray_deepfake_evaluate_crops_total{run="a",model="m"}': "0+8x120",
                'ray_deepfake_extract_videos_total{run="old",status="ok"}': "7x120",
                'ray_deepfake_running{run="b",stage="detect_many"}': "1x120",
                'ray_deepfake_detect_videos_total{run="b",verdict="real"}': "0+8x120"},
    "LossNotFinite": {'ray_deepfake_train_nonfinite_total{run="a",model="m",WorkerId="1"}': "_x60 1x60"},  # long ago
    "CatastrophicOverfitting": {'ray_deepfake_train_collapses_total{run="a",model="m"}': "1x120"},
    "RobustnessLost": {'ray_deepfake_validation_robust_auc{run="a",model="m"}': "0.7x60 0.6x59"},
    "WaitsForData": {'ray_deepfake_train_data_wait_share{run="a",model="m"}': "0.7x20 0.1x99"},
    "BucketErrors": {'ray_deepfake_storage_retries_total{run="a",reason="503"}': "20x116 21x3"},
    "StageFailed": {'ray_deepfake_failures_total{run="a",stage="train",reason="UserError"}': "1x120"},
    "VideosWithoutFaces": {'ray_deepfake_extract_videos_total{run="a",status="ok"}': "0+8x120"},
    "NodeNotWatched": {'up{job="ray",instance="n:1"}': "1x120"},
    "MemoryShort": {'ray_node_mem_used{instance="n"}': "90x120", 'ray_node_mem_total{instance="n"}': "100x120"},
    "DiskFull": {'ray_node_disk_utilization_percentage{instance="n"}': "90x120"},
}


def test_each_alert_fires_on_its_trouble_and_is_quiet_without(prometheus, tmp_path):
    names = {alert.name for alert in alerts.ALERTS}
    assert set(FIRES) == set(QUIET) == names
    (tmp_path / "rules.yml").write_text(alerts.rules_yaml())
    cases = []
    for expected, tables in ((1, FIRES), (0, QUIET)):
        for name, series in tables.items():
            query = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)'
            cases.append({
                "name": f"{name} {expected}", "interval": "1m",
                "input_series": [{"series": key, "values": values} for key, values in series.items()],
                "promql_expr_test": [{"expr": query, "eval_time": "120m", "exp_samples": [{"labels": "{}", "value": expected}]}]})
    tests = {"rule_files": ["rules.yml"], "evaluation_interval": "5m", "tests": cases}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    for command in ("check", "test"):
        file = "rules.yml" if command == "check" else "tests.yml"
        promtool = str(find_prometheus().with_name("promtool"))
        told = subprocess.run([promtool, command, "rules", file], cwd=tmp_path, text=True, capture_output=True)
        assert told.returncode == 0, told.stdout + told.stderr


def test_rules_and_dashboards_speak_of_no_metric_that_is_not_in_the_list():
    known = {metric.series for metric in metrics.METRICS}
    shown, alarmed = (
        {name for query in asked for name in re.findall(r"ray_deepfake_\w+", query)}
        for asked in (dashboards.queries_of(dashboards.dashboard()), [alert.expr for alert in alerts.ALERTS])
    )
    assert alarmed <= known
    assert shown == known  # every metric has its panel


def test_a_metric_has_few_labels_and_a_unit():
    for metric in metrics.METRICS:
        assert set(metric.labels) <= {"run", "model", "stage", "reason", "status", "verdict"} and metric.labels[0] == "run"
        assert metric.unit in metrics.UNITS and re.fullmatch(r"[a-z][a-z_]*[a-z]", metric.name), metric
        assert not metric.name.endswith("_total") and metric.help.endswith((".", "...")), metric


def test_our_dashboard_is_one_that_grafana_can_lay_out():
    board = dashboards.dashboard()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    variables = {one["name"] for one in board["templating"]["list"]}
    for panel in panels:
        if panel["type"] == "row":
            continue
        units = {*metrics.UNITS.values(), *dashboards.RATE_UNITS.values(), "percent", "bytes"}
        assert panel["fieldConfig"]["defaults"]["unit"] in units, panel["title"]
        assert [target["refId"] for target in panel["targets"]] == ["A", "B"][: len(panel["targets"])]
        for node in (panel, *panel["targets"]):
            assert node["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        used = {name for query in dashboards.queries_of(panel) for name in re.findall(r"\$(\w+)", query)}
        assert used <= variables | {"__rate_interval"}, panel["title"]
    assert json.loads(json.dumps(board)) == board


def test_the_dashboards_and_their_provisioning_are_written(tmp_path):
    write_dashboards(tmp_path, "http://127.0.0.1:9090")
    boards = {path.stem for path in (tmp_path / "dashboards").glob("*.json")}
    assert boards == {"robust-deepfake", "ray-cluster", "ray-data", "ray-train"}
    provider = yaml.safe_load((tmp_path / "provisioning/dashboards/files.yml").read_text())["providers"][0]
    assert Path(provider["options"]["path"]) == tmp_path / "dashboards"


def test_the_page_has_the_metrics_and_alerts_of_the_lists():
    page = DOCS.read_text()
    assert metrics.docs_table() in page
    assert alerts.docs_table() in page


@pytest.mark.parametrize("name", ["TensorBoard", "Prometheus"])
def test_the_monitor_ends_when_a_server_of_it_has_ended(prometheus, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(monitor, "LOOK_S", 0.1)
    one, other = free_ports(2)
    config = parse({"storage": {"uri": str(tmp_path / "runs")}, "cluster": {"outputs": str(tmp_path)}})
    arguments = monitor.parse_arguments([f"--prometheus-port={one}", f"--tensorboard-port={other}"])

    def kill():
        deadline = time.monotonic() + 60
        while "Grafana" not in capsys.readouterr().out and time.monotonic() < deadline:  # said last
            time.sleep(0.05)
        for pid in children():
            if f"/{name.lower()}\0" in (command := Path(f"/proc/{pid}/cmdline").read_text()) and str(tmp_path) in command:
                os.kill(pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    told = rf"{name} has ended \(exit status -9\); why is in {tmp_path}/monitor/.*{name.lower()}\.log"
    with pytest.raises(UserError, match=told), ExitStack() as started:
        monitor.watch(config, arguments, started)


def children() -> list[int]:
    """Of this process and all its threads."""
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


# ---------------------------------------------------------------------------- targets


@pytest.fixture
def answering():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_targets_are_those_of_each_ray_that_answers(tmp_path, answering):
    names = ("ray", "deepfake-ray-1", "deepfake-ray-2")
    with_dashboard, without, gone = (tmp_path / name / "session_latest" for name in names)
    for session in (with_dashboard, without, gone):
        session.mkdir(parents=True)
    far = f"127.0.0.1:{answering}"
    (with_dashboard / targets.DISCOVERY).write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [far, "127.0.0.1:9"]}]))
    (without / "metrics_export_port_0a").write_text(str(answering))
    (gone / "metrics_export_port_0b").write_text("9")
    places = sorted(tmp_path.iterdir())
    assert targets.update(tmp_path / "targets", places=places) == sorted([far, far, "127.0.0.1:9"])
    def files():
        found = {path.name: json.loads(path.read_text())[0]["targets"] for path in (tmp_path / "targets").iterdir()}
        return {name.rpartition("-")[0]: addresses for name, addresses in found.items()}

    assert files() == {"ray": sorted([far, "127.0.0.1:9"]), "deepfake-ray-1": [far]}
    (without / "metrics_export_port_0a").write_text("9")  # its Ray has ended
    targets.update(tmp_path / "targets", places=places)
    assert list(files()) == ["ray"]


def test_rays_in_several_temporary_folders_are_all_targets(tmp_path, monkeypatch, answering):
    for top in "ab":
        session = tmp_path / top / "ray" / "session_latest"
        session.mkdir(parents=True)
        addresses = [f"127.0.0.1:{answering}", f"{top}:1"]
        (session / targets.DISCOVERY).write_text(json.dumps([{"targets": addresses}]))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "a"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "b"))
    found = targets.update(tmp_path / "targets")
    assert {"a:1", "b:1"} <= set(found) and len(list((tmp_path / "targets").iterdir())) >= 2


@pytest.mark.parametrize("content", ["", "{", "[{}]", '[{"targets": 5}]', "null"])
def test_a_damaged_discovery_file_is_no_target(tmp_path, content):
    (tmp_path / "session_latest").mkdir()
    (tmp_path / "session_latest" / targets.DISCOVERY).write_text(content)
    assert targets.addresses_of(tmp_path) == []


# ---------------------------------------------------------------------------- TensorBoard


def test_event_files_are_followed_as_they_grow_and_go(storage, tmp_path):
    log, folder = EventLog(storage, "run/tensorboard/train/defended"), tmp_path / "copy"
    storage.write_bytes("run/tune/trials/t1/events.out.tfevents.1.host", b"12345")
    storage.write_bytes("run/tune/trials/t1/model.bin", b"no event file")
    storage.write_bytes("run/faces/shard.parquet", b"neither")
    log.scalars({"loss/total": 1.0}, 0)
    log.flush()
    assert event_files.sync(storage, "run", folder) > 5
    event_files.write_layout(folder)
    trained, = (folder / "train/defended").iterdir()
    before, open_file = trained.stat(), open(trained, "rb")  # as TensorBoard has it
    open_file.read()
    log.scalars({"loss/total": 0.5}, 1)
    log.flush()
    added = event_files.sync(storage, "run", folder)
    assert trained.read_bytes() == storage.read_bytes(f"run/tensorboard/train/defended/{trained.name}")
    assert 0 < added < before.st_size and len(open_file.read()) == added
    assert event_files.sync(storage, "run", folder) == 0
    storage.delete_prefix("run/tune")
    event_files.sync(storage, "run", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["layout", "train", "tune"]
    assert not list((folder / "tune").rglob("events*")) and len(list((folder / "layout").iterdir())) == 1
    log.close()


def test_a_look_that_takes_too_long_goes_on_in_the_next(local_storage, tmp_path):
    for name in "abc":
        local_storage.write_bytes(f"run/tensorboard/{name}/events.out.tfevents.1.host", b"12345")
    for left in (2, 1):  # at least one file each time
        with pytest.raises(UserError, match=f"{3 - left} of 3 event files .*the others follow"):
            event_files.sync(local_storage, "run", tmp_path / "copy", longest_s=0)
    assert event_files.sync(local_storage, "run", tmp_path / "copy", longest_s=0) == 5
    assert len(list((tmp_path / "copy").rglob("events*"))) == 3


def test_the_storage_is_read_during_a_job_with_its_own_server_and_after_it(tmp_path):
    config = parse({"storage": {"uri": "s3://demo/runs", "addressing_style": "path"},
                    "cluster": {"address": "local", "local_s3": True, "outputs": str(tmp_path)}})
    watched = RunStorage(config)
    with watched.open() as storage:
        assert storage is None  # nothing was ever run
    with S3Server(tmp_path / "s3", bucket="demo"):  # a job
        with watched.open() as storage:
            storage.write_bytes("run/a", b"1")
    with pytest.raises(UserError, match="the others follow"), watched.open():
        raise UserError("1 of 2 event files were read; the others follow")
    with watched.open() as storage:
        assert storage.list() == ["run/a"]
    with watched.open() as storage:
        assert storage is None  # nothing can be new
