"""Survival by hand: what counts as caught, as success, as found; and its place on the page and in the event files."""

import pyarrow as pa
import pytest
from made_up import made_up_summary
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_report import parsed

from robust.evaluation.attack_block import Cell
from robust.evaluation.codec import LOSSLESS, Channel, Sharing
from robust.evaluation.codec_table import CODEC_SCHEMA, codec_charts, codec_figures
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
    summary = made_up_summary(resamples=10, codec=figures)
    page = render(summary)
    parsed(page)
    assert page.count("H.264, CRF 35") == 2 and 'style="--lost:60%"' in page and "6 frames of 6 fakes, PGD-20" in page
    bars = codec_charts(figures)[0]["svg"]
    assert "baseline, none: 60.0 %" in bars and "defended, 35: 0.0 %" in bars and page.count("Attack success after H.264") == 4
    assert [(chart["codec"], chart["epsilon"]) for chart in codec_charts(figures)] == [("h264", 4), ("h264", 8)]
    assert codec_charts(None) == [] and "Attacks on shared videos" not in render(made_up_summary(resamples=10))
    write_tensorboard(tmp_path, summary)
    events = EventAccumulator(str(tmp_path / "baseline")).Reload()
    (event,) = events.Scalars("codec_fake_to_real/lossless/epsilon_4")
    assert event.value == pytest.approx(0.6)
