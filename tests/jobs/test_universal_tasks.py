"""Universal perturbations as part of jobs.evaluate: made on validation people, kept, resumed, applied to test crops."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load
from test_evaluate import RUN, SIZE, config_of, crop, summary_of, write_crops
from test_whole_video_tasks import Linear, some_crops, write_untrained

import jobs.evaluate as job
from jobs import block_tasks, universal_tasks
from robust.attacks.threat import Linf
from robust.attacks.universal import fit_universal
from robust.data.face_table import read_faces
from robust.data.images import decode_image, encode_image
from robust.data.inputs import to_input, to_tensor
from robust.data.shards import STATUS_SCHEMA, read_status, shard_key, write_shard
from robust.errors import ConfigError, UserError
from robust.evaluation.universal_table import SHUFFLED, UNIVERSAL, Pattern, to_bytes
from robust.models.checkpoint import load_checkpoint
from robust.storage import Storage


def write_validation(storage):
    """Six reals and six fakes of other people, two frames each."""
    rng = np.random.default_rng(5)
    faces, statuses = [], []
    for number in range(12):
        label, video_id = number % 2, f"demo/{'fine' if number % 2 else 'Celeb-real'}/val{number}"
        common = {
            "video_id": video_id,
            "dataset": "demo",
            "label": label,
            "method": video_id.split("/")[1],
            "identities": [f"demo:val{number}"],
            "split": "val",
        }
        statuses.append(
            {
                **dict.fromkeys(STATUS_SCHEMA.names),
                **common,
                "uri": video_id,
                "frames_found": 2,
                "status": "ok",
                "reason": "",
                "frames_asked": 2,
                "frames_decoded": 2,
                "source_bytes": 1,
                "fingerprint": "f",
            }
        )
        faces += [
            {
                **common,
                "frame_index": frame,
                "timestamp_s": 0.1 * frame,
                "box": [0.0] * 4,
                "landmarks": [0.0] * 10,
                "score": 1.0,
                "track": 0,
                "image": encode_image(crop(rng, label)),
                "height": 40,
                "width": 40,
            }
            for frame in range(2)
        ]
    write_shard(storage, RUN, shard_key("demo", [row["video_id"] for row in statuses], "f"), faces, statuses)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("universal")
    storage = Storage.from_config(config_of(folder).storage)
    write_untrained(storage, write_crops(storage)[0])
    write_validation(storage)
    return folder


def config(folder, *, universal=None, **evaluate):
    settings = {"enabled": True, "epsilons": [4], "steps": 5, "images": 16, **(universal or {})}
    return config_of(
        folder,
        **{
            "epsilons": [4],
            "bootstrap": 10,
            "gates": {"enabled": False},
            "headline": ["worst", 4],
            "universal": settings,
            **evaluate,
        },
    )


@pytest.fixture
def by_hand(monkeypatch):
    """No Ray: tasks run in this process; returns the patterns that were made."""
    made = []

    def one_by_one(config, storage, tasks, **_):
        made.extend(item for task in tasks if task.measure is universal_tasks.fit_pattern for item in task.items)
        return sum(block_tasks.run_task(config, storage, task) for task in tasks)

    monkeypatch.setattr(job, "run_tasks", one_by_one)
    monkeypatch.setattr(job, "make_gallery", lambda *_: [])
    return made


def test_of_a_linear_logit_one_pattern_is_the_optimum_of_every_image(tmp_path):
    # The worst case of each image is epsilon * sign(w), the same for all fakes, its opposite for all reals.
    model, (crops, pixels) = Linear().eval(), some_crops()
    settings = config_of(tmp_path, batch_size=4)
    storage = Storage.from_config(settings.storage)
    x, y = to_tensor(pixels), torch.tensor(crops.column("label").to_numpy())
    made = fit_universal(model, x, y, Linf.from_255(4), steps=3, clip=1e9)
    best = 4 / 255 * model.weight.detach().sign()
    torch.testing.assert_close(made.patterns, torch.stack([best, -best]))
    storage.write_bytes("p.safetensors", to_bytes(made))
    result = universal_tasks.apply_pattern(
        model, crops, pixels, Pattern(4.0, "p.safetensors"), settings, "cpu", storage=storage
    )
    moved = 4 / 255 * model.weight.abs().sum().item()
    gains = {
        name: (result.column(name).to_numpy() - result.column("clean").to_numpy()) * (1 - 2 * y.numpy())
        for name in (UNIVERSAL, SHUFFLED)
    }
    np.testing.assert_allclose(gains[UNIVERSAL], moved, atol=1e-3)
    assert np.abs(gains[SHUFFLED]).max() < 0.1 * moved


def kept(storage):
    return storage.read_table(f"{RUN}/evaluate/universal.parquet")


def test_patterns_are_made_once_on_validation_crops_and_found_again(folder, by_hand):
    storage = Storage.from_config(config(folder).storage)
    job.evaluate(config(folder), storage)
    first, rows = summary_of(folder)["universal"], kept(storage)
    assert (first["images"], first["steps"], first["per_image"]) == (16, 5, "worst") and len(rows) == 2 * 2 * 48
    assert [(record["model"], record["level"]) for record in first["records"]] == [
        ("baseline", "frame"),
        ("baseline", "video"),
        ("defended", "frame"),
        ("defended", "video"),
    ]
    files = [one["file"] for one in first["patterns"]]
    assert len(by_hand) == 2 and storage.list(f"{RUN}/evaluate/universal/") == sorted(files)
    page = (folder / "storage" / RUN / "report/index.html").read_text()
    assert page.count('alt="universal perturbation, enlarged"') == 4 and "for fakes, ε 4, × 32" in page

    storage.delete(files[0])
    for key in storage.list(f"{RUN}/evaluate/blocks")[::2]:
        storage.delete(key)
    predictions = storage.read_table(f"{RUN}/evaluate/predictions.parquet")
    status = read_status(storage, RUN)
    again, pictures = universal_tasks.measure_universal(
        config(folder),
        storage,
        job.find_candidates(config(folder), storage),
        status,
        predictions,
        universal_tasks.choose_validation(config(folder), status),
        shown=0.5,
        run=job.run_tasks,
    )
    assert [picture.epsilon for picture in pictures] == [4.0] * 4 and json.loads(json.dumps(again)) == first
    assert [pattern.key for pattern in by_hand[2:]] == files[:1]  # one made again, the other found
    assert kept(storage).equals(rows)

    # What is kept is what the attack makes of the validation crops, and nothing of the test split.
    faces = read_faces(storage, RUN, split="val").to_pylist()
    sample = universal_tasks.choose_validation(config(folder), status)
    crops = pa.Table.from_pylist([{name: face[name] for name in ("video_id", "label")} for face in faces])
    chosen = universal_tasks.credibility.choose_crops(crops, sample.images)
    x, y = (
        to_input([decode_image(faces[index]["image"]) for index in chosen], SIZE),
        torch.tensor([faces[index]["label"] for index in chosen]),
    )
    assert len(y) == 16 and y.sum() == 8
    model, _ = load_checkpoint(storage, f"{RUN}/train/baseline")
    again = fit_universal(model.eval(), x, y, Linf.from_255(4), steps=5)
    patterns = load(storage.read_bytes(files[0]))["patterns"]
    assert (patterns - again.patterns).abs().gt(
        1e-6
    ).float().mean() < 0.02  # a sign may fall to the other side by rounding

    test = {(row["video_id"], row["frame_index"]): row for row in read_faces(storage, RUN, split="test").to_pylist()}
    for row in rows.to_pylist()[::7]:
        if row["model"] == "baseline" and row["attack"] == "universal":
            image = to_input([decode_image(test[row["video_id"], row["frame_index"]]["image"])], SIZE)
            with torch.no_grad():
                assert row["clean"] == pytest.approx(model(image).item(), abs=1e-3)
                assert row["adversarial"] == pytest.approx(
                    model((image + patterns[row["label"]]).clamp(0, 1)).item(), abs=1e-3
                )


def test_a_pattern_is_of_its_model_crops_epsilon_and_steps(folder):
    settings, a, b = config(folder), SimpleNamespace(function="a"), SimpleNamespace(function="b")
    status = read_status(Storage.from_config(settings.storage), RUN)
    sample, fewer = (
        universal_tasks.choose_validation(config(folder, universal={"images": images}), status) for images in (16, 4)
    )
    keys = {
        universal_tasks.pattern_key(settings, *facts)
        for facts in ((a, sample, 4.0), (b, sample, 4.0), (a, fewer, 4.0), (a, sample, 8.0))
    }
    keys.add(universal_tasks.pattern_key(config(folder, universal={"steps": 6}), a, sample, 4.0))
    assert len(keys) == 5
    assert (
        universal_tasks.choose_validation(config(folder, universal={"images": 100}), status).images == 24
    )  # all there are
    assert universal_tasks.choose_validation(config(folder, universal={"images": 7}), status).images == 6


def test_the_crops_are_read_once_for_all_epsilons_of_a_model(folder, by_hand, monkeypatch):
    settings = config(folder, epsilons=[4, 6], universal={"epsilons": [4, 6], "steps": 1, "images": 4})
    storage, status = Storage.from_config(settings.storage), read_status(Storage.from_config(settings.storage), RUN)
    candidates, read, reads = job.find_candidates(settings, storage), universal_tasks.credibility.read_sample, []
    monkeypatch.setattr(
        universal_tasks.credibility, "read_sample", lambda *args, **more: reads.append(args) or read(*args, **more)
    )
    sample = universal_tasks.choose_validation(settings, status)
    patterns = universal_tasks.make_patterns(settings, storage, candidates, sample, run=job.run_tasks)
    assert len(reads) == len(candidates) == 2 and [pattern.epsilon for pattern in by_hand] == [4, 6] * 2
    assert {pattern.key for of_model in patterns.values() for pattern in of_model} <= set(storage.list(f"{RUN}/"))


def test_without_validation_crops_it_says_what_to_do_before_any_work(folder, by_hand, monkeypatch):
    storage = Storage.from_config(config(folder).storage)
    status = read_status(storage, RUN)
    monkeypatch.setattr(job, "read_status", lambda *_: status.filter(pa.compute.field("split") == "test"))
    monkeypatch.setattr(job, "run_tasks", None)
    with pytest.raises(
        UserError, match="evaluate.universal needs validation crops .* has 0 and 0; see data.splits, or set"
    ):
        job.evaluate(config(folder), storage)


def test_a_damaged_pattern_is_named(folder, by_hand):
    settings = config(folder, universal={"steps": 2})
    storage = Storage.from_config(settings.storage)
    status, candidates = read_status(storage, RUN), job.find_candidates(settings, storage)
    sample = universal_tasks.choose_validation(settings, status)
    for candidate in candidates:
        storage.write_bytes(universal_tasks.pattern_key(settings, candidate, sample, 4.0), b"junk")
    with pytest.raises(UserError, match="universal perturbation .*safetensors is damaged .*delete it"):
        universal_tasks.measure_universal(
            settings, storage, candidates, status, None, sample, shown=4.0, run=job.run_tasks
        )
    assert by_hand == []


def test_switched_off_by_default_and_only_at_evaluated_epsilons(folder):
    assert universal_tasks.choose_validation(config_of(folder), None) is None
    assert universal_tasks.measure_universal(config_of(folder), None, [], None, None, None, shown=4.0, run=None) == (
        None,
        [],
    )
    with pytest.raises(ConfigError, match="evaluate.universal.epsilons: 3 is not among evaluate.epsilons"):
        config(folder, universal={"epsilons": [3]})
