"""Progress for people: one live line on a terminal, else one quiet line a minute; always a first and a last one."""

import math
import sys
import threading
import time
from collections.abc import Callable

POLL_S = 5.0
"""Between two polls at least, though a terminal is written to more often: a poll may be a request to a bucket."""


class Progress:
    """Shows how far a stage is: `with Progress("extract", total=240, unit="videos") as progress: progress.advance()`.

    A thread shows it from time to time, so `advance` costs nothing and a long wait still shows a sign of life.
    """

    def __init__(
        self,
        label: str,
        *,
        total: int | None = None,
        unit: str = "",
        poll: Callable[[], tuple[int, str]] | None = None,
        stream=None,
        interval_s: float | None = None,
        observe: Callable[[int, int | None], None] = lambda done, total: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """
        Args:
            total: what `done` counts up to; None if unknown.
            poll: asked for (done, note), for work that happens in other processes; before each line, but no more than once
                in POLL_S seconds and at the end.
            interval_s: between lines; default 0.2 on a terminal, else 60.
            observe: told (done, total) at every line and whenever work is counted.
        """
        self.label, self.total, self.unit, self.poll, self.clock, self.observe = label, total, unit, poll, clock, observe
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.interval_s = interval_s if interval_s is not None else (0.2 if self.live else 60.0)
        self.done, self.note = 0, ""
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._show_from_time_to_time, daemon=True)
        self._widest = 0

    def __enter__(self) -> "Progress":
        self._began = self.clock()
        self._show("started")
        self._thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self._finished.set()
        self._thread.join()
        self._poll()
        self.observe(self.done, self.total)
        self._show("done" if kind is None else "stopped", last=True)

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Counts work done; `note` (a short text: a loss, a video) stays until the next one."""
        self.done += count
        self.observe(self.done, self.total)
        if note is not None:
            self.note = note

    def line(self, state: str = "") -> str:
        """The text of the present state."""
        elapsed = self.clock() - self._began
        rate = self.done / elapsed if elapsed > 0 else 0.0
        count = f"{self.done}/{self.total}" if self.total else str(self.done or "")
        remaining = ""
        if not state and self.total and self.done and rate:
            remaining = f"about {_duration((self.total - self.done) / rate)} left"
        parts = [state, f"{count} {self.unit}".strip() if count else "", _duration(elapsed), remaining, self.note]
        return f"{self.label}: " + ", ".join(part for part in parts if part)

    def _show_from_time_to_time(self) -> None:
        asked = -math.inf
        while not self._finished.wait(self.interval_s):
            if self.clock() - asked >= POLL_S:
                asked = self.clock()
                self._poll()
            self.observe(self.done, self.total)
            self._show()

    def _poll(self) -> None:
        if self.poll is not None:
            try:
                self.done, self.note = self.poll()
            except Exception as error:  # showing progress must not end the work
                self.note = f"progress unknown ({type(error).__name__})"

    def _show(self, state: str = "", *, last: bool = False) -> None:
        text = self.line(state)
        if self.live:
            self._widest = max(self._widest, len(text))
            self.stream.write("\r" + text.ljust(self._widest) + ("\n" if last else ""))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
