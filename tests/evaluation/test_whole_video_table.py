"""The whole-video attack beside the frame-wise worst case, by hand; its place on the page and in the event files."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from made_up import made_up_predictions, plain_summary
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_report import parsed

from robust.errors import UserError
from robust.evaluation.attack_block import Cell
from robust.evaluation.predictions import PREDICTION_SCHEMA
from robust.evaluation.report import render
from robust.evaluation.tensorboard import write_tensorboard
from robust.evaluation.whole_video_table import JOINT, whole_video_figures

ITEMS = [Cell(JOINT, 4.0, 20)]
VIDEOS = {  # label, then of two frames: clean, after fgsm, after pgd, after the joint attack
    "d/fine/0": (1, (2, 2), (1, 1), (1, 0.5), (-4, 1)),  # mean 1, 0.75 of the worst, -1.5: only the joint attack
    "d/fine/1": (1, (2, 2), (-3, 1), (1, -3), (1, 1)),  # frames' worst -3 and -3: only frame by frame
    "d/fine/2": (1, (2, 2), (-3, -3), (1, 1), (-1, -1)),  # both
    "d/fine/3": (1, (-2, 1), (-3, -3), (-3, -3), (-3, -3)),  # missed before
    "d/real/0": (0, (-2, -2), (-1, -1), (-1, -1), (3, -1)),  # a real: only the joint attack
    "d/real/1": (0, (-2, -2), (-1, -1), (-1, -1), (-1, -1)),  # neither
}


def rows_of(attack, place, *, epsilon=4.0, model="m", clean_shift=0.0):
    rows = [
        {
            "model": model,
            "attack": attack,
            "epsilon": epsilon,
            "video_id": video,
            "frame_index": frame,
            "label": logits[0],
            "method": video.split("/")[1],
            "identities": [f"d:{video}"],
            "clean": logits[1][frame] + clean_shift,
            "adversarial": logits[place][frame],
        }
        for video, logits in VIDEOS.items()
        for frame in range(2)
    ]
    return pa.Table.from_pylist(rows, schema=PREDICTION_SCHEMA)


def test_what_only_one_of_them_turns_is_counted_by_hand():
    predictions = pa.concat_tables(
        [rows_of("fgsm", 2), rows_of("pgd", 3), rows_of("fgsm", 2, epsilon=8.0), rows_of("pgd", 3, epsilon=8.0)]
    )
    figures = whole_video_figures(predictions, rows_of(JOINT, 4), ["m"], ITEMS, resamples=20, seed=0)
    assert (figures["videos"], figures["frames"], figures["frame_wise"], figures["steps"]) == (6, 12, "worst", 20)
    (record,) = figures["records"]
    assert (record["model"], record["epsilon"]) == ("m", 4.0)
    for attack, hits in (("joint", 2), ("frame_wise", 2), ("either", 3)):
        assert (record[attack]["fake_to_real"]["hits"], record[attack]["fake_to_real"]["among"]) == (hits, 3)
    assert [record[attack]["real_to_fake"]["hits"] for attack in ("joint", "frame_wise", "either")] == [1, 0, 1]
    assert (record["only_joint"]["hits"], record["only_joint"]["among"]) == (2, 5)
    assert (record["only_frame_wise"]["hits"], record["only_frame_wise"]["among"]) == (1, 5)
    # Robust AUC. Joint: fakes -1.5, 1, -1, -3, reals 1, -1: of 8 pairs one in order, two ties.
    # Frame by frame: 0.75, -3, -3, -3 and -1, -1: two in order.
    assert [record[attack]["robust_auc"]["value"] for attack in ("joint", "frame_wise", "either")] == [0.25, 0.25, 0]
    assert record["only_joint"]["low"] < 0.4 < record["only_joint"]["high"]


def test_rows_of_other_crops_or_another_model_are_refused():
    predictions = rows_of("pgd", 3)
    with pytest.raises(UserError, match="incomplete"):
        whole_video_figures(predictions, rows_of(JOINT, 4).slice(1), ["m"], ITEMS, resamples=10, seed=0)
    with pytest.raises(UserError, match="clean logit"):
        whole_video_figures(predictions, rows_of(JOINT, 4, clean_shift=0.1), ["m"], ITEMS, resamples=10, seed=0)


def made_up_figures():
    """A joint attack that moves every frame by half a logit more than PGD."""
    predictions = made_up_predictions()
    rows = predictions.filter((pc.field("attack") == "pgd") & pc.is_in(pc.field("epsilon"), pa.array([0.5, 4.0])))
    further = pc.add(rows.column("adversarial"), pc.subtract(0.5, rows.column("label").cast(pa.float32())))
    rows = rows.set_column(rows.schema.get_field_index("adversarial"), "adversarial", further.cast(pa.float32()))
    rows = rows.set_column(rows.schema.get_field_index("attack"), "attack", pa.array([JOINT] * len(rows)))
    items = [Cell(JOINT, epsilon, 50) for epsilon in (0.5, 4.0)]
    return whole_video_figures(predictions, rows, ["baseline", "defended"], items, resamples=30, seed=0)


def test_the_page_and_the_event_files_have_it(tmp_path):
    figures = made_up_figures()
    assert [(record["model"], record["epsilon"]) for record in figures["records"]] == [
        ("baseline", 0.5),
        ("defended", 0.5),
        ("baseline", 4.0),
        ("defended", 4.0),
    ]
    summary = {**plain_summary(), "whole_video": figures}
    page = render(summary)
    parsed(page)
    only = figures["records"][3]["only_joint"]
    assert only["hits"] > 0 and f"{only['hits']} of {only['among']}" in page and "APGD, 50 steps" in page
    turned = sum(record["only_joint"]["hits"] for record in figures["records"] if record["model"] == "defended")
    assert f"on defended it turns {turned} that" in page
    assert "Whole videos attacked at once" not in render({**summary, "whole_video": None})
    write_tensorboard(tmp_path, summary)
    events = EventAccumulator(str(tmp_path / "defended")).Reload()
    assert [event.step for event in events.Scalars("whole_video/only_joint")] == [50, 400]
    assert events.Scalars("whole_video_fake_to_real/joint")[1].value == pytest.approx(
        figures["records"][3]["joint"]["fake_to_real"]["value"]
    )
