"""summary.json, the page and the event files: same figures, nothing from outside, nothing of the data runs."""

import html
import json
import re
from html.parser import HTMLParser

import pytest
from made_up import CELLS, made_up_models, made_up_predictions, made_up_strips, made_up_summary
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robust.evaluation.passes import Passes, cost_records
from robust.evaluation.plots import Point, Series, line_chart
from robust.evaluation.protocol import build_tables
from robust.evaluation.report import render
from robust.evaluation.summary import build_summary, find, without_timing
from robust.evaluation.tensorboard import write_tensorboard


@pytest.fixture(scope="module")
def summary():
    return made_up_summary(resamples=50, timing={"seconds": 12.0})


@pytest.fixture(scope="module")
def page(summary):
    return render(summary, made_up_strips())


class Tags(HTMLParser):
    """Collects tags, and checks that they are closed in order."""

    EMPTY = {"meta", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.seen = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"


def parsed(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_the_headline_says_who_what_and_how_sure(summary):
    record = find(summary["under_attack"], model="defended", attack="pgd", epsilon=0.5, level="frame", group="all")
    figure = record["at"]["zero"]["fake_to_real"]
    assert summary["headline"]["models"]["defended"] == figure
    text = summary["headline"]["text"]
    assert text.startswith("baseline: ") and "PGD-20 at epsilon 0.5" in text
    assert f"defended: {100 * figure['value']:.1f} % [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]" in text


def test_a_passed_evaluation_says_so(summary, page):
    assert summary["verdict"] == {"credible": True, "text": "CREDIBLE: 2 gates passed for each of 2 models", "failed": []}
    assert page.index("CREDIBLE: 2 gates passed") < page.index("<h1>") and "NOT C" not in page
    assert page.count(">passed</td>") == 4 and "3 of 32 images" in page and "look twice" in page


def test_a_failed_gate_takes_the_headline_away_and_leaves_the_tables(summary, tmp_path):
    refused = made_up_summary(resamples=50, fails="large_epsilon")
    assert refused["headline"] is None
    assert refused["verdict"]["text"] == "NOT CREDIBLE: large_epsilon (baseline), large_epsilon (defended)"
    assert refused["verdict"]["failed"][0] == {"model": "baseline", "gate": "large_epsilon"}
    assert refused["under_attack"] == summary["under_attack"] and refused["shown"] == {"attack": "pgd", "epsilon": 0.5}
    page = render(refused, made_up_strips())
    parsed(page)
    assert "<h1 class=\"refused\">NOT CREDIBLE: large_epsilon (baseline)" in page
    assert "of the caught fakes turned real by" not in page and 'class="cards"' not in page
    assert page.index("What to do: look twice") < page.index("<main>") and page.count(">FAILED</td>") == 2
    write_tensorboard(tmp_path, refused)
    events = EventAccumulator(str(tmp_path / "defended")).Reload()
    assert "headline/attack_success" not in events.Tags()["scalars"]


def test_without_gates_the_headline_is_marked_as_unchecked():
    unchecked = made_up_summary(resamples=10, gates=[])
    assert unchecked["verdict"]["credible"] is None and unchecked["headline"] is not None
    assert "NOT CHECKED: evaluate.gates.enabled is false" in render(unchecked)


def test_summary_is_plain_json_and_differs_between_runs_only_in_timing(summary):
    again = made_up_summary(resamples=50, timing={"seconds": 99.0})
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["schema"] == 2 and summary != again
    assert without_timing(summary) == without_timing(again)


def test_the_page_is_well_formed_and_fetches_nothing(page):
    tags = parsed(page)
    for tag, name, value in tags.attributes:
        assert name not in ("srcset", "action", "ping", "background") and not name.startswith("on")
        if name == "href":  # followed by a click only, to a file of the same run
            assert (tag, value) == ("a", "../evaluate/adversarial/manifest.json")
        if name == "src":
            assert value.startswith("data:image/webp;base64,")
    assert not {"script", "link", "iframe", "object", "embed"} & set(tags.seen)
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_figures_of_the_tables_are_those_of_the_summary(summary, page):
    text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page)))
    for model in ("baseline", "defended"):
        record = find(summary["clean"], model=model, level="video", group="fine")
        row = " ".join(f"{100 * record[name]['value']:.1f} {100 * record[name]['low']:.1f}–{100 * record[name]['high']:.1f}"
                       for name in ("auc", "ap", "eer", "tpr_at_fpr_1", "tpr_at_fpr_5", "ece"))
        assert row in text
        cells = []
        for epsilon in summary["epsilons"]:
            figure = find(summary["under_attack"], model=model, attack="pgd", epsilon=epsilon, level="frame",
                          group="coarse")["at"]["zero"]["fake_to_real"]
            cells.append(f"{100 * figure['value']:.1f} {100 * figure['low']:.1f}–{100 * figure['high']:.1f}")
        assert "coarse " + " ".join(cells) in text


def test_skipped_videos_and_their_reasons_are_on_the_page(page):
    assert "demo/fine/id3_id9" in page and "no face in any of 20 frames" in page
    assert "58 ok, 2 partial, 1 no face" in re.sub(r"\s+", " ", page).replace("58 ok, 1 no face, 2 partial", "")


def test_names_from_the_data_are_text_not_markup():
    hostile = "<script>alert(1)</script>\"'"
    page = render(made_up_summary(resamples=10, run=hostile, models=("baseline", "defended"),
                                  data={"videos": {"ok": 1}, "skipped": [
                                      {"video_id": hostile, "status": "no_face", "reason": hostile}]}))
    assert "<script" not in page and "&lt;script&gt;" in page
    parsed(page)


def test_one_model_and_no_gallery_also_make_a_page():
    page = render(made_up_summary(resamples=10, models=("baseline",)))
    parsed(page)
    assert "What the attack looks like" not in page


