"""The codec in the loop as part of jobs.evaluate, on videos of real faces."""

import shutil

import pytest
import torch
from test_evaluate import RUN, SIZE, config_of, one_by_one, summary_of

import jobs.evaluate as job
from benchmarks import codec_attacks
from jobs import codec_tasks
from robust.config_file import load_config, parse
from robust.data.extraction import extract_video
from robust.data.faces import build_detector
from robust.data.images import decode_image
from robust.data.inputs import to_input
from robust.data.rows import VideoRow
from robust.data.shards import shard_key, write_shard
from robust.errors import ConfigError, UserError
from robust.evaluation import attack_block
from robust.models.checkpoint import save_checkpoint
from robust.models.detector import Architecture, empty_detector
from robust.storage import Storage
from tests import clips

PEOPLE = {"d/fine/a": clips.real_face, "d/fine/b": clips.large_face, "d/real/a": clips.real_face, "d/real/b": clips.large_face}


def config(folder, **codec):
    """Three frames a video, shared in three ways; the rest of the evaluation as small as it goes."""
    settings = {"enabled": True, "epsilons": [8], "crf": [35], "jpeg_quality": [50], "frames_per_video": 2, **codec}
    plain = config_of(folder, epsilons=[0.5], suites={"tiny": {"pgd": {"steps": 2}}}, bootstrap=10, gates={"enabled": False}, codec=settings)
    tree = plain.model_dump(mode="json")
    tree["extract"] |= {"frames_test": 3, "detect_size": 320}
    return parse(tree)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose test split is two people, each once called real and once fake, and a model that calls both fake."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("codec")
    settings = config(folder)
    storage, detector = Storage.from_config(settings.storage), build_detector(settings.extract, device="cpu")
    faces, statuses = [], []
    for video_id, source in PEOPLE.items():
        path = folder / f"{video_id.replace('/', '_')}.mp4"
        shutil.copy(source(), path)
        row = VideoRow(video_id, str(path), int("fine" in video_id), "d", video_id.split("/")[1], (f"d:{video_id[-1]}",), "test")
        found, status = extract_video(row, settings.extract, detector, storage_config=settings.storage, fingerprint="f")
        faces, statuses = faces + found, [*statuses, status]
    write_shard(storage, RUN, shard_key("d", list(PEOPLE), "f"), faces, statuses)
    torch.manual_seed(0)
    model = empty_detector(Architecture("meso_inception4", SIZE, (0.5,) * 3, (0.5,) * 3, None))
    crops = to_input([decode_image(face["image"]) for face in faces], SIZE)
    with torch.no_grad():
        for _ in range(20):
            model.train()(crops)  # statistics of these crops for batch normalisation
        bias = next(parameter for parameter in reversed(list(model.parameters())) if parameter.ndim == 1)
        bias.add_(0.3 - model.eval()(crops).min())
    save_checkpoint(storage, f"{RUN}/train/baseline", model.eval(), {"threshold": 0.0, "frame_threshold": 0.0, "recipe": "baseline"})
    return folder


@pytest.fixture
def by_hand(monkeypatch):
    monkeypatch.setattr(job, "run_tasks", one_by_one)
    monkeypatch.setattr(job, "make_gallery", lambda *_: [])


def test_fakes_are_shared_and_scored_and_finished_blocks_are_found_again(folder, by_hand, monkeypatch):
    settings = config(folder)
    storage = Storage.from_config(settings.storage)
    job.evaluate(settings, storage)
    first = summary_of(folder)["codec"]
    assert first["attacks"] == [{"attack": "pgd", "label": "PGD-2"}]
    assert (first["videos"], first["frames"], first["attack"]) == (2, 4, "PGD-2")
    assert [(record["codec"], record["quality"]) for record in first["records"]] == [("lossless", 0), ("h264", 35), ("jpeg", 50)]
    lossless = first["records"][0]
    assert lossless["caught"]["value"] == lossless["found_clean"]["value"] == 1
    rows = storage.read_table(f"{RUN}/evaluate/codec.parquet").to_pylist()
    assert len(rows) == 4 * 3 and {row["video_id"] for row in rows} == {"d/fine/a", "d/fine/b"}
    predictions = {(row["video_id"], row["frame_index"]): row["clean"]
                   for row in storage.read_table(f"{RUN}/evaluate/predictions.parquet").to_pylist()}
    for row in rows:
        assert row["adversarial"] < row["clean"]
        if row["codec"] == "lossless":
            assert row["clean"] == pytest.approx(predictions[row["video_id"], row["frame_index"]], abs=0.1)
    monkeypatch.setattr(codec_tasks, "share_video", None)
    job.evaluate(settings, storage)
    assert summary_of(folder)["codec"] == first


