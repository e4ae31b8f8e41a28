"""S3 storage behind a proxy that loses, cuts, refuses and delays requests to a real server."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow
import pytest
from fault_proxy import share

from robust.errors import UserError
from robust.object_stores import retry
from robust.object_stores.s3 import MULTIPART_BYTES
from robust.storage import Storage

FAULTS = ("slow_down", "internal", "reset", "lost", "cut", "delay")


@pytest.fixture
def faulty(s3, proxy, monkeypatch) -> Storage:
    """A storage that is reached through the proxy. Waits are a tenth of the usual ones, to save the tests' time."""
    monkeypatch.setattr(retry, "BASE_S", retry.BASE_S / 10)
    return Storage.from_config(
        s3.model_copy(update={"endpoint_url": proxy.url, "max_attempts": 12, "retry_budget_s": 60})
    )


def use(storage: Storage, n: int) -> list[str]:
    """Writes, reads, lists and deletes some objects below the folder `n`; what went wrong."""
    wrong, data = [], os.urandom(3000)
    storage.write_bytes(f"{n}/a", data)
    storage.write_bytes(f"{n}/b", data)
    if not storage.write_bytes(f"{n}/lock", b"same for all", if_absent=True):
        wrong.append("the first conditional write lost")
    if storage.write_bytes(f"{n}/lock", b"same for all", if_absent=True):
        wrong.append("the second conditional write won")
    if storage.read_bytes(f"{n}/a") != data:
        wrong.append("read")
    storage.delete(f"{n}/b")
    if storage.exists(f"{n}/b") or not storage.exists(f"{n}/a") or storage.list(str(n)) != [f"{n}/a", f"{n}/lock"]:
        wrong.append("list")
    return wrong


@pytest.mark.parametrize("fraction", [0.05, 0.3])
def test_what_is_written_and_read_is_right_whatever_fails(faulty, proxy, s3, fraction):
    proxy.choose = share(fraction, FAULTS)
    with ThreadPoolExecutor(4) as pool:
        wrong = list(pool.map(lambda n: use(faulty, n), range(16)))
    assert not any(wrong)
    failed = [request.fault for request in proxy.seen if request.fault]
    assert set(failed) == set(FAULTS) and len(failed) / len(proxy.seen) == pytest.approx(fraction, rel=0.6)
    proxy.choose = lambda request: None
    assert len(Storage.from_config(s3).list()) == 32


def test_big_objects_arrive_whole_in_parts(faulty, proxy, tmp_path):
    proxy.choose = share(0.3, FAULTS, seed=1)
    data = os.urandom(1 << 20) * (2 * MULTIPART_BYTES // (1 << 20)) + b"tail"
    faulty.write_bytes("big", data)
    assert any("partNumber=" in request.path and request.fault for request in proxy.seen)
    faulty.download("big", tmp_path / "copy")
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).digest() == hashlib.sha256(data).digest()
    assert faulty.read_bytes("big") == data


def test_parquet_columns_are_right_through_pyarrow(faulty, proxy):
    table = pyarrow.table({"video": [f"v{n}" for n in range(5000)], "score": [n / 7 for n in range(5000)]})
    faulty.write_table("t", table)
    faults = iter([None, "reset", "cut"])  # pyarrow waits about a second after each
    proxy.choose, first = lambda request: next(faults, None), len(proxy.seen)
    assert faulty.read_table("t", columns=["score"]).equals(table.select(["score"]))
    assert [request.fault for request in proxy.seen[first : first + 3]] == [None, "reset", "cut"]


def test_a_body_that_was_cut_is_continued_and_not_begun_again(faulty, proxy):
    data = os.urandom(2_000_000)
    faulty.write_bytes("a", data)
    cuts = iter(["cut", "cut", "cut"])
    proxy.choose, first = lambda request: next(cuts, None), len(proxy.seen)
    assert faulty.read_bytes("a") == data
    assert [request.header("range") for request in proxy.seen[first:]] == [
        None,
        "bytes=1000000-",
        "bytes=1500000-",
        "bytes=1750000-",
    ]


@pytest.mark.parametrize("size", [2_000_000, 500_000])
def test_a_body_is_not_continued_with_another_object(faulty, proxy, s3, size):
    old, new = b"o" * 2_000_000, b"n" * size  # cut after 1,000,000
    faulty.write_bytes("a", old)

    def replace_behind_the_first(request):
        if request.method != "GET":
            return None
        if request.header("range"):
            return None
        if not any(earlier.fault for earlier in proxy.seen):
            return "cut"
        return None

    proxy.choose = replace_behind_the_first
    original = proxy._forward

    def forward(request):
        answer = original(request)
        if request.fault == "cut":
            Storage.from_config(s3).write_bytes("a", new)
        return answer

    proxy._forward = forward
    assert faulty.read_bytes("a") == new


