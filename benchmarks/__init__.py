"""Measurements, run by hand: `python -m benchmarks.NAME` prints a table and writes JSON. Never part of the tests."""