def test_the_benchmark_prints_what_the_part_of_the_evaluation_measures(folder, capsys):
    settings = config(folder)
    storage = Storage.from_config(settings.storage)
    key = f"{RUN}/evaluate/codec.parquet"
    before = storage.read_bytes(key) if storage.exists(key) else None
    cells = [attack_block.Cell("pgd", 8, 2), attack_block.Cell("eot", 8, 1, samples=2)]
    codec_attacks.main(settings, storage, attacks=cells)
    figures = storage.read_json(f"{RUN}/benchmarks/codec_attacks.json")
    assert [one["label"] for one in figures["attacks"]] == ["PGD-2", "EOT (2 views)"] and len(figures["records"]) == 2 * 3
    assert (storage.read_bytes(key) if storage.exists(key) else None) == before  # the evaluation's own stays
    header, *lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert header == ["lossless", "h264", "35", "jpeg", "50"] and [line[1] for line in lines] == ["PGD-2,", "EOT"]
    for line, records in zip(lines, (figures["records"][:3], figures["records"][3:]), strict=True):
        shares = [record["fake_to_real"]["value"] for record in records]
        assert line[-3:] == ["-" if share is None else f"{100 * share:.1f}" for share in shares]


def test_which_attacks_are_shared_is_a_setting_with_eot_beside_the_headlines_by_default(folder):
    def named(suite, **codec):
        tree = config(folder).model_dump(mode="json")
        tree["evaluate"] |= {"suite": "some", "suites": {"some": {name: {"steps": 2} for name in suite}}}
        tree["evaluate"]["codec"] |= codec
        settings = parse(tree)
        cells = attack_block.cells(settings.evaluate)
        attacks = codec_tasks.shared_attacks(settings, job.headline_cell(settings, cells), cells)
        return [(trial.cell.attack, trial.cell.epsilon, trial.cell.samples) for trial in codec_tasks.trials(settings, attacks)]

    assert named(("pgd", "apgd")) == [("pgd", 8, 1)]
    assert named(("pgd", "eot"), epsilons=[8, 4]) == [("pgd", 4, 1), ("pgd", 8, 1), ("eot", 4, 8), ("eot", 8, 8)]
    assert named(("eot",)) == [("eot", 8, 8)]
    assert named(("pgd", "apgd", "eot"), attacks=["eot", "apgd", "eot"]) == [("eot", 8, 8), ("apgd", 8, 1)]
    with pytest.raises(ConfigError, match="evaluate.codec.attacks: square is not in evaluate.suites.some"):
        named(("pgd",), attacks=["square"])
    with pytest.raises(ConfigError, match="evaluate.codec.attacks: transfer sees other models only"):
        named(("pgd", "transfer"), attacks=["transfer"])
    assert load_config("ray_config.yaml", profile="adaptive").evaluate.codec.enabled


def test_a_video_that_was_replaced_or_is_gone_is_named(folder, by_hand):
    settings = config(folder, epsilons=[2])
    storage, path = Storage.from_config(settings.storage), folder / "d_fine_a.mp4"
    shutil.copy(clips.large_face(), path)
    with pytest.raises(UserError, match="video of d/fine/a, but .*d_fine_a.mp4 is not the file that was extracted"):
        job.evaluate(settings, storage)
    path.unlink()
    with pytest.raises(UserError, match="video of d/fine/a, but .* the file does not exist; put it back"):
        job.evaluate(settings, storage)
    shutil.copy(clips.real_face(), path)


def test_how_many_fakes_is_a_setting_and_which_are_a_matter_of_the_seed(folder):
    status = job.read_status(Storage.from_config(config(folder).storage), RUN)
    drawn = {tuple(codec_tasks.some_fakes(status, 1, seed=seed).column("video_id").to_pylist()) for seed in range(10)}
    assert drawn == {("d/fine/a",), ("d/fine/b",)}
    assert codec_tasks.some_fakes(status, None, seed=0).column("video_id").to_pylist() == ["d/fine/a", "d/fine/b"]
