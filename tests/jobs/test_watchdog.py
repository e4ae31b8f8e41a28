"""jobs/watchdog.py: a process that stands still is ended and tells where it stood; one that works or waits between epochs is not."""

import subprocess
import sys
import threading

import pytest
from torch import nn

from jobs import watchdog
from jobs.watchdog import HUNG, Watchdog

PROGRAM = """
import ctypes, faulthandler, threading
from torch import nn, zeros
from jobs import watchdog

watchdog.POLL_S, watchdog.GRACE_S = 0.05, 0.05
armed, dump_traceback_later = threading.Event(), faulthandler.dump_traceback_later
faulthandler.dump_traceback_later = lambda *limit, **how: (dump_traceback_later(*limit, **how), armed.set())

def stands_still():
    {hang}

with watchdog.Watchdog(2, "train defended, worker 1") as dog:
    network = nn.Identity()
    dog.listen(network)
    for epoch in dog.over(range(3)):
        network(zeros(1))
    armed.wait()
    network(zeros(1))
    stands_still()
"""


def run(hang: str) -> tuple[int, str]:
    """Exit code and stderr of a process that hangs so; another than the watchdog would let it go on for a minute."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM.format(hang=hang)], capture_output=True, text=True, timeout=120)
    return ended.returncode, ended.stderr


def test_a_process_that_stands_still_tells_where_and_ends():
    code, told = run("threading.Event().wait(60)")
    assert code == HUNG and " in stands_still" in told
    last = told.splitlines()[-1]
    assert last.startswith("train defended, worker 1: no forward pass of the network for 2 s (train.hang_timeout_s)") and "raise train.hang_timeout_s" in last


def test_native_code_that_keeps_the_interpreter_lock_is_ended_too():
    code, told = run("ctypes.PyDLL(None).sleep(60)")
    assert code == 1 and told.startswith("Timeout (0:00:02)!") and " in stands_still" in told


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
    return now


def test_each_forward_pass_counts_and_what_is_done_between_epochs_does_not(clock):
    dog, network = Watchdog(10, "x"), nn.Identity()
    dog.listen(network)
    hung = []

    def wait(seconds: float) -> None:
        clock[0] += seconds
        hung.append(dog.hangs())

    def epochs():
        wait(1000)  # before the first pass: crops are read
        for _ in range(2):
            for _ in range(3):
                network(0)
                wait(9)
            yield
            wait(11)  # no pass since the last epoch was handed in

    for _ in dog.over(epochs()):
        wait(1000)  # the bucket, other workers
    wait(1000)
    assert hung == [False, *[False, False, False, False, True] * 2, False]


def watching() -> bool:
    return any(thread.name == "watchdog" for thread in threading.enumerate())


def test_none_watches_nothing():
    with Watchdog(None, "x") as dog:
        network = nn.Identity()
        dog.listen(network)
        assert [network(epoch) for epoch in dog.over(range(3))] == [0, 1, 2] and not watching()


def test_it_ends_with_the_work():
    with Watchdog(60, "x") as dog:
        dog.beat()
        assert watching()
    assert not watching()
