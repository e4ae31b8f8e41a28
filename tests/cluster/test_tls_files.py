"""cluster.tls in the files of each kind: asked for or refused, and its mistakes told by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_render import ROOT, described, documents, drop, put, replaced

from cluster import render
from cluster.check import problems_of
from cluster.checks.common import KEYS
from cluster.tls import FILES, VARIABLES
from robust.config_file import parse
from robust.errors import ConfigError

PLACES = {"RayCluster": "spec/", "RayJob": "spec/rayClusterSpec/", "RayService": "spec/rayClusterConfig/"}
"""Where each kind has its cluster."""
CLUSTERS = dict(zip(("raycluster.yaml", "rayjob-train.yaml", "rayservice.yaml"), PLACES.values()))


@pytest.fixture(scope="module")
def rendered():
    return {kind: render.render(kind, described(kind, "cluster.tls=true")) for kind in ("kuberay", "slurm", "image")}


def cluster_of(document: dict, path: str) -> dict:
    for part in path.strip("/").split("/"):
        document = document[part]
    return document


def test_every_cluster_on_kubernetes_asks_the_operator_for_certificates_and_the_jobs_for_tls(rendered):
    without = render.render("kuberay", described("kuberay"))
    for files, wanted in ((rendered["kuberay"], {"enabled": True}), (without, None)):
        seen = 0
        for name, text in files.items():
            for document in documents(text):
                if document["kind"] in PLACES:
                    assert cluster_of(document, PLACES[document["kind"]]).get("tlsOptions") == wanted, name
                    seen += 1
                if document["kind"] == "ConfigMap":
                    assert parse(yaml.safe_load(document["data"]["ray_config.yaml"])).cluster.tls is bool(wanted)
        assert seen == len(files) - 1 >= 7  # all but common.yaml
    assert "openssl" in rendered["image"]["Dockerfile.cpu"]  # what the operator's init container calls


def test_no_file_holds_a_key_or_a_certificate(rendered):
    for files in rendered.values():
        for name, text in files.items():
            assert not KEYS.search(text) and "-----BEGIN" not in text, name


def test_a_slurm_job_that_outlives_its_certificate_is_refused():
    with pytest.raises(ConfigError, match="cluster.deploy.slurm.time: '30-00:00:00': with cluster.tls"):
        render.render("slurm", described("slurm", "cluster.tls=true", "cluster.deploy.slurm.time=30-00:00:00"))
    assert render.render("slurm", described("slurm", "cluster.tls=true", "cluster.deploy.slurm.time=29-00:00:00"))


EXPORT = ' RAY_TLS_CA_CERT="$files/ca.crt"'
BY_HAND = [{"name": "RAY_USE_TLS", "value": "0"}]
PLANTED = [
    *(
        ("kuberay", file, drop(f"{path}tlsOptions"), {"no-tls"}, "tlsOptions.enabled")
        for file, path in CLUSTERS.items()
    ),
    (
        "kuberay",
        "rayjob-train.yaml",
        put("spec/rayClusterSpec/tlsOptions/enabled", False),
        {"no-tls"},
        "tlsOptions.enabled",
    ),
    (
        "kuberay",
        "rayjob-train.yaml",
        put("spec/rayClusterSpec/tlsOptions", {"enable": True}),
        {"unknown-key", "no-tls"},
        "tlsOptions.enable",
    ),
    (
        "kuberay",
        "raycluster.yaml",
        put("spec/headGroupSpec/template/spec/containers/0/env", BY_HAND),
        {"tls-by-hand"},
        "env.RAY_USE_TLS",
    ),
    ("slurm", "job.sbatch", replaced("tls=yes", "tls=no"), {"no-tls"}, "tls"),
    ("slurm", "job.sbatch", replaced("tls=yes", "tls=$(id)"), {"no-tls", "shell-metacharacters"}, "tls"),
    ("slurm", "job.sbatch", replaced(EXPORT, ""), {"no-tls"}, "RAY_TLS_CA_CERT"),
    ("slurm", "job.sbatch", replaced("RAY_USE_TLS=1 ", ""), {"no-tls"}, "RAY_TLS_SERVER_CERT"),
    (
        "slurm",
        "job.sbatch",
        replaced('"$python" -m cluster.tls', '"$python" -m cluster.tlss'),
        {"no-tls"},
        "cluster.tls",
    ),
    ("slurm", "job.sbatch", replaced("umask 077", "umask 022"), {"no-token"}, "RAY_AUTH_MODE"),
]


@pytest.mark.parametrize(
    "kind, file, change, names, key", PLANTED, ids=[f"{one[1]}-{number}" for number, one in enumerate(PLANTED)]
)
def test_a_planted_mistake_is_told_by_name(rendered, kind, file, change, names, key):
    files = dict(rendered[kind])
    assert problems_of(kind, files) == []
    if file.endswith(".yaml"):
        read = documents(files[file])
        change(next(document for document in read if document["kind"].startswith("Ray")))
        files[file] = yaml.safe_dump_all(read)
    else:
        files[file] = change(files[file])
    found = problems_of(kind, files)
    assert {problem.name for problem in found} == names, found
    assert any(key in problem.key and problem.file.startswith(file) for problem in found)


def test_a_private_key_in_a_file_is_told(rendered, tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "cluster.tls", str(tmp_path / "tls"), "192.0.2.7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    key = (tmp_path / "tls" / FILES["RAY_TLS_SERVER_KEY"]).read_text()
    files = rendered["kuberay"] | {"secret.yaml": json.dumps({"kind": "Secret", "data": key})}
    assert "secret-value" in {problem.name for problem in problems_of("kuberay", files)}


def test_rays_variables_are_called_as_ray_calls_them():
    import ray._common.tls_utils as rays_own

    source = Path(rays_own.__file__).read_text()
    assert all(f'"{name}"' in source for name in VARIABLES)
