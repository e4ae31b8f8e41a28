"""Where credentials come from, and that they go nowhere: profiles, roles, and a search for planted keys."""

import http.server
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
from datetime import datetime, timedelta, timezone

import pytest
from botocore.credentials import Credentials

from robust.config import StorageConfig
from robust.config_file import parse
from robust.config_identity import dump_yaml
from robust.errors import ConfigError, UserError
from robust.object_stores.kept import kept
from robust.object_stores.s3_client import connect, forget_connections, region_of
from robust.storage import Storage, open_input

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@pytest.fixture
def keys(s3, monkeypatch, tmp_path) -> dict[str, str]:
    """The server's keys, taken out of the environment; no file of the user's is read either."""
    keys = {name: os.environ[name] for name in KEYS[:2]}
    for name in keys:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return keys


def works(storage: Storage) -> bool:
    """Through boto3 and through pyarrow."""
    storage.write_bytes("a", b"x")
    filesystem, path = pickle.loads(pickle.dumps(storage)).arrow("a")
    return storage.read_bytes("a") == filesystem.open_input_file(path).read() == b"x"


def test_a_profile_is_found_by_boto3_and_by_pyarrow(s3, keys, tmp_path, monkeypatch):
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {keys['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = {keys['AWS_SECRET_ACCESS_KEY']}\n"
        "[other]\naws_access_key_id = OTHEROTHEROTHEROTHER\naws_secret_access_key = hunter2hunter2\n"
    )
    (tmp_path / "config").write_text("[profile lab]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "WRONGWRONGWRONGWRONG")  # a profile that is asked for comes before these
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    lab = s3.model_copy(update={"profile": "lab"})
    assert works(Storage(lab)) and region_of(lab) == "eu-north-1" and region_of(s3) == "us-east-1"
    with pytest.raises(
        UserError, match=r"key \.\.\.THER \(from the credentials file, profile other\) may not s3:ListBucket on s3://"
    ):
        Storage(s3.model_copy(update={"profile": "other"})).check()
    nobody = Storage(s3.model_copy(update={"profile": "nobody"}))
    for action in (nobody.check, nobody.arrow, lambda: nobody.write_bytes("a", b"")):
        with pytest.raises(UserError, match="no usable credentials .*nobody"):
            action()


@pytest.fixture
def role(keys, monkeypatch):
    """A role endpoint as containers on ECS and EKS have it: it hands out the server's keys for an hour."""
    hits = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.headers["Authorization"])
            expires = datetime.now(timezone.utc) + timedelta(hours=1)
            body = json.dumps(
                {
                    "AccessKeyId": keys["AWS_ACCESS_KEY_ID"],
                    "SecretAccessKey": keys["AWS_SECRET_ACCESS_KEY"],
                    "Token": "",
                    "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.server_port}/role")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "planted-token")
        yield hits
        server.shutdown()


def test_a_role_is_found_by_boto3_and_by_pyarrow(s3, role):
    storage = Storage(s3)
    assert works(storage)
    boto = len(role)
    Storage(s3).list()
    assert "the container's role" in connect(s3).identity() and set(role) == {"planted-token"} and len(role) == boto


def test_one_client_serves_all_storages_of_a_process_and_no_other(s3):
    other = s3.model_copy(update={"uri": f"{s3.uri}/below"})
    assert connect(s3) is connect(other) is connect(pickle.loads(pickle.dumps(Storage(s3))).config)
    assert connect(s3) is not connect(s3.model_copy(update={"max_attempts": 9}))
    mine, plain = connect(s3), kept(lambda config: object())
    inherited = plain(s3)
    child = os.fork()
    if child == 0:
        os._exit(0 if connect(s3) is not mine and plain(s3) is not inherited else 1)
    assert plain(s3) is inherited
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_one_filesystem_serves_all_storages_of_a_process(s3, monkeypatch, tmp_path):
    def filesystem(**settings):
        return Storage(s3.model_copy(update=settings)).arrow("a")[0]

    mine = filesystem()
    assert mine is filesystem(uri=f"{s3.uri}/below") is pickle.loads(pickle.dumps(mine))
    Storage(s3).write_bytes("a", b"1")
    assert open_input(f"{s3.uri}/a", s3)[0] is mine
    assert filesystem(max_attempts=9) is not mine
    (tmp_path / "credentials").write_text("[own]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert filesystem() is not mine  # other credentials, maybe
    of_profile = filesystem(profile="own")
    assert of_profile is filesystem(profile="own") is not mine
    connection = connect(s3.model_copy(update={"profile": "own"}))
    monkeypatch.setattr(connection.session, "get_credentials", lambda: Credentials("a", "renewed"))
    assert filesystem(profile="own") is not of_profile  # pyarrow could not renew what the profile gave it


PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTED00",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+0123456789",
    "AWS_SESSION_TOKEN": "planted-session",
}


def planted_in(text: str | bytes) -> list[str]:
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    return [name for name, value in PLANTED.items() if value in text]


@pytest.fixture
def planted(monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    for name in ("botocore", "boto3", "urllib3", "s3transfer"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    forget_connections()


def test_planted_keys_are_in_no_dump_log_traceback_or_pickle(s3, planted, caplog):
    config = parse({"storage": s3.model_dump()})
    storage = Storage(config.storage)
    unreachable = Storage(s3.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "max_attempts": 1}))
    with caplog.at_level(logging.DEBUG):
        for action in (
            unreachable.check,
            storage.check,
            lambda: storage.read_bytes("a"),
            lambda: storage.write_bytes("a", b"x", if_absent=True),
            lambda: storage.read_table("a", columns=["x"]),
            lambda: storage.delete("a"),
        ):
            with pytest.raises(UserError) as refused:
                action()
            told = "".join(traceback.TracebackException.from_exception(refused.value, capture_locals=True).format())
            assert planted_in(str(refused.value)) == planted_in(told) == []
            assert planted_in(pickle.dumps(UserError(*refused.value.args))) == []
    kept = (
        dump_yaml(config),
        repr(storage),
        repr(vars(storage)),
        repr(vars(storage._objects)),
        repr(connect(s3)),
        repr(storage.arrow()),
        pickle.dumps((storage, storage.arrow())),
        caplog.text,
    )
    assert [planted_in(text) for text in kept] == [[]] * len(kept)


def test_planted_keys_are_in_nothing_that_a_job_prints():
    program = "import sys; from jobs.cli import run_job; sys.exit(run_job('trial', None, needs_ray=False))"
    job = [
        sys.executable,
        "-c",
        program,
        "--traceback",
        "storage.uri=s3://bucket/p",
        "storage.endpoint_url=http://127.0.0.1:9",
        "storage.max_attempts=1",
        "cluster.address=local",
    ]
    environment = {**os.environ, **PLANTED, "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(job, env=environment, capture_output=True, check=False)
    assert done.returncode == 1 and b"cannot reach http://127.0.0.1:9" in done.stderr + done.stdout
    assert planted_in(done.stdout + done.stderr) == []


@pytest.mark.parametrize(
    "settings, key",
    [
        ({"storage": {"uri": "s3://key:hunter2@bucket/p"}}, "storage.uri"),
        ({"storage": {"uri": "s3://b", "endpoint_url": "https://me:hunter2@host"}}, "storage.endpoint_url"),
        ({"data": {"datasets": [{"layout": "folder", "uri": "s3://k:hunter2@b/v"}]}}, "data.datasets"),
        ({"detect": {"input": "https://b.s3.amazonaws.com/v.mp4?X-Amz-Signature=hunter2"}}, "detect.input"),
    ],
)
def test_addresses_with_credentials_are_refused_by_their_key_and_not_repeated(settings, key):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")) as refused:
        parse(settings)
    assert "hunter2" not in str(refused.value)


def test_a_config_has_no_key_for_a_secret():
    with pytest.raises(ConfigError, match="storage.secret_key: unknown key") as refused:
        parse({"storage": {"secret_key": "hunter2"}})
    assert "hunter2" not in str(refused.value)
    assert not {"secret", "password", "token", "access_key"} & set(StorageConfig.model_fields)
