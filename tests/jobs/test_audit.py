"""jobs/evaluate.py on models of other origin and on a plain folder of images, in one process."""

import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from test_evaluate import RUN, config_of, crop, gates_one_by_one, one_by_one, summary_of, write_crops

import jobs.evaluate as job
from jobs import candidates
from robust.errors import UserError
from robust.storage import Storage
from tests.models.foreign_files import MEAN, SIZE, STD, Net, onnx_file, torchscript

SETTINGS = {"input_size": SIZE, "mean": list(MEAN), "std": list(STD), "output": "two_logits"}


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    """No Ray: tasks run in this process."""
    monkeypatch.setattr(job, "run_tasks", one_by_one)
    monkeypatch.setattr(job, "run_gate_tasks", gates_one_by_one)
    monkeypatch.setattr(job, "make_gallery", lambda *_: [])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same small net as a TorchScript and an ONNX file, and a torchvision ResNet-18 with a random head."""
    folder = tmp_path_factory.mktemp("files")
    net = Net().eval()
    (folder / "net.pt").write_bytes(torchscript(net))
    (folder / "net.onnx").write_bytes(onnx_file(net))
    torch.manual_seed(0)
    save_file(torchvision.models.resnet18(num_classes=2).state_dict(), folder / "resnet18.safetensors")
    return folder


def models_of(files, *names):
    every = {"script": {"kind": "torchscript", "path": str(files / "net.pt"), **SETTINGS},
             "onnx": {"kind": "onnx", "path": str(files / "net.onnx"), **SETTINGS},
             "resnet": {"kind": "timm", "name": "resnet18", "path": str(files / "resnet18.safetensors"), **SETTINGS}}
    return {name: every[name] for name in names or every}


def write_folder(folder, *, reals=6, fakes=6):
    rng = np.random.default_rng(0)
    for label, name, count in ((0, "real", reals), (1, "fake/coarse", fakes), (1, "fake/fine", fakes)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(crop(rng, label)).save(folder / name / f"{i}.png")
    return folder


def test_three_foreign_models_are_attacked_on_the_rows_of_a_run(files, tmp_path):
    """Two files of one net must give the same figures; the ResNet shows that a stock architecture works."""
    config = config_of(tmp_path, epsilons=[4], headline=["pgd", 4], bootstrap=10, gates={"enabled": False}, models=models_of(files))
    storage = Storage.from_config(config.storage)
    write_crops(storage)
    result = job.evaluate(config, storage)
    summary = summary_of(tmp_path)
    assert [model["name"] for model in summary["models"]] == ["script", "onnx", "resnet"]
    assert result["predictions"] == 3 * 2 * 48

    table = storage.read_table(f"{RUN}/evaluate/predictions.parquet").to_pandas().set_index("model")
    same = (table.loc["script", ["clean", "adversarial"]].to_numpy() - table.loc["onnx", ["clean", "adversarial"]].to_numpy())
    assert np.abs(same).max() < 1e-3
    assert (table.loc["resnet", "clean"] != table.loc["resnet", "adversarial"]).mean() > 0.9

    figure = next(one for one in summary["clean"] if one["model"] == "script" and one["group"] == "all")
    assert figure["at"]["frozen"]["threshold"] is None and "no such threshold" in figure["at"]["frozen"]["fpr"]["reason"]
    assert "no thresholds frozen" in summary["models"][0]["card"]["note"]
    assert job.evaluate(config, storage)["blocks_computed"] == 0


def test_other_settings_of_the_same_file_are_another_model(files, tmp_path):
    one = models_of(files, "script")
    config = config_of(tmp_path, models={**one, "turned": {**one["script"], "fake_index": 0}})
    first, second = candidates.find_candidates(config, Storage.from_config(config.storage))
    assert first.sha256 != second.sha256 and first.card["file_sha256"] == second.card["file_sha256"]
    x = torch.rand(3, 3, SIZE, SIZE)
    load = candidates.load_model.__wrapped__
    ours, turned = (load(place.storage, place.key, place.sha256, "cpu") for place in (first, second))
    torch.testing.assert_close(ours(x), -turned(x))


def test_a_file_that_was_changed_in_the_storage_is_not_loaded(files, tmp_path):
    config = config_of(tmp_path, models=models_of(files, "script"))
    storage = Storage.from_config(config.storage)
    (one,) = candidates.find_candidates(config, storage)
    storage.write_bytes(f"{one.key}/model", (files / "net.onnx").read_bytes())
    with pytest.raises(UserError, match="SHA-256 differs"):
        candidates.load_model.__wrapped__(one.storage, one.key, one.sha256, "cpu")


def test_a_folder_of_images_is_evaluated_and_only_new_images_are_computed(files, tmp_path):
    folder = write_folder(tmp_path / "images")
    (folder / "fake/fine/broken.png").write_bytes((folder / "fake/fine/0.png").read_bytes()[:300])
    config = config_of(tmp_path, epsilons=[0.5], bootstrap=10, gates={"images": 8}, models=models_of(files, "script"), images=str(folder))
    storage = Storage.from_config(config.storage)
    job.evaluate(config, storage)
    summary = summary_of(tmp_path)
    assert {count["group"]: (count["fake_videos"], count["real_videos"]) for count in summary["counts"]} == {
        "all": (12, 6), "coarse": (6, 6), "fine": (6, 6), "real": (0, 6)}
    (skipped,) = summary["data"]["skipped"]
    assert skipped["video_id"] == "image_folder/fine/broken.png" and skipped["status"] == "unreadable"
    assert "not known" in summary["data"]["note"] and summary["intervals"]["unit_count"] == 18
    assert summary["data"]["note"] in storage.read_bytes(f"{RUN}/report/index.html").decode().replace("&#39;", "'")
    assert job.evaluate(config, storage)["blocks_computed"] == 0

    rng = np.random.default_rng(5)
    Image.fromarray(crop(rng, 0)).save(folder / "real/more.png")
    assert job.evaluate(config, storage)["blocks_computed"] > 0
    assert next(one for one in summary_of(tmp_path)["counts"] if one["group"] == "all")["real_videos"] == 7


def test_images_do_not_join_a_run_of_videos(files, tmp_path):
    folder = write_folder(tmp_path / "images", reals=1, fakes=1)
    config = config_of(tmp_path, models=models_of(files, "script"), images=str(folder))
    storage = Storage.from_config(config.storage)
    write_crops(storage)
    with pytest.raises(UserError, match="give the images a run of their own: run.name"):
        job.evaluate(config, storage)


def test_a_name_that_is_taken_and_a_file_that_is_not_there_are_told(files, tmp_path):
    config = config_of(tmp_path, models={"x": {**models_of(files)["script"], "path": str(tmp_path / "none.pt")}})
    with pytest.raises(UserError, match="none.pt does not exist"):
        candidates.find_candidates(config, Storage.from_config(config.storage))
    folder = config_of(tmp_path, models={"x": {**models_of(files)["script"], "path": str(tmp_path)}})
    with pytest.raises(UserError, match="evaluate.models.x: .* is no file"):
        candidates.find_candidates(folder, Storage.from_config(folder.storage))


def test_the_summary_is_json_that_names_the_file(files, tmp_path):
    config = config_of(tmp_path, models=models_of(files, "onnx"))
    (one,) = candidates.find_candidates(config, Storage.from_config(config.storage))
    assert json.loads(json.dumps(one.card))["file"] == "net.onnx" and len(one.card["file_sha256"]) == 64
