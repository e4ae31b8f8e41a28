"""Jobs through `ray job submit` to a real head with token authentication, storage on a real S3 server."""

import sys

import pytest
from head import Head

from robust.storage import Storage


@pytest.fixture
def head(s3_server, tmp_path):
    with Head(tmp_path, s3_server.environment) as head:
        yield head


@pytest.mark.cluster
@pytest.mark.head
def test_a_submitted_job_joins_the_cluster_and_writes_its_result(head, s3, tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    command = [sys.executable, "tests/cluster/trivial_job.py", "--config", str(tmp_path / "config.yaml"),
               f"storage.uri={s3.uri}", "cluster.address=auto", "run.name=submitted"]
    head.submit_command("trivial", ["env", "PYTHONPATH=.", *command])
    status = head.wait("trivial", timeout_s=240)
    log = head.client().get_job_logs("trivial")
    assert status == "SUCCEEDED", log
    assert log.splitlines()[-1] == "evaluate: hello"
    assert Storage.from_config(s3).read_json("submitted/evaluate/result.json")["status"] == "done"

    head.submit_command("bad", ["env", "PYTHONPATH=.", *command, "train.batch_size=1"])
    assert head.wait("bad", timeout_s=120) == "FAILED"
    assert "exit code 2" in head.client().get_job_info("bad").message
    assert "train.batch_size" in head.client().get_job_logs("bad").splitlines()[-1]

    without_token = {**head.environment, "RAY_AUTH_MODE": "disabled"}
    del without_token["RAY_AUTH_TOKEN_PATH"]
    refused = head.cli("list", environment=without_token)
    assert refused.returncode != 0 and "token" in (refused.stdout + refused.stderr).lower()
