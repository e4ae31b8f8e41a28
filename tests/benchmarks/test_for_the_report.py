"""What the two benchmarks write of a run is what the report reads, as long as the weights are the same."""

import dataclasses

import pytest
import torch

from benchmarks import deep_image_prior, reference_protocol
from robust.config_file import parse
from robust.defenses.deep_image_prior import Prior
from robust.evaluation.comparators import read_comparators
from robust.models.checkpoint import save_checkpoint
from robust.models.detector import Architecture, empty_detector
from tests.tiny_run import write_faces

pytestmark = pytest.mark.slow

TINY = Prior(iterations=4, stops=(2, 4), size=32, channels=(8, 8), input_channels=8, average=0.5)


@pytest.fixture
def models(local_storage):
    """A run of noise with two untrained models; their hashes."""
    torch.set_num_threads(1)
    write_faces(local_storage, "tiny", splits={"train": 1, "val": 1, "test": 1}, frames=1, size=32)
    found = {}
    for seed, name in enumerate(("baseline", "defended")):
        torch.manual_seed(seed)
        model = empty_detector(Architecture("meso_inception4", 32, (0.5,) * 3, (0.5,) * 3, None)).eval()
        card = save_checkpoint(local_storage, f"tiny/train/{name}", model, {"threshold": 0.0, "frame_threshold": 0.0})
        found[name] = card["sha256"]
    return found


def test_the_report_reads_what_the_benchmarks_wrote(local_storage, models, monkeypatch):
    monkeypatch.setattr(deep_image_prior, "PUBLISHED", dataclasses.replace(TINY, iterations=1000, stops=(1000,)))
    config = parse({"run": {"name": "tiny"}})
    reference_protocol.main(config, local_storage)
    deep_image_prior.main(config, local_storage, prior=TINY)
    found = read_comparators(local_storage, "tiny", models)
    assert found["left_out"] == []
    prior = found["deep_image_prior"]
    assert [row["detector"] for row in prior["rows"]] == ["plain", *["plain behind the prior"] * 2, "defended"]
    assert all(row["accuracy"]["among"] == 2 and row["seconds"] > 0 for row in prior["rows"])
    assert prior["stop"] in TINY.stops and prior["prior"] == {"iterations": 4, "size": 32}
    rows = found["reference_protocol"]["rows"]
    assert {row["model"] for row in rows} == set(models)
    assert {row["group"] for row in rows} == {"ours", "one fault", "all faults"}
    others = read_comparators(local_storage, "tiny", {**models, "baseline": "0" * 64})
    assert len(others["left_out"]) == 2 and others["deep_image_prior"] is None
