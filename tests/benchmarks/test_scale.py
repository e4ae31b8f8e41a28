"""benchmarks/noop_pipeline.py, driver_parts.py and scale.py: what is said follows from what was measured."""

import argparse
import inspect

import pytest

from benchmarks import noop_pipeline, scale
from benchmarks.driver_parts import Meter, config_of, measure, write_folder
from benchmarks.noop_stage import Nothing
from jobs.extract_stages import DecodeAndDetect
from robust.config_file import parse


def made_up(rows, seconds):
    return {"rows": rows, "cpu_s": {"driver": seconds, "gcs_server": 1.0}, "most_mib": {"driver": 100.0, "gcs_server": 50.0}}


def test_the_stage_without_work_is_made_as_the_one_that_it_stands_for():
    assert list(inspect.signature(Nothing).parameters) == list(inspect.signature(DecodeAndDetect).parameters)


def test_a_straight_line_has_its_slope_and_grows_by_nothing():
    each, fixed, growth = noop_pipeline.slope([made_up(rows, 2 + 0.003 * rows) for rows in (1000, 10_000, 100_000)])
    assert (each, fixed, growth) == pytest.approx((0.003, 2, 1))
    assert noop_pipeline.told_bars([made_up(rows, 2 + 0.003 * rows) for rows in (1000, 10_000, 100_000)], 1.0, 100)[1] == []


def test_a_driver_that_grows_faster_than_its_videos_misses_the_bars():
    told, missed = noop_pipeline.told_bars([made_up(rows, 2 + 1e-6 * rows**2) for rows in (1000, 10_000, 100_000)], 1.0, 100)
    assert [one.split()[0] for one in missed] == ["overhead", "growth"] and "with 100000" in told


def test_the_parts_of_the_driver_go_over_every_video(tmp_path):
    write_folder(tmp_path / "videos", 300)
    told = measure(config_of(tmp_path, videos=str(tmp_path / "videos"), storage=str(tmp_path / "storage")), Meter(), cpus=2)
    assert told["rows"] == 300 and list(told["seconds"]) == ["list", "plan", "cut", "commit", "read", "compare", "count"]
    assert noop_pipeline.driver_seconds(told) == sum(told["seconds"].values()) - told["seconds"]["commit"]


def test_the_driver_gives_way_first_where_it_takes_longer_than_the_work():
    noop = {"ray": [made_up(rows, 3600 / 128_000 * rows) for rows in (1000, 100_000)]}  # an hour for all of them
    rows = {row["cpus"]: row for row in scale.extraction(noop, 128_000, work_s=3600 / 128_000 * 1000)}
    assert rows[16]["first"] == "the work" and rows[16]["hours"] == pytest.approx(1000 / 16)
    assert rows[16_000]["first"] == "the driver" and rows[16_000]["hours"] == pytest.approx(1)


def test_requests_are_those_of_each_part_and_of_each_fetched_video():
    noop = {"requests": [{"rows": 10, "requests": {"a": {"LIST": 1}}}, {"rows": 100, "requests": {"a": {"LIST": 2}, "b": {"PUT run": 4, "LIST": 1}}}],
            "others": {"video": {"GET video": 1, "HEAD video": 2}}}
    assert scale.requests_of(noop, 1000) == {"LIST": 30, "PUT run": 40, "GET video": 1000, "HEAD video": 2000}


def test_the_table_names_what_it_counts():
    noop = {"work_s": 1.0, "ray": [made_up(1000, 1.0), made_up(10_000, 10.0)], "requests": [{"rows": 1, "requests": {"a": {"LIST": 1}}}], "others": {"video": {}}}
    arguments = argparse.Namespace(videos=128_000, gigabytes=470, trials=200, work_s=None, train_cpu_s=1.0, gpu_images_s=100.0, cpu_hour_price=1.0,
                                   gpu_hour_price=2.0, get_price=1.0, put_price=1.0, gigabyte_month_price=0.02)
    told = scale.told(arguments, noop, [{"image_bytes": 10, "taken_bytes": 12}], parse({}))
    crops = 0.8 * 0.85 * 128_000 * 25
    assert f"TRAINING on {crops:.0f} crops" in told and "in a file on its disk" in told  # the whole of DFDC is no matter of memory
    arguments.videos = 1000
    assert "1.20 times" in scale.told(arguments, noop, [{"image_bytes": 10, "taken_bytes": 12}], parse({}))
    assert f"baseline: {20 * crops / 1e6:.1f} million images, {20 * crops / 3600:.0f} CPU-hours, {20 * crops / 100 / 3600:.0f} GPU-hours" in told
