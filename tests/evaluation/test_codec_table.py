"""Survival by hand: what counts as caught, as success, as found; and its place on the page and in the event files."""

import re

import pyarrow as pa
import pytest
from made_up import plain_summary
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_report import parsed

from robust.evaluation.attack_block import Cell
from robust.evaluation.codec import LOSSLESS, Channel, Sharing
from robust.evaluation.codec_table import CODEC_SCHEMA, codec_figures, survival_charts
from robust.evaluation.plots import share_to_y
from robust.evaluation.report import render
from robust.evaluation.tensorboard import write_tensorboard

CHANNELS = (LOSSLESS, Channel("h264", 35))
LOGITS = {  # (clean, adversarial) of six frames of as many videos
    LOSSLESS: [(2, -1), (2, -3), (1, 0), (1, 0.5), (-1, -2), (3, None)],  # 5 caught, 3 turned, 5 found
    CHANNELS[1]: [(2, 1), (None, -1), (-1, -2), (None, None), (-0.5, 1), (-2, None)],  # 1 caught, none turned
}


@pytest.fixture(scope="module")
def figures():
    trials = [Sharing(Cell("pgd", epsilon, 20), CHANNELS) for epsilon in (4.0, 8.0)]
    rows = [{"model": model, "attack": "pgd", "epsilon": trial.cell.epsilon, "codec": channel.codec, "quality": channel.quality,
             "video_id": f"d/fine/{video}", "frame_index": 3, "method": "fine", "identities": [f"d:{video}"], "clean": clean,
             "adversarial": adversarial if model == "baseline" else clean}
            for model in ("baseline", "defended") for trial in trials for channel in CHANNELS
            for video, (clean, adversarial) in enumerate(LOGITS[channel])]
    return codec_figures(pa.Table.from_pylist(rows, schema=CODEC_SCHEMA), ["baseline", "defended"], trials, resamples=30, seed=0)


def test_shares_by_hand(figures):
    assert (figures["videos"], figures["frames"], figures["attack"], len(figures["records"])) == (6, 6, "PGD-20", 2 * 2 * 2)
    first, second = figures["records"][:2]
    assert (first["codec"], second["codec"], second["quality"], first["epsilon"]) == ("lossless", "h264", 35, 4)
    names = ("caught", "fake_to_real", "found_clean", "found_attacked")
    assert [(first[name]["hits"], first[name]["among"]) for name in names] == [(5, 6), (3, 5), (6, 6), (5, 6)]
    assert [(second[name]["hits"], second[name]["among"]) for name in names] == [(1, 6), (0, 1), (4, 6), (4, 6)]
    assert first["fake_to_real"]["value"] == 0.6 and first["fake_to_real"]["low"] < 0.6 < first["fake_to_real"]["high"]
    assert [record["fake_to_real"]["value"] for record in figures["records"] if record["model"] == "defended"] == [0] * 4


def test_the_page_and_the_event_files_have_them(figures, tmp_path):
    summary = {**plain_summary(), "codec": figures}
    page = render(summary)
    parsed(page)
    assert page.count("H.264, CRF 35") == 2 and 'style="--lost:60%"' in page and "6 frames of 6 fakes, PGD-20" in page
    assert "Attacks on shared videos" not in render(plain_summary())
    write_tensorboard(tmp_path, summary)
    events = EventAccumulator(str(tmp_path / "baseline")).Reload()
    (event,) = events.Scalars("codec_fake_to_real/pgd/lossless/epsilon_4")
    assert event.value == pytest.approx(0.6)


def test_several_attacks_stand_beside_each_other():
    # PGD turns both fakes and loses both in the codec, EOT turns one and keeps it.
    after = {("pgd", "lossless"): (-1, -1), ("pgd", "h264"): (1, 1), ("eot", "lossless"): (-1, 1), ("eot", "h264"): (-2, 1)}
    trials = [Sharing(cell, CHANNELS) for cell in (Cell("pgd", 4.0, 20), Cell("eot", 4.0, 25, samples=8))]
    rows = [{"model": model, "attack": attack, "epsilon": 4.0, "codec": codec, "quality": 35 * (codec == "h264"), "video_id": f"d/fine/{video}",
             "frame_index": 0, "method": "fine", "identities": [f"d:{video}"], "clean": 2, "adversarial": logit}
            for model in ("baseline", "defended") for (attack, codec), logits in after.items() for video, logit in enumerate(logits)]
    figures = codec_figures(pa.Table.from_pylist(rows, schema=CODEC_SCHEMA), ["baseline", "defended"], trials, resamples=30, seed=0)
    assert figures["attacks"] == [{"attack": "pgd", "label": "PGD-20"}, {"attack": "eot", "label": "EOT-25 (8 views)"}]
    assert (figures["attack"], figures["frames"], figures["videos"]) == ("PGD-20", 2, 2)
    found = {(record["attack"], record["codec"]): record["fake_to_real"]["hits"] for record in figures["records"] if record["model"] == "defended"}
    assert found == {("pgd", "lossless"): 2, ("pgd", "h264"): 0, ("eot", "lossless"): 1, ("eot", "h264"): 1}

    charts = survival_charts(figures, ["baseline", "defended"])
    assert [(chart["model"], chart["epsilon"]) for chart in charts] == [("baseline", 4.0), ("defended", 4.0)]
    lines = re.findall(r'points="([^"]+)" class="line (s\d)"', charts[0]["svg"])
    heights = {style: [float(corner.split(",")[1]) for corner in corners.split()] for corners, style in lines}
    assert heights == {"s2": [share_to_y(1), share_to_y(0)], "s3": [share_to_y(0.5)] * 2}  # lossless, then H.264
    assert ">none<" in charts[0]["svg"] and ">35<" in charts[0]["svg"]

    page = render({**plain_summary(), "codec": figures})
    parsed(page)
    assert "PGD-20 and EOT-25 (8 views) on the pixels" in page and page.count("attack success, EOT-25 (8 views), ε&nbsp;4") == 2
    assert page.count("What survives, ") == 2


def test_a_document_with_one_attack_and_no_name_of_it_still_makes_a_page(figures):
    old = {**figures, "records": [{name: value for name, value in record.items() if name != "attack"} for record in figures["records"]]}
    del old["attacks"]
    page = render({**plain_summary(), "codec": old})
    assert page.count("H.264, CRF 35") == 2 and page.count("What survives, ") == 4
