"""robust/storage.py on a local folder and on a real S3 server: the same tests for both, then what only one has."""

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow
import pyarrow.fs
import pyarrow.parquet
import pytest

from robust.config import StorageConfig
from robust.errors import ConfigError, UserError
from robust.object_stores.address import endpoint_url
from robust.object_stores.s3 import MULTIPART_BYTES
from robust.storage import MissingObject, Storage, open_input


def test_bytes_and_json_come_back(storage):
    assert storage.write_bytes("a/b c/ü.bin", b"\0\1") is True
    storage.write_json("a/x.json", {"auc": 0.5, "name": "ü"})
    assert storage.read_bytes("a/b c/ü.bin") == b"\0\1"
    assert storage.read_json("a/x.json") == {"auc": 0.5, "name": "ü"}
    storage.write_bytes("a/x.json", b"{")
    with pytest.raises(UserError, match="a/x.json is not valid JSON"):
        storage.read_json("a/x.json")


def test_a_missing_object_is_told_by_its_full_address(storage):
    assert not storage.exists("a/none")
    with pytest.raises(MissingObject) as told:
        storage.read_bytes("a/none")
    assert storage.uri("a/none") in str(told.value)
    for read in (lambda: storage.read_table("a/none"), lambda: storage.read_table("a/none", columns=["x"])):
        with pytest.raises(MissingObject):
            read()


def test_list_is_recursive_sorted_and_by_folder(storage):
    for key in ("run/z", "run/faces/b", "run/faces/a/1", "run/faces2/c", "running", "top"):
        storage.write_bytes(key, b"x")
    assert storage.list("run/faces") == ["run/faces/a/1", "run/faces/b"]
    assert storage.list("run/faces/") == storage.list("run/faces")
    assert storage.list() == ["run/faces/a/1", "run/faces/b", "run/faces2/c", "run/z", "running", "top"]
    assert storage.list("nothing") == []


def test_list_has_more_than_one_page(s3):
    storage = Storage.from_config(s3)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: storage.write_bytes(f"many/{n:04d}", b""), range(1005)))
    requests = []
    storage._objects.client.meta.events.register("before-send.s3", lambda request, **_: requests.append(request.method))
    assert storage.list("many") == [f"many/{n:04d}" for n in range(1005)]
    assert requests == ["GET"] * 2, "a thousand keys a request"
    storage.delete_prefix("many")
    assert requests == ["GET"] * 4 + ["POST"] * 2
    assert storage.list() == []


def test_delete(storage):
    for key in ("run/a", "run/b/c", "run2/d"):
        storage.write_bytes(key, b"x")
    storage.delete("run/a")
    storage.delete("run/a")
    assert storage.exists("run/b/c") and not storage.exists("run/a")
    storage.delete_prefix("run")
    assert storage.list() == ["run2/d"]
    with pytest.raises(ValueError, match="whole storage"):
        storage.delete_prefix("")


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../../b", "."])
def test_keys_stay_below_the_root(storage, key):
    with pytest.raises(ValueError, match="bad storage key"):
        storage.write_bytes(key, b"x")


def test_if_absent_keeps_what_is_there(storage):
    assert storage.write_bytes("config", b"first", if_absent=True) is True
    assert storage.write_bytes("config", b"second", if_absent=True) is False
    assert storage.read_bytes("config") == b"first"


def test_of_many_writers_if_absent_exactly_one_wins(storage):
    start = threading.Barrier(12)

    def write(writer: int) -> bool:
        start.wait()
        return storage.write_bytes("lock", b"%d" % writer, if_absent=True)

    with ThreadPoolExecutor(12) as pool:
        won = list(pool.map(write, range(12)))
    assert won.count(True) == 1
    assert storage.read_bytes("lock") == b"%d" % won.index(True)


