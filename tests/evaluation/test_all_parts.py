"""With every part of a summary there: the page holds together, event files have every figure, keys are documented."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from made_up import made_up_strips
from made_up_parts import PRIOR, PROTOCOL, SHA256, made_up_everything
from test_report import parsed

from robust.config import StorageConfig
from robust.evaluation.comparators import rate, read_comparators
from robust.evaluation.report import render
from robust.evaluation.tensorboard import scalars
from robust.storage import Storage

DOCUMENTED = (Path(__file__).parents[2] / "docs/summary.md").read_text()


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    return made_up_everything(Storage.from_config(StorageConfig(uri=str(tmp_path_factory.mktemp("storage")))))


@pytest.fixture(scope="module")
def page(summary):
    return render(summary, made_up_strips())


def nodes(node, place=()):
    """(place, mapping) of every mapping in the document."""
    if isinstance(node, Mapping):
        yield place, node
        for name, value in node.items():
            yield from nodes(value, (*place, name))
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value, place)


def test_the_page_with_everything_is_well_formed_and_fetches_nothing(page):
    tags = parsed(page)
    sources = [value for _, name, value in tags.attributes if name in ("src", "href", "srcset", "action", "data")]
    files = "../evaluate/adversarial/manifest.json"
    assert all(value.startswith("data:image/webp;base64,") or value == files for value in sources)
    assert not re.search(r"https?://|url\(|@import|<script|<link|<iframe", page) and "default-src 'none'" in page
    assert len(page) < 10e6


def test_every_key_is_documented_and_every_documented_one_of_the_first_level_is_there(summary):
    """Keys that are names (of models, settings, groups) are not part of the schema."""
    free = {"settings", "card", "timing", "architecture", "videos", "thresholds"}
    quoted = re.findall(r"```json\n(.*?)```", DOCUMENTED, re.DOTALL) + re.findall(r"`([^`\n]+)`", DOCUMENTED)
    words = {word for part in quoted for word in re.findall(r"[A-Za-z_0-9]+(?:\.[0-9])?", part)}
    missing = set()
    for place, node in nodes(summary):
        if free & set(place) or place[:1] == ("headline",) and place[1:2] == ("models",):
            continue
        missing |= {".".join((*place, name)) for name in node if name not in words}
    assert sorted(missing) == []
    rows = re.findall(r"^\| (`[^|]+) \|", DOCUMENTED.split("## Keys")[1].split("\n## ")[0], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == set(summary)
    assert f'`"schema"` is {summary["schema"]}' in DOCUMENTED


def test_every_figure_of_a_model_is_a_scalar(summary):
    """But for intervals, and the figures that are others' twins: the headline, the worst kinds, the benchmarks."""
    checked = 0
    for model in ("baseline", "defended"):
        values = {value for _, _, value in scalars(summary, model)}
        for name in ("clean", "under_attack", "over_epsilon", "corruptions", "codec", "whole_video", "universal", "smoothing", "export"):
            for place, record in nodes(summary[name]):
                if record.get("model") == model:
                    for where, figure in nodes(record, (name, *place)):
                        if figure.get("value") is not None:
                            assert figure["value"] in values, where
                            checked += 1
    assert checked > 1000
    tags = [(tag, step) for tag, step, _ in scalars(summary, "baseline")]
    assert len(tags) == len(set(tags))
    found = {tag: value for tag, step, value in scalars(summary, "baseline") if step == 0}
    assert found["gates_passed/more_steps"] == 1 and found["certified_accuracy/sigma_16/fakes"] == 0.5


def test_comparators_are_shown_with_their_counts_and_times(summary, page):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    prior = summary["comparators"]["deep_image_prior"]
    assert prior["rows"][2]["success"]["value"] == 6 / 7 and prior["rows"][2]["success"]["hits"] == 6
    assert "BPDA-3 through the prior" in text and "6 of 7" in text and "413 s an image" in text and "0.0042" in text
    assert text.count("test script, on JPEG copies of that PGD-40") == 2 and "88 of 96" in text
    assert rate([0, 10])["high"] == pytest.approx(1 - 0.025 ** 0.1) and rate([5, 0])["value"] is None


@pytest.mark.parametrize("documents, reason", [
    ({"deep_image_prior": {**PRIOR, "models": {**SHA256, "defended": "f" * 64}}}, "other weights of defended"),
    ({"reference_protocol": {"rows": PROTOCOL["rows"]}}, "does not say on which weights"),
    ({"reference_protocol": [1, 2]}, "or is damaged"),
    ({"deep_image_prior": {**PRIOR, "rows": [{"detector": "plain"}]}}, "or is damaged"),
])
def test_a_benchmark_on_other_weights_or_damaged_is_left_out_and_said(local_storage, documents, reason):
    assert read_comparators(local_storage, "run", SHA256) is None
    for name, document in documents.items():
        local_storage.write_json(f"run/benchmarks/{name}.json", document)
    found = read_comparators(local_storage, "run", SHA256)
    assert found["deep_image_prior"] is None and found["reference_protocol"] is None
    assert reason in found["left_out"][0]["reason"]
