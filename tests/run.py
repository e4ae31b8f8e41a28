"""`make test`: two pytest processes side by side, as tests with a Ray cluster mostly wait.

One runs those with a cluster, the other all that need none and the one long test of `ray job submit`.

    python -m tests.run                     all tests
    python -m tests.run --last-failed       those that failed, with any of pytest's options that select nothing else
    python -m tests.run -m 'not cluster'    with -m or paths: plain pytest

The cluster's half is shown while it runs, the other half after it. Exit code 0 only if both passed.
"""

import os
import subprocess
import sys
import tempfile

NO_TESTS = 5
"""pytest's exit code when nothing was selected: fine for one half under --last-failed, not for both."""


def main(options: list[str]) -> int:
    if any(option == "-m" or not option.startswith("-") for option in options):
        return subprocess.run(pytest(options)).returncode
    with tempfile.TemporaryFile() as output:
        # Each half remembers its own failures: one cache would keep those of the half that ends last.
        in_process = pytest([*half("not cluster or submitted", "in-process"), *options])
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # small nets: a second thread would only wait
        beside = subprocess.Popen(in_process, stdout=output, stderr=subprocess.STDOUT, env=one_thread)
        codes = [subprocess.run(pytest([*half("cluster and not submitted", "cluster"), *options])).returncode, beside.wait()]
        output.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(output.read())
        sys.stdout.flush()
    if codes == [NO_TESTS, NO_TESTS]:
        return NO_TESTS
    return next((code for code in codes if code not in (0, NO_TESTS)), 0)


def half(marker: str, cache: str) -> list[str]:
    return ["-m", marker, "-o", f"cache_dir=.pytest_cache/{cache}"]


def pytest(options: list[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", *options]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
