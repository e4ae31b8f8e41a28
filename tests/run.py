"""`make test` and `make test-cluster`: pytest in processes of its own.

    python -m tests.run                     all tests but those of the next line
    python -m tests.run --own-cluster       those that kill workers, nodes or servers, or submit jobs to a head of their own, one after another
    python -m tests.run --last-failed       those that failed, with any of pytest's options that select nothing else
    python -m tests.run -m 'not cluster'    with -m or paths: plain pytest

Tests with a Ray cluster mostly wait, so all tests run in two processes side by side: one with those, the comparison with other
libraries and the slow ones (for balance), the other with the rest. The first is shown while it runs, the other after it. Exit code 0 only if both passed.
"""

import os
import signal
import subprocess
import sys
import tempfile

NO_TESTS = 5
"""pytest's exit code when nothing was selected: fine for one half under --last-failed, not for both."""


def main(options: list[str]) -> int:
    # `make test &` in a script starts with Ctrl-C ignored, `nohup make test` with SIGHUP, and all children inherit that: tests that send them would wait without end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if any(option == "-m" or not option.startswith("-") for option in options):
        return subprocess.run(pytest(options)).returncode
    if "--own-cluster" in options:
        options.remove("--own-cluster")
        return subprocess.run(pytest([*part("fault or head", "own-cluster"), *options])).returncode
    with tempfile.TemporaryFile() as output:
        # Each half remembers its own failures: one cache would keep those of the half that ends last.
        in_process = pytest([*part("not (cluster or reference or slow or fault or head)", "in-process"), *options])
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # small nets: a second thread would only wait
        beside = subprocess.Popen(in_process, stdout=output, stderr=subprocess.STDOUT, env=one_thread)
        cluster = pytest([*part("(cluster or reference or slow) and not (fault or head)", "cluster"), *options])
        codes = [subprocess.run(cluster).returncode, beside.wait()]
        output.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(output.read())
        sys.stdout.flush()
    if codes == [NO_TESTS, NO_TESTS]:
        return NO_TESTS
    return next((code for code in codes if code not in (0, NO_TESTS)), 0)


def part(marker: str, cache: str) -> list[str]:
    return ["-m", marker, "-o", f"cache_dir=.pytest_cache/{cache}"]


def pytest(options: list[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", *options]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
