"""cluster/tied_process.py; that a program dies with a killed parent is in test_s3_server.py."""

import sys
import time

from cluster.tied_process import served

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


def test_a_server_that_does_not_end_is_killed_and_its_words_are_kept(tmp_path):
    log = tmp_path / "log"
    with served([sys.executable, "-c", STUBBORN], log, patience_s=0.2, cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while not log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None
    assert process.returncode == -9 and log.read_text() == "ready\n"