def test_what_was_damaged_is_never_taken_for_the_object(faulty, proxy, s3):
    faulty.write_bytes("a", b"x" * 1000)
    original, flipped = proxy._forward, []

    def flip(request):
        answer = original(request)
        return answer[:-1] + b"!" if request.method == "GET" and (not flipped or flipped[-1]) else answer

    proxy._forward = flip
    flipped.append(True)
    with pytest.raises(UserError, match=r"a does not have the SHA-256 that it was written with"):
        Storage.from_config(faulty.config.model_copy(update={"max_attempts": 2})).read_bytes("a")
    flipped.append(False)
    assert faulty.read_bytes("a") == b"x" * 1000


@pytest.mark.parametrize("fault", ["lost", "cut", "delay"])
def test_a_conditional_write_whose_answer_was_lost_is_no_conflict_with_itself(faulty, proxy, fault):
    storage = Storage.from_config(faulty.config.model_copy(update={"read_timeout_s": 0.2}))
    storage.write_bytes("other", b"", if_absent=True)  # the store's ways are known by now
    first = len(proxy.seen)
    proxy.choose = lambda request: "lost" if fault == "cut" else fault if len(proxy.seen) == first else None
    if fault == "cut":  # every answer to a PUT is lost but the fourth
        proxy.choose = lambda request: "lost" if request.method == "PUT" and len(proxy.seen) < first + 3 else None
    assert storage.write_bytes("lock", b"same for all", if_absent=True) is True
    assert proxy.seen[first].fault is not None and sum(request.method == "PUT" for request in proxy.seen[first:]) > 1
    proxy.choose = lambda request: (
        "lost" if request.method == "PUT" and not any(r.fault for r in proxy.seen[then:]) else None
    )
    then = len(proxy.seen)
    assert storage.write_bytes("lock", b"same for all", if_absent=True) is False


def test_an_upload_whose_last_answer_was_lost_succeeded(faulty, proxy):
    data = b"x" * (MULTIPART_BYTES + 1)

    def lose_the_completion(request):
        is_completion = request.method == "POST" and "uploadId=" in request.path
        return "lost" if is_completion and not any(earlier.fault for earlier in proxy.seen) else None

    proxy.choose = lose_the_completion
    faulty.write_bytes("big", data)
    assert any(request.fault == "lost" for request in proxy.seen)
    proxy.choose = lambda request: None
    assert faulty.read_bytes("big") == data


@pytest.mark.parametrize(
    "fault, told",
    [
        (
            "slow_down",
            r"s3:PutObject on s3://.*/prefix/a at http://127.*: SlowDown, after \d+ tries of at most 100 in 1 s",
        ),
        ("reset", r"cannot reach http://127.*/prefix/a \(\w+, at most 100 tries in 1 s\)"),
        ("lost", r"cannot reach http://127.*/prefix/a \(\w+, at most 100 tries in 1 s\)"),
    ],
)
def test_the_budget_of_seconds_ends_in_a_clear_error(faulty, proxy, fault, told):
    storage = Storage.from_config(faulty.config.model_copy(update={"max_attempts": 100, "retry_budget_s": 1}))
    proxy.choose = lambda request: fault
    began = time.monotonic()
    with pytest.raises(UserError, match=told):
        storage.write_bytes("a", b"x")
    assert time.monotonic() - began < 20 and 2 <= len(proxy.seen) < 30, "a hundred tries would take half an hour"


def test_the_number_of_tries_ends_too(faulty, proxy):
    storage = Storage.from_config(faulty.config.model_copy(update={"max_attempts": 3}))
    proxy.choose = lambda request: "internal"
    with pytest.raises(UserError, match="InternalError, after 3 tries of at most 3"):
        storage.read_bytes("a")
    assert len(proxy.seen) == 3
    proxy.choose = lambda request: "403 AccessDenied"
    with pytest.raises(UserError, match="access denied"):
        storage.read_bytes("a")
    assert len(proxy.seen) == 4, "a refusal is not asked again"


def test_waits_are_random_grow_and_stay_within_the_budget():
    waits = [[retry.next_wait(made, 0.0, max_attempts=99, budget_s=1e9) for _ in range(400)] for made in (1, 4, 30)]
    for drawn, longest in zip(waits, (retry.BASE_S, 8 * retry.BASE_S, retry.CAP_S), strict=True):
        assert 0 <= min(drawn) < 0.1 * longest and 0.9 * longest < max(drawn) <= longest
        assert sum(drawn) / 400 == pytest.approx(longest / 2, rel=0.15)
    assert retry.next_wait(5, 0.0, max_attempts=5, budget_s=60) is None
    assert retry.next_wait(1, 59.9, max_attempts=5, budget_s=60, asked_s=1) is None
    assert retry.next_wait(1, 0.0, max_attempts=5, budget_s=60, asked_s=7) == 7