def test_a_figure_that_does_not_exist_is_a_dash_with_its_reason(summary):
    changed = json.loads(json.dumps(summary))
    for record in changed["under_attack"]:
        record["at"]["zero"]["fake_to_real"] = {"value": None, "low": None, "high": None, "reason": "nothing was caught"}
    changed["headline"]["models"]["baseline"] = {"value": None, "low": None, "high": None, "reason": "nothing was caught"}
    page = render(changed)
    assert 'title="nothing was caught">–</span>' in page


def test_chart_puts_shares_where_they_belong():
    svg = line_chart([Series("a & b", 0, (Point(0, 1.0), Point(2, 0.5, 0.4, 0.6), Point(8, 0.0, 0.0, 0.1)))],
                     ticks=[0, 2, 8], title="t")
    (corners,) = re.findall(r'points="([^"]+)" class="line s0"', svg)
    points = [tuple(map(float, corner.split(","))) for corner in corners.split()]
    assert points == [(40.0, 12.0), (174.0, 97.0), (308.0, 182.0)]  # sqrt(2 / 8) is half way; 0.5 is half way up
    assert "a &amp; b" in svg and svg.count("<circle") == 3


def test_event_files_hold_the_figures_and_the_images(summary, tmp_path):
    write_tensorboard(tmp_path, summary, made_up_strips())
    events = EventAccumulator(str(tmp_path / "defended"), size_guidance={"scalars": 0, "images": 0}).Reload()
    (point,) = [event for event in events.Scalars("fake_to_real/pgd/frame/all") if event.step == 50]
    assert point.value == pytest.approx(summary["headline"]["models"]["defended"]["value"])
    assert len(events.Scalars("robust_auc/fgsm/video/fine")) == 5
    assert {tag.split("/")[1] for tag in events.Tags()["images"]} == {"coarse", "blended", "fine"}
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_rows_of_a_sequential_suite_and_the_passes_are_on_the_page():
    cost = cost_records({("baseline", "fgsm"): Passes(20, 20, 60, 20), ("defended", "pgd"): Passes(20, 5, 115, 100, 10, 10)})
    told = made_up_summary(resamples=10, sequential=True, cost=cost)
    assert [attack["label"] for attack in told["attacks"]] == ["FGSM", "+ PGD-20", "the worst of FGSM, PGD-20"]
    page = render(told)
    rows = re.findall(r"<tr[^>]*>.*?</tr>", page[page.index("passes an image"):], re.DOTALL)[:2]
    values = [[re.sub("<[^>]*>", "", cell) for cell in re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows]
    assert values == [["FGSM", "baseline", "100.0", "3.0", "1.0"], ["+ PGD-20", "defended", "25.0", "6.2", "5.5"]]
    assert "A row with a + tells of all attacks" in page and "A row with a +" not in render(made_up_summary(resamples=10))


def test_minimal_epsilon_worst_kind_and_abstention_are_on_the_page(summary, page):
    text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page)))
    record = find(summary["over_epsilon"], model="defended", level="frame", group="all")
    minimal, area = record["minimal_epsilon"], record["mean_robust_auc"]
    assert f"{minimal['value']:.2f} {minimal['low']:.2f} to {minimal['high']:.2f}" in text
    assert f"{100 * area['value']:.1f} {100 * area['low']:.1f}–{100 * area['high']:.1f}" in text and "from 0 to 8, as far as was measured" in text
    worst = find(summary["worst_groups"], model="defended", level="frame", figure="fake_to_real")
    assert f"Worst kind: {worst['group']}" in text
    assert len(re.findall(r'class="bar s\d"', page)) == 2 * 6  # two models; up to each of five epsilons, and beyond
    after = find(summary["under_attack"], model="baseline", attack="pgd", epsilon=0.5, level="frame", group="all")["aurc"]
    assert f"{100 * after['value']:.1f} {100 * after['low']:.1f}–{100 * after['high']:.1f}" in text


def test_a_card_without_the_second_threshold_makes_a_page_with_dashes():
    models = made_up_models()
    for model in models:
        for name in ("threshold_fpr_5", "frame_threshold_fpr_5"):
            del model.card[name]
    tables = build_tables(made_up_predictions(identities=8, frames=1), {model.name: model.thresholds for model in models}, resamples=10, seed=0)
    rates = find(tables["attacks"], model="defended", attack="pgd", epsilon=0.5, level="video", group="all")["at"]["frozen_fpr_5"]
    assert rates["threshold"] is None and "no such threshold" in rates["fake_to_real"]["reason"]
    summary = build_summary(tables, run="old", models=models, cells=CELLS, headline=("pgd", 0.5), settings={},
                            data={"videos": {}, "skipped": []})
    parsed(render(summary))


def test_with_one_frame_a_video_nothing_stands_there_twice(summary, page):
    models = made_up_models()
    tables = build_tables(made_up_predictions(identities=8, frames=1), {model.name: model.thresholds for model in models}, resamples=10, seed=0)
    single = render(build_summary(tables, run="one", models=models, cells=CELLS, headline=("pgd", 0.5), settings={},
                                  data={"videos": {}, "skipped": []}))
    for level, title in (("video", "Whole videos"), ("frame", "Single frames")):
        assert page.count(f"over epsilon, {level}s") == 3 and title in page
    assert "Every video has one frame here" in single and "over epsilon, videos" not in single and "Whole videos" not in single
    for record in tables["attacks"]:
        other = find(tables["attacks"], **{key: record[key] for key in ("model", "attack", "epsilon", "group")}, level="video")
        assert record["at"]["zero"]["fake_to_real"]["value"] == other["at"]["zero"]["fake_to_real"]["value"]
