"""Ends a worker that hangs, so that Ray starts it again from its last checkpoint: Ray notices a process that is gone, and none that stands still."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import nn

HUNG = 86
"""Exit code of a process that was ended here."""
POLL_S = 1.0
GRACE_S = 5.0
"""From telling to the end: workers that wait for each other find out together, and each is to tell where it stands."""
STDERR = 2  # not sys.stderr: the thread that hangs may hold its lock

Item = TypeVar("Item")


class Watchdog:
    """Ends this process where the network's next forward pass does not come in time.

    Everything that a training computes goes through forward passes: steps, attacks and validation. What it does between two
    epochs, which is to wait for the bucket and for other workers, has limits of its own and is not watched, nor is what
    comes before the first pass.

    Args:
        limit_s: seconds from one pass to the next; None: nothing is watched.
        who: of the message.
    """

    def __init__(self, limit_s: float | None, who: str):
        self.limit_s, self.who = limit_s, who
        self._last: float | None = None  # pass, on a clock that stands still while the machine is suspended; None: not watched now
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self.limit_s is not None:
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        if self.limit_s is not None:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def listen(self, network: nn.Module) -> None:
        """Hears of each forward pass of the network and of its copies."""
        network.register_forward_pre_hook(lambda *_: self.beat())

    def beat(self) -> None:
        self._last = time.monotonic()

    def over(self, epochs: Iterable[Item]) -> Iterator[Item]:
        """The epochs, watched while they are made and not while the caller has one."""
        for epoch in epochs:
            self._last = None
            yield epoch
            self.beat()
        self._last = None

    def hangs(self) -> bool:
        last = self._last
        return last is not None and time.monotonic() - last > self.limit_s

    def _watch(self) -> None:
        while not self._over.wait(POLL_S):
            # Native code that keeps the interpreter lock keeps this thread waiting, too: then this ends the process, from a thread without it.
            faulthandler.dump_traceback_later(self.limit_s, exit=True, file=STDERR)
            if self.hangs():
                self._end()

    def _end(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        faulthandler.dump_traceback(STDERR)
        os.write(STDERR, (f"{self.who}: no forward pass of the network for {self.limit_s:g} s (train.hang_timeout_s), so this process is taken to hang and ends; "
                          "Ray starts it again from the last checkpoint. Where its threads stood is above; of several workers, those that waited for another tell "
                          "the same. If one pass may take that long, raise train.hang_timeout_s; null: never\n").encode())
        time.sleep(GRACE_S)
        os._exit(HUNG)