def test_readers_never_see_a_part_of_a_write(storage):
    versions = [bytes([n]) * 300_000 for n in range(12)]
    storage.write_bytes("x", versions[0])
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [storage.write_bytes("x", version) for version in versions])
        seen = []
        while not writing.done():
            seen.append(storage.read_bytes("x"))
    assert all(data in versions for data in seen) and seen
    assert storage.list() == ["x"]


def test_big_objects_go_in_parts_and_come_back(storage, tmp_path):
    data = os.urandom(2**20) * (MULTIPART_BYTES // 2**20 * 2 + 1)
    (tmp_path / "big").write_bytes(data)
    storage.upload(tmp_path / "big", "file")
    storage.write_bytes("bytes", data)
    storage.download("file", tmp_path / "new folder" / "copy")
    assert (tmp_path / "new folder" / "copy").read_bytes() == data
    assert storage.read_bytes("bytes") == data
    with pytest.raises(MissingObject):
        storage.download("none", tmp_path / "none")
    assert not (tmp_path / "none").exists() and not list(tmp_path.rglob("*.partial"))
    with pytest.raises(MissingObject, match="gone"):
        storage.upload(tmp_path / "gone", "x")


def test_tables_come_back_whole_and_by_column(storage):
    table = pyarrow.table({"dataset": ["a", "b"], "image": [b"\0" * 10, b"\1"], "label": pyarrow.array([0, 1], "int8")})
    storage.write_table("dataset=a/t.parquet", table)
    assert storage.read_table("dataset=a/t.parquet").equals(table)
    assert storage.read_table("dataset=a/t.parquet", columns=["label"]).equals(table.select(["label"]))
    storage.write_bytes("broken", b"not parquet at all")
    with pytest.raises(UserError, match="broken is not a readable Parquet file"):
        storage.read_table("broken")


def test_arrow_sees_the_same_objects(storage):
    storage.write_bytes("run/a/1", b"x")
    filesystem, path = storage.arrow("run")
    with filesystem.open_output_stream(f"{path}/2") as stream:
        stream.write(b"from arrow")
    assert storage.read_bytes("run/2") == b"from arrow"
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    assert sorted(info.path for info in found if info.is_file) == [f"{path}/2", f"{path}/a/1"]


def test_a_pickled_storage_works_and_holds_no_credentials(storage):
    storage.write_bytes("a", b"x")  # the client exists by now
    pickled = pickle.dumps((storage, storage.arrow("a")))
    text = repr(storage) + str(vars(storage)) + repr(vars(storage._objects))
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        secret = os.environ.get(name)
        assert secret is None or (secret.encode() not in pickled and secret not in text)
    copy, (filesystem, path) = pickle.loads(pickled)
    assert copy.read_bytes("a") == b"x"
    assert filesystem.open_input_file(path).read() == b"x"
    assert type(filesystem) is type(storage.arrow()[0])


def test_open_input_reads_a_data_set_and_names_a_missing_one(storage):
    storage.write_bytes("celeb/list.txt", b"x")
    filesystem, path = open_input(storage.uri("celeb"), storage.config)
    assert filesystem.open_input_file(f"{path}/list.txt").read() == b"x"
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_input(storage.uri("nowhere"), storage.config)


# ------------------------------------------------------------------------------------------------ local only


def test_local_files_of_writes_cut_short_are_not_objects(local_storage, tmp_path):
    local_storage.write_bytes("a", b"x")
    (tmp_path / "storage" / ".a.0123.partial").write_bytes(b"half")
    assert local_storage.list() == ["a"]


def test_local_errors_are_one_clear_sentence(local_storage, tmp_path):
    (tmp_path / "storage").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write .*storage/a: .*check the folder's permissions"):
        local_storage.write_bytes("a", b"x")
    with pytest.raises(UserError, match="cannot create .*storage"):
        local_storage.check()


def test_a_relative_folder_stays_the_same_from_another_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = Storage.from_config(StorageConfig(uri="outputs/storage"))
    storage.write_bytes("a", b"x")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(pickle.dumps(storage)).read_bytes("a") == b"x"


# ------------------------------------------------------------------------------------------------ S3 only


def every_action(storage: Storage) -> list:
    return [storage.check, lambda: storage.read_bytes("a"), lambda: storage.write_bytes("a", b"x"), storage.list,
            lambda: storage.exists("a"), lambda: storage.read_table("a", columns=["x"]),
            lambda: open_input(storage.uri("a"), storage.config)]


def test_wrong_keys_are_refused_without_telling_them(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-0123456789")
    storage = Storage.from_config(s3)
    for action in every_action(storage):
        with pytest.raises(UserError) as told:
            action()
        assert "denied" in str(told.value) and storage.uri("") in f"{told.value}/"
        assert "wrong-secret" not in str(told.value)
    with pytest.raises(UserError, match=r"s3:ListBucket on s3://.*SignatureDoesNotMatch"):
        storage.check()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "UNKNOWN")
    with pytest.raises(UserError, match=r"s3:PutObject on s3://.*/prefix/a .*InvalidAccessKeyId"):
        Storage.from_config(s3).write_bytes("a", b"x")


def test_no_credentials(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(UserError, match="no usable credentials .* AWS_ACCESS_KEY_ID"):
        Storage.from_config(s3).check()


def test_a_missing_bucket_is_named(s3):
    storage = Storage.from_config(s3.model_copy(update={"uri": "s3://no-such-bucket/prefix"}))
    with pytest.raises(UserError, match="there is no bucket 'no-such-bucket' at http://127.0.0.1"):
        storage.check()
    with pytest.raises(UserError, match="no bucket 'no-such-bucket'"):
        storage.list("a")


def test_a_refused_connection_names_the_endpoint(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    storage = Storage.from_config(s3.model_copy(update={"max_attempts": 2}))
    for action in every_action(storage):
        with pytest.raises(UserError, match="127.0.0.1:9"):
            action()


def test_if_absent_after_a_lost_answer_knows_its_own_object(s3, monkeypatch):
    storage = Storage.from_config(s3)
    client = storage._objects.client
    monkeypatch.setattr(client, "put_object", _answer_lost(client.put_object))
    assert storage.write_bytes("lock", b"mine", if_absent=True) is True
    storage.write_bytes("taken", b"theirs")
    assert storage.write_bytes("taken", b"mine", if_absent=True) is False


def _answer_lost(put_object):
    """put_object whose conditional write reaches the server, is answered, and is sent again by the client."""

    def put(**arguments):
        if "IfNoneMatch" not in arguments:
            return put_object(**arguments)
        from botocore.exceptions import ClientError

        try:
            put_object(**arguments)
            return put_object(**arguments)
        except ClientError as error:
            error.response["ResponseMetadata"]["RetryAttempts"] = 1
            raise

    return put


def test_the_endpoint_comes_from_the_config_then_the_environment(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    assert endpoint_url(StorageConfig(uri="s3://b/p")) is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert endpoint_url(StorageConfig(uri="s3://b/p")) == "http://127.0.0.1:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2/")
    assert endpoint_url(StorageConfig(uri="s3://b/p")) == "http://127.0.0.1:2"
    assert endpoint_url(StorageConfig(uri="s3://b/p", endpoint_url="https://s3.example")) == "https://s3.example"


@pytest.mark.parametrize("settings", [
    {"uri": "s3://key:hunter2@bucket/p"}, {"uri": "s3://bucket", "endpoint_url": "http://me:hunter2@host"},
    {"uri": "s3://"}, {"uri": ""}, {"uri": "ftp://bucket"}, {"uri": "gs://"}, {"uri": "gs://me:hunter2@bucket"},
    {"uri": "file://host/a"}, {"uri": "s3://bucket", "endpoint_url": "host:9000"},
])
def test_bad_addresses_are_refused_without_repeating_secrets(settings):
    with pytest.raises(ConfigError) as told:
        Storage.from_config(StorageConfig(**settings)).check()
    assert "hunter2" not in str(told.value)
