"""The sbatch file of cluster/kinds/slurm.py, run with what stands in for Slurm and Ray; neither is here."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

from cryptography import x509

from cluster import render
from cluster.description import Description
from cluster.tls import FILES
from robust.config_file import load_config

ROOT = Path(__file__).resolve().parents[2]

STAND_INS = {
    "scontrol": "echo node1; echo node2",
    "srun": """
        while [[ $1 == --* ]]; do [[ $1 != --nodelist=* ]] || export NODE=${1#*=}; shift; done
        case $1 in mkdir | rm) echo "every node: $*" >> "$RECORD" ;; esac
        exec "$@" """,
    "hostname": "echo 192.0.2.7 192.0.2.8",
    "ray": """
        [ -z "$DIES" ] || exit 1  # a Ray that died is no node: those on record are counted as alive
        tls=${RAY_USE_TLS-no}
        [ "$tls" = no ] || cp -pr "${RAY_TLS_SERVER_KEY%/*}" "$RECORD-tls-$NODE"
        [ "$tls" = no ] || ls "$RAY_TLS_SERVER_CERT" "$RAY_TLS_CA_CERT" > /dev/null || exit 1
        told="auth=$RAY_AUTH_MODE token=$(stat -c %a "$RAY_AUTH_TOKEN_PATH") tmpdir=$RAY_TMPDIR tls=$tls"
        echo "$NODE $* $told" >> "$RECORD"
        exec sleep 30""",
    "python": """
        [[ $2 == cluster.tls ]] && PYTHONPATH=$CHECKOUT exec "$PYTHON" "$@"
        if [[ $1 == -m ]]; then
            trap 'echo "job stopped" >> "$RECORD"; kill $!; exit 1' TERM
            sleep "$LASTS" & echo "job $*" >> "$RECORD"
            wait; exit "$RESULT"
        fi
        [[ $2 == *secrets* ]] && echo -n 0123 || grep -c 'start --block' "$RECORD" """,
}


def started(folder: Path, *settings: str, **environment: str) -> subprocess.Popen:
    commands = folder / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, body in STAND_INS.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(stat.S_IRWXU)
    overrides = [f"cluster.deploy.slurm.folder={folder}", "cluster.deploy.slurm.stage=train", *settings]
    render.write(folder, render.render("slurm", Description(load_config(ROOT / "ray_config.yaml", overrides))))
    variables = {"SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]"}
    stand_ins = {"RECORD": str(folder / "record"), "RESULT": "0", "DIES": "", "LASTS": "0"}
    real = {"CHECKOUT": str(ROOT), "PYTHON": sys.executable}
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "job.sbatch"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": path, **variables, **stand_ins, **real, **environment},
    )


def ports(started: str) -> list[int]:
    """The ports that a `ray start` was given; 0, any that is free, left out."""
    return [int(port) for port in re.findall(r"(?:port=|:)(\d+)", started) if port != "0"]


def ended(batch: subprocess.Popen) -> str:
    """What it said on stderr."""
    return batch.communicate(timeout=60)[1]


def test_the_sbatch_file_starts_ray_on_every_node_and_ends_as_its_job_does(tmp_path):
    began = time.monotonic()
    batch = started(tmp_path, RESULT="3")
    told = ended(batch)
    assert batch.returncode == 3, told
    made, head, worker, job, removed = (tmp_path / "record").read_text().splitlines()
    assert (
        head.startswith("node1 start --block")
        and "--head --node-ip-address=192.0.2.7 --port=22385 --dashboard-host=127.0.0.1" in head
    )
    assert (
        worker.startswith("node2 start --block")
        and "--address=192.0.2.7:22385" in worker
        and "--num-cpus=16 --num-gpus=1" in worker
    )
    assert all("auth=token token=600" in line and line.endswith(" tls=no") for line in (head, worker))
    own = ports(head) + ports(worker)[1:]  # the worker's first is the head's, which it joins
    assert sorted(set(own)) == list(range(22385, 22390)), own  # none that another job's Ray would take
    folder = made.removeprefix("every node: mkdir -m 700 ")
    assert folder.startswith("/tmp/ray-77-") and removed == f"every node: rm -rf {folder}" and not Path(folder).exists()
    assert f"tmpdir={folder}" in head and f"tmpdir={folder}" in worker
    assert job == f"job -m jobs.train --config {tmp_path}/ray_config.yaml"
    assert (
        not list((tmp_path / "outputs").glob("slurm-77-*/token")) and time.monotonic() - began < 25
    )  # the steps were ended, not waited for


def test_with_tls_every_node_has_the_jobs_certificate_and_nothing_of_it_stays(tmp_path):
    batch = started(tmp_path, "cluster.tls=true")
    told = ended(batch)
    assert batch.returncode == 0, told
    record = (tmp_path / "record").read_text().splitlines()
    assert [line.partition(" ")[0] for line in record if line.endswith("tls=1")] == ["node1", "node2"], record
    for node in ("node1", "node2"):
        kept = tmp_path / f"record-tls-{node}"  # what the stand-in for Ray could read when it started
        modes = {path.name: path.stat().st_mode & 0o777 for path in kept.iterdir()}
        assert modes == dict.fromkeys(FILES.values(), 0o600)
        assert kept.stat().st_mode & 0o777 == 0o700
        certificate = x509.load_pem_x509_certificate((kept / "tls.crt").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert {"192.0.2.7", "192.0.2.8", "127.0.0.1"} == {str(ip) for ip in names.get_values_for_type(x509.IPAddress)}
    log = (tmp_path / "outputs").rglob("*")
    assert not [path for path in log if path.is_file()] and "PRIVATE" not in told


def test_without_certificates_no_ray_is_started(tmp_path):
    batch = started(tmp_path, "cluster.tls=true", PYTHON="/bin/false")
    ended(batch)
    assert batch.returncode != 0 and " start " not in (tmp_path / "record").read_text()


def test_the_sbatch_file_ends_when_ray_dies(tmp_path):
    batch = started(tmp_path, DIES="1")
    told = ended(batch)
    assert batch.returncode == 1 and "Ray ended on a node" in told
    assert "job" not in (tmp_path / "record").read_text() and "rm -rf /tmp/ray-77-" in (tmp_path / "record").read_text()


def test_before_the_time_limit_the_job_is_asked_to_stop_and_the_rest_goes(tmp_path):
    batch, record = started(tmp_path, LASTS="30"), tmp_path / "record"
    while not record.exists() or "job -m" not in record.read_text():
        assert batch.poll() is None
        time.sleep(0.1)
    began = time.monotonic()
    batch.terminate()  # as Slurm does for --signal=B:TERM
    told = ended(batch)
    assert batch.returncode == 143, told
    assert "job stopped\nevery node: rm -rf /tmp/ray-77-" in record.read_text() and time.monotonic() - began < 10
    assert not list((tmp_path / "outputs").glob("slurm-77-*/token"))
