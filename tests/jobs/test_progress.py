"""jobs/progress.py: what people see."""

import io
import threading

import pytest

from jobs.progress import POLL_S, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_there_is_a_first_and_a_last_line_and_nothing_between():
    stream, clock = io.StringIO(), Clock()
    with Progress("extract", total=240, unit="videos", stream=stream, clock=clock) as progress:
        for _ in range(240):
            progress.advance()
        clock.now = 75.0
    assert stream.getvalue().splitlines() == ["extract: started, 0/240 videos, 0:00", "extract: done, 240/240 videos, 1:15"]
    assert progress.interval_s == 60


def test_on_a_terminal_one_line_is_written_over():
    stream = Terminal()
    with Progress("train", total=10, unit="steps", stream=stream) as progress:
        progress.advance(10, note="loss 0.31")
    text = stream.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n") and text.startswith("\r")
    assert "done, 10/10 steps" in text and "loss 0.31" in text
    assert progress.interval_s < 1


def test_a_long_wait_shows_signs_of_life():
    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            if "epoch 2" in text:
                seen.set()
            return super().write(text)

    seen = threading.Event()
    with Progress("train", stream=Stream(), interval_s=0.01, poll=lambda: (2, "epoch 2")):
        assert seen.wait(20)


def test_a_terminal_is_written_to_more_often_than_it_is_polled():
    class Lines(Terminal):
        def write(self, text: str) -> int:
            lines.append(text)
            if len(lines) == 50:
                early.set()
            if len(lines) == 100:
                late.set()
            return super().write(text)

    early, late, lines, polls, clock = threading.Event(), threading.Event(), [], [], Clock()
    with Progress("train", stream=Lines(), interval_s=0.001, clock=clock, poll=lambda: polls.append(clock.now) or (1, "")):
        assert early.wait(20) and polls == [0.0]
        clock.now = POLL_S
        assert late.wait(20) and polls == [0.0, POLL_S]
    assert len(polls) == 3


def test_the_line_tells_what_is_left():
    clock = Clock()
    progress = Progress("tune", total=4, unit="trials", stream=io.StringIO(), clock=clock)
    with progress:
        clock.now = 1800.0
        progress.advance(1)
        assert progress.line() == "tune: 1/4 trials, 30:00, about 1:30:00 left"


def test_a_failing_poll_and_a_failing_job():
    def poll():
        raise OSError("storage is away")

    stream = io.StringIO()
    with pytest.raises(KeyError), Progress("train", stream=stream, poll=poll):
        raise KeyError("x")
    assert stream.getvalue().splitlines()[-1] == "train: stopped, 0:00, progress unknown (OSError)"
