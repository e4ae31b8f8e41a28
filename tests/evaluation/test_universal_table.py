"""Universal perturbations: files, control, figures by hand; their place on the page and in the event files."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_up import plain_summary
from PIL import Image
from safetensors.torch import save
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_report import parsed

from robust.attacks.threat import Linf
from robust.attacks.universal import Universal
from robust.errors import UserError
from robust.evaluation.predictions import PREDICTION_SCHEMA
from robust.evaluation.report import render
from robust.evaluation.tensorboard import write_tensorboard
from robust.evaluation.universal_table import (
    Pattern,
    as_rows,
    from_bytes,
    pictures_of,
    shuffled,
    to_bytes,
    universal_figures,
)

LOGITS = {  # label, then of two frames: clean, after pgd, with the pattern, with its values shuffled
    "d/fine/0": (1, (2, 2), (-1, -1), (-1, -1), (1, 1)),
    "d/fine/1": (1, (2, 2), (-1, -1), (-1, 2), (2, 2)),
    "d/fine/2": (1, (-1, 2), (-3, -3), (-2, -2), (2, -1)),
    "d/real/0": (0, (-2, -2), (1, 1), (-1, 3), (-2, -2)),
}


@pytest.fixture
def made():
    patterns = 4 / 255 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).sign()
    return Universal(patterns, Linf.from_255(4))


def test_a_pattern_is_read_back_as_it_was_written(made):
    again = from_bytes(to_bytes(made), epsilon=4, size=16, name="p")
    assert torch.equal(again.patterns, made.patterns) and again.threat == made.threat


@pytest.mark.parametrize(
    "data, told",
    [
        (b"", "is damaged"),
        (b"\x80\x04N." * 9, "is damaged"),
        (save({"other": torch.zeros(2, 3, 16, 16)}), "is damaged"),
        (save({"patterns": torch.zeros(2, 3, 16, 15)}), r"is not \(2, 3, 16, 16\)"),
        (save({"patterns": torch.full((2, 3, 16, 16), 0.02)}), "within 4/255"),
        (save({"patterns": torch.full((2, 3, 16, 16), torch.nan)}), "within 4/255"),
        (save({"patterns": torch.zeros(2, 3, 16, 16).long()}), "within 4/255"),
    ],
)
def test_a_file_that_is_none_is_named_and_nothing_of_it_is_run(data, told):
    with pytest.raises(UserError, match=f"the universal perturbation p .*{told}.*delete it"):
        from_bytes(data, epsilon=4, size=16, name="p")


def test_the_control_has_the_same_values_elsewhere(made):
    control = shuffled(made, seed=3)
    assert torch.equal(control.patterns.flatten(1).sort().values, made.patterns.flatten(1).sort().values)
    assert 0.3 < (control.patterns == made.patterns).float().mean() < 0.7
    assert torch.equal(shuffled(made, seed=3).patterns, control.patterns) and not torch.equal(
        shuffled(made, seed=4).patterns, control.patterns
    )


def test_a_picture_is_grey_where_nothing_changes_and_full_at_epsilon(made):
    patterns = made.patterns.clone()
    patterns[1, :, 0, 0] = 0
    fakes, reals = pictures_of("m", Pattern(4.0, "k"), patterns)
    assert (fakes.label, reals.label, fakes.gain) == (1, 0, 127.5 / 4)
    picture = np.asarray(Image.open(io.BytesIO(fakes.image)))
    assert (picture[0, 0] == 128).all()
    np.testing.assert_array_equal(picture[1:], 255 * (patterns[1, :, 1:].permute(1, 2, 0).numpy() > 0))
    assert len(pictures_of("m", Pattern(4.0, "k"), patterns * torch.tensor([0, 1]).view(2, 1, 1, 1))) == 1


def crops(place, name):
    return [
        {
            "video_id": video,
            "frame_index": frame,
            "label": logits[0],
            "method": video.split("/")[1],
            "identities": [f"d:{video}"],
            "clean": float(logits[1][frame]),
            name: float(logits[place][frame]),
        }
        for video, logits in LOGITS.items()
        for frame in range(2)
    ]


@pytest.fixture
def figures():
    return made_up_figures()


def made_up_figures():
    predictions = pa.Table.from_pylist(
        [
            {**row, "model": model, "attack": "pgd", "epsilon": epsilon}
            for model in ("baseline", "defended")
            for epsilon in (1.0, 4.0)
            for row in crops(2, "adversarial")
        ],
        schema=PREDICTION_SCHEMA,
    )
    result = pa.Table.from_pylist(
        [{**row, **other} for row, other in zip(crops(3, "universal"), crops(4, "shuffled"), strict=True)]
    )
    patterns = {model: (Pattern(4.0, f"{model}.safetensors"),) for model in ("baseline", "defended")}
    rows = pa.concat_tables([as_rows(result, model, pattern) for model, (pattern,) in patterns.items()])
    return universal_figures(
        predictions,
        rows,
        patterns,
        {f"{model}.safetensors": model.encode() for model in patterns},
        steps=50,
        images=64,
        resamples=20,
        seed=0,
    )


def test_success_by_hand(figures):
    assert (figures["steps"], figures["images"], figures["per_image"]) == (50, 64, "pgd")
    assert [(record["model"], record["level"]) for record in figures["records"]] == [
        ("baseline", "frame"),
        ("baseline", "video"),
        ("defended", "frame"),
        ("defended", "video"),
    ]
    frame, video = figures["records"][:2]
    counts = {
        attack: (frame[attack]["fake_to_real"]["hits"], video[attack]["fake_to_real"]["hits"])
        for attack in ("per_image", "universal", "shuffled")
    }
    assert counts == {"per_image": (5, 3), "universal": (4, 2), "shuffled": (1, 0)}
    assert (frame["universal"]["fake_to_real"]["among"], video["universal"]["fake_to_real"]["among"]) == (5, 3)
    assert [record["universal"]["real_to_fake"]["hits"] for record in (frame, video)] == [1, 1]
    assert figures["patterns"][1] == {
        "model": "defended",
        "epsilon": 4.0,
        "file": "defended.safetensors",
        "sha256": hashlib.sha256(b"defended").hexdigest(),
    }


def test_the_page_and_the_event_files_have_them(figures, made, tmp_path):
    summary = {**plain_summary(), "universal": figures}
    pictures = [
        picture
        for model in ("baseline", "defended")
        for picture in pictures_of(model, Pattern(4.0, "k"), made.patterns)
    ]
    page = render(summary, patterns=pictures)
    parsed(page)
    assert (
        page.count('alt="universal perturbation, enlarged"') == 4
        and "for fakes, ε 4, × 32" in page
        and "64 crops of validation people" in page
    )
    assert page.count("defended.safetensors") == 1
    without = render({**summary, "universal": None})
    assert "One perturbation for all faces" not in without and "One perturbation for all faces" in render(summary)
    write_tensorboard(tmp_path, summary, patterns=pictures)
    events = EventAccumulator(str(tmp_path / "baseline")).Reload()
    (event,) = events.Scalars("universal_fake_to_real/universal/frame")
    assert (event.step, event.value) == (400, pytest.approx(0.8))
    assert {"universal/fake_to_real_epsilon_4", "universal/real_to_fake_epsilon_4"} <= set(events.Tags()["images"])
