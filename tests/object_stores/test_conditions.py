"""Conditional writes where a store honours If-None-Match, refuses it, or takes it and overwrites all the same."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from robust.object_stores import claims
from robust.object_stores.s3_client import connect
from robust.storage import Storage


@pytest.fixture
def ignorant(s3, s3_server, proxy):
    """The real server as one that does not know If-None-Match: the field is taken out and the request signed again."""
    keys = Credentials(s3_server.keys["access_key"], s3_server.keys["secret_key"])

    def without_condition(request):
        if request.header("if-none-match") is None:
            return request
        kept = {
            name: value for name, value in request.headers if name.lower() not in ("if-none-match", "authorization")
        }
        signed = AWSRequest(request.method, proxy.url + request.path, data=request.body, headers=kept)
        S3SigV4Auth(keys, "s3", "us-east-1").add_auth(signed)
        return dataclasses.replace(request, headers=list(signed.headers.items()))

    proxy.change = without_condition
    return Storage(s3.model_copy(update={"endpoint_url": proxy.url, "checksums": "md5"}))


def refuse_conditions(request):
    return "501 NotImplemented" if request.header("if-none-match") else None


def race(storage: Storage, writers: int) -> list[int]:
    """Which of many writers at once are told that they won."""
    start = threading.Barrier(writers)

    def write(writer: int) -> bool:
        start.wait()
        return storage.write_bytes("lock", b"%d" % writer, if_absent=True)

    with ThreadPoolExecutor(writers) as pool:
        return [writer for writer, won in enumerate(pool.map(write, range(writers))) if won]


def conditions_of(storage: Storage) -> list[bool]:
    return list(connect(storage.config).conditional.values())


@pytest.mark.parametrize("refuses", [False, True])
def test_exactly_one_wins_on_a_store_without_conditional_writes(ignorant, proxy, refuses):
    if refuses:
        proxy.choose = refuse_conditions
    winners = race(ignorant, 5)
    assert len(winners) == 1 and ignorant.read_bytes("lock") == b"%d" % winners[0]
    assert ignorant.write_bytes("lock", b"late", if_absent=True) is False
    assert conditions_of(ignorant) == [False]
    assert ignorant.list() == ["lock"], "claims and the probe are no objects of a user"
    assert [key for key in ignorant._objects.list_times("") if key.startswith(claims.CLAIMS)] == []


def test_the_proxy_does_take_the_condition_away(ignorant):
    put = ignorant._objects.client.put_object
    for _ in range(2):
        put(Bucket=ignorant._objects.bucket, Key="x", Body=b"", IfNoneMatch="*")


def test_a_real_server_is_found_to_honour_them_and_is_asked_once(s3, proxy):
    storage = Storage(s3.model_copy(update={"endpoint_url": proxy.url}))
    assert storage.write_bytes("a", b"1", if_absent=True) and not storage.write_bytes("a", b"1", if_absent=True)
    assert storage.write_bytes("b", b"1", if_absent=True)
    assert sum(request.path.endswith("/.conditional-write") for request in proxy.seen) == 2
    assert conditions_of(storage) == [True] and storage.list() == ["a", "b"]


def test_two_writers_of_the_same_bytes_do_not_both_win(s3):
    """Known by the writer's name, not by the content."""
    storage = Storage(s3)
    assert [storage.write_bytes("lock", b"same", if_absent=True) for _ in range(2)] == [True, False]


class SlowStore:
    """A store in memory, with its own clock."""

    def __init__(self, clock):
        self.objects, self.clock = {}, clock

    def exists(self, key):
        return key in self.objects

    def write(self, key, data, if_absent):
        self.objects[key] = self.clock(), data
        return True

    def delete(self, keys):
        for key in keys:
            self.objects.pop(key, None)

    def list_times(self, folder):
        return {key: written for key, (written, _) in self.objects.items() if key.startswith(f"{folder}/")}


def test_a_dead_writers_claim_holds_for_a_while_and_no_longer(local_storage, monkeypatch):
    from datetime import datetime, timezone

    now = [datetime(2026, 1, 1, tzinfo=timezone.utc)]
    store = SlowStore(lambda: now[0])
    monkeypatch.setattr(claims.time, "sleep", lambda _: now.__setitem__(0, now[0] + timedelta(seconds=30)))
    folder = claims.claims_of("lock")
    store.write(f"{folder}/dead", b"", False)
    assert claims.write_claimed(store, "lock", b"mine", budget_s=20) is True
    waited = (now[0] - datetime(2026, 1, 1, tzinfo=timezone.utc)).total_seconds()
    assert 120 < waited <= 180 and store.objects["lock"][1] == b"mine"
