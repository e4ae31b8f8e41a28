"""jobs.extract under kill -9 of its parts, and two of it at once, on a real S3 server of whose
requests 5 % fail: the same bytes as an undisturbed run."""

import random

import pytest

from benchmarks import extraction_kills as benchmark
from benchmarks.extraction_kills import JOB_LIMIT_S, Job, Kills
from tests.object_stores.fault_proxy import share

pytestmark = [pytest.mark.cluster, pytest.mark.fault]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """(server, storage, settings of a run by its name, objects of an undisturbed run)."""
    folder = tmp_path_factory.mktemp("bench")
    with benchmark.bench(folder, videos=12) as (server, proxy, storage, settings):
        run_to_its_end(Job(settings("undisturbed"), folder / "jobs.log"))
        expected = benchmark.objects(storage, "undisturbed")
        proxy.choose = share(benchmark.FAULTY, benchmark.FAULTS)
        yield server, storage, settings, expected


def run_to_its_end(*jobs):
    try:
        assert [job.wait(JOB_LIMIT_S) for job in jobs] == [0] * len(jobs)
    finally:
        for job in jobs:
            job.stop()


@pytest.mark.timeout(3 * JOB_LIMIT_S)
def test_kills_at_random_moments_change_no_byte(bench, tmp_path):
    server, storage, settings, expected = bench
    kills = Kills(3, 8.0, random.Random(5))
    started = benchmark.extract_disturbed(settings("killed"), tmp_path / "jobs.log", server, kills)
    assert 1 <= started <= 1 + len(kills.done) and kills.done
    assert benchmark.compare(storage, "killed", expected) == ""
    run_to_its_end(Job(settings("killed"), tmp_path / "jobs.log", "--verify"))


@pytest.mark.timeout(3 * JOB_LIMIT_S)
def test_two_jobs_at_once_write_what_one_writes(bench, tmp_path):
    _, storage, settings, expected = bench
    path = settings("both")
    run_to_its_end(Job(path, tmp_path / "first.log"), Job(path, tmp_path / "second.log"))
    assert benchmark.compare(storage, "both", expected) == ""
