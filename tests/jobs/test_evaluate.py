"""jobs/evaluate.py on two small models and made-up crops, with a small local Ray."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import jobs.evaluate as job
from cluster.local import LocalCluster
from jobs import block_tasks, candidates, gate_tasks, surrogates
from jobs.cli import run_job
from jobs.room import require_room
from robust.attacks.threat import Linf
from robust.attacks.transfer import mi_fgsm
from robust.config_file import parse
from robust.config_identity import dump_yaml
from robust.data.images import encode_image
from robust.data.inputs import to_tensor
from robust.data.shards import STATUS_SCHEMA, read_status, shard_key, write_shard
from robust.errors import UserError
from robust.evaluation import attack_block, blocks, credibility
from robust.evaluation.summary import without_timing
from robust.models.checkpoint import save_checkpoint
from robust.models.detector import Architecture, empty_detector
from robust.storage import Storage
from tests.models import foreign_files

RUN, SIZE = "tiny", 32


def crop(rng, label):
    """A smooth picture; a fake has a fine grid on it."""
    rough = rng.uniform(60, 200, (4, 4, 3)).repeat(10, 0).repeat(10, 1)
    grid = label * 12 * (np.indices((40, 40)).sum(0) % 4 < 2)[..., None]
    return np.clip(rough + grid + rng.normal(0, 2, (40, 40, 3)), 0, 255).astype(np.uint8)


def write_crops(storage):
    """Two shards of the test split: 8 reals, 8 fakes of two kinds, 3 frames each, and one video without a face."""
    rng = np.random.default_rng(0)
    videos = [(f"demo/Celeb-real/id{i}", 0, "Celeb-real", [f"demo:id{i}"]) for i in range(8)]
    videos += [(f"demo/{kind}/id{i}_id{i + 1}", 1, kind, [f"demo:id{i}", f"demo:id{i + 1}"])
               for kind in ("coarse", "fine") for i in range(0, 8, 2)]
    images, labels = [], []
    for part in (videos[::2], videos[1::2] + [("demo/fine/id9", 1, "fine", ["demo:id9"])]):
        shard = shard_key("demo", [video[0] for video in part], "f")
        faces, statuses = [], []
        for video_id, label, method, people in part:
            common = {"video_id": video_id, "dataset": "demo", "label": label, "method": method, "identities": people, "split": "test"}
            found = 0 if video_id.endswith("id9") else 3
            statuses.append({**dict.fromkeys(STATUS_SCHEMA.names), **common, "uri": video_id, "frames_found": found,
                             "status": "ok" if found else "no_face", "reason": "" if found else "no face in any of 3 frames",
                             "frames_asked": 3, "frames_decoded": 3, "source_bytes": 1, "fingerprint": "f"})
            for frame in range(found):
                images.append(crop(rng, label))
                labels.append(label)
                faces.append({**common, "frame_index": frame, "timestamp_s": 0.1 * frame, "box": [0.0] * 4, "landmarks": [0.0] * 10,
                              "score": 1.0, "track": 0, "image": encode_image(images[-1]), "height": 40, "width": 40})
        write_shard(storage, RUN, shard, faces, statuses)
    return images, labels


def write_models(storage, images, labels):
    """A baseline that learned the grid, and a `defended` one whose logits move a tenth as far."""
    from robust.data.inputs import resize

    torch.manual_seed(0)
    architecture = Architecture("meso_inception4", SIZE, (0.5,) * 3, (0.5,) * 3, None)
    model = empty_detector(architecture).train()
    x, y = to_tensor(resize(images, SIZE)), torch.tensor(labels).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x), y).backward()
        optimizer.step()
    for name, threshold in (("baseline", 0.2), ("defended", 0.1)):
        save_checkpoint(storage, f"{RUN}/train/{name}", model.eval(), {"threshold": threshold, "frame_threshold": threshold, "recipe": name})
        with torch.no_grad():
            next(parameter for parameter in reversed(list(model.parameters())) if parameter.ndim == 1).sub_(0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that is extracted and trained."""
    folder = tmp_path_factory.mktemp("evaluate")
    storage = Storage.from_config(config_of(folder).storage)
    write_models(storage, *write_crops(storage))
    return folder


def config_of(folder: Path, **evaluate):
    settings = {"epsilons": [0.5, 4], "suite": "tiny", "suites": {"tiny": {"fgsm": {"steps": 1}, "pgd": {"steps": 3}}}, "block_size": 10, "batch_size": 4,
                "bootstrap": 20, "gallery": 2, "corruptions": {"enabled": False}, "export": {"crops": 0}, **evaluate}
    return parse({"run": {"name": RUN}, "storage": {"uri": str(folder / "storage")},
                  "cluster": {"address": "local", "num_cpus": 2, "object_store_memory_mb": 100, "outputs": str(folder / "outputs")}, "evaluate": settings})


@pytest.fixture(scope="module")
def small_ray(folder):
    with LocalCluster(config_of(folder)):
        yield


@pytest.fixture
def by_hand(monkeypatch):
    """No Ray: tasks run in this process, one after another, the last first."""
    monkeypatch.setattr(job, "run_tasks", one_by_one)
    monkeypatch.setattr(job, "run_gate_tasks", gates_one_by_one)
    monkeypatch.setattr(job, "make_gallery", lambda *_: [])


def one_by_one(config, storage, tasks, **_):
    return sum(block_tasks.run_task(config, storage, task) for task in reversed(tasks))


def gates_one_by_one(config, storage, tasks):
    for task in tasks:
        gate_tasks.gates_task(config, storage, *task)


def summary_of(folder):
    return json.loads((folder / "storage" / RUN / "report/summary.json").read_text())


ATTACKS = {"fgsm": {"steps": 1}, "pgd": {"steps": 3}, "transfer": {"steps": 2}, "eot": {"steps": 1}}
EVERYTHING = {"suites": {"tiny": ATTACKS}, "eot_samples": 2, "export": {"crops": 4, "epsilon": 4},
              "corruptions": {"severities": [3], "frames_per_video": 1},
              "smoothing": {"enabled": True, "sigmas": [16], "n0": 5, "n": 20}}
"""All parts but the codec, which needs videos: tests/jobs/test_whole_summary.py has it too."""


@pytest.mark.cluster
def test_a_whole_evaluation_then_nothing_to_do_then_one_cpu_gives_the_same(folder, small_ray, monkeypatch):
    config = config_of(folder, **EVERYTHING)
    storage = Storage.from_config(config.storage)
    result = job.evaluate(config, storage)
    first = summary_of(folder)
    assert first["corruptions"]["models"] and first["smoothing"]["records"] and first["export"]["crops"] == 4
    assert result["predictions"] == 2 * 8 * 48 and result["skipped_videos"] == 1
    assert [model["name"] for model in first["models"]] == ["baseline", "defended"]
    assert first["headline"]["models"]["baseline"]["value"] is not None
    assert first["data"]["skipped"] == [
        {"video_id": "demo/fine/id9", "status": "no_face", "reason": "no face in any of 3 frames"}]

    copy = folder / "outputs" / RUN / "report/index.html"
    page = copy.read_text()
    assert page == storage.read_bytes(f"{RUN}/report/index.html").decode()
    assert page.count("data:image/webp") == 2 * (1 + 2 * 2)
    assert str(copy) in result["summary"]
    events = storage.list(f"{RUN}/tensorboard/evaluate")
    assert [key.split("/")[3] for key in events] == ["baseline", "defended"]

    assert result["verdict"] == "CREDIBLE: 16 gates passed for each of 2 models" and result["credible"] is True
    assert [gate["model"] for gate in first["gates"]] == ["baseline"] * 16 + ["defended"] * 16
    kept = {key: storage.read_json(key) for key in storage.list(f"{RUN}/evaluate/gates")}
    assert len(kept) == 2

    again = job.evaluate(config, storage)
    assert again["blocks_computed"] == 0
    assert {key: storage.read_json(key) for key in storage.list(f"{RUN}/evaluate/gates")} == kept
    assert without_timing(summary_of(folder)) == without_timing(first)

    storage.delete_prefix(f"{RUN}/evaluate/blocks")
    monkeypatch.setattr(job, "run_tasks", one_by_one)
    assert job.evaluate(config, storage)["blocks_computed"] == result["blocks_computed"]
    assert without_timing(summary_of(folder)) == without_timing(first)


@pytest.mark.cluster
def test_an_audit_of_foreign_files_on_images_with_certificates_runs_on_the_cluster(small_ray, tmp_path):
    net, rng = foreign_files.Net().eval(), np.random.default_rng(0)
    scale = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "input_size": SIZE, "output": "two_logits"}
    (tmp_path / "net.pt").write_bytes(foreign_files.torchscript(net))
    (tmp_path / "net.onnx").write_bytes(foreign_files.onnx_file(net))
    save_file(torchvision.models.resnet18(num_classes=2).state_dict(), tmp_path / "resnet.safetensors")
    files = {"script": {"kind": "torchscript", "path": "net.pt"}, "onnx": {"kind": "onnx", "path": "net.onnx"},
             "resnet": {"kind": "timm", "path": "resnet.safetensors", "name": "resnet18"}}
    models = {name: {**facts, "path": str(tmp_path / facts["path"]), **scale} for name, facts in files.items()}
    for label, kind in ((0, "real"), (1, "fake/coarse")):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(crop(rng, label)).save(tmp_path / "images" / kind / f"{i}.png")
    config = config_of(tmp_path, epsilons=[4], headline=["pgd", 4], suites={"tiny": {"pgd": {"steps": 2}}}, bootstrap=10,
                       gates={"enabled": False}, gallery=1, models=models, images=str(tmp_path / "images"),
                       export={"crops": 2, "epsilon": 4}, smoothing={"enabled": True, "sigmas": [16], "n0": 5, "n": 20})
    storage = Storage.from_config(config.storage)
    job.evaluate(config, storage)
    summary = summary_of(tmp_path)
    assert [(one["model"], one["sigma"]) for one in summary["smoothing"]["records"]] == [(name, 16) for name in models]
    logits = {name: storage.read_table(f"{RUN}/evaluate/predictions.parquet", columns=["model", "clean", "adversarial"])
              .filter(pc.field("model") == name).drop_columns("model").to_pandas().to_numpy() for name in models}
    np.testing.assert_allclose(logits["script"], logits["onnx"], atol=1e-3)
    assert len(logits["resnet"]) == 8 and (logits["resnet"][:, 0] != logits["resnet"][:, 1]).all()
    certificates = storage.read_table(f"{RUN}/evaluate/certificates.parquet").to_pandas()
    votes = certificates.pivot(index="video_id", columns="model", values="votes")
    assert votes.shape == (8, 3) and (votes["script"] - votes["onnx"]).abs().max() <= 1
    assert [row["model"] for row in summary["export"]["models"]] == list(models)


def test_a_stopped_job_goes_on_from_its_finished_blocks(folder, by_hand):
    config = config_of(folder, epsilons=[0.5], bootstrap=10)
    storage = Storage.from_config(config.storage)
    storage.delete_prefix(f"{RUN}/evaluate/blocks")
    whole = job.evaluate(config, storage)
    first = summary_of(folder)
    finished = storage.list(f"{RUN}/evaluate/blocks")
    assert len(finished) == whole["blocks_computed"]
    for key in finished[::3]:
        storage.delete(key)
    assert job.evaluate(config, storage)["blocks_computed"] == len(finished[::3])
    assert without_timing(summary_of(folder)) == without_timing(first)


def test_a_sequential_suite_killed_between_two_attacks_goes_on_and_ends_the_same(folder, by_hand, monkeypatch):
    suite = {"pgd": {"steps": 2}, "fmn": {"steps": 2}, "square": {"steps": 5}}
    config = config_of(folder, epsilons=[0.5, 2], suites={"tiny": suite}, only_robust=["tiny"], bootstrap=10, gates={"enabled": False})
    storage = Storage.from_config(config.storage)
    monkeypatch.setattr(job, "find_candidates", lambda *_, found=job.find_candidates(config, storage)[:1]: found)
    storage.delete_prefix(f"{RUN}/evaluate/blocks")
    whole = job.evaluate(config, storage)
    first, kept = summary_of(folder), storage.list(f"{RUN}/evaluate/blocks")
    assert len(kept) == whole["blocks_computed"] == 6 * (2 + 1 + 2)  # blocks, attacks: fmn once
    assert [attack["label"] for attack in first["attacks"]][:3] == ["PGD-2", "+ FMN-2", "+ SQUARE-5"]
    shares = {(one["model"], one["attack"]): one["attacked"] / one["crops"] for one in first["cost"]}
    assert shares["baseline", "fmn"] == 1 and 0 < shares["baseline", "square"] < shares["baseline", "pgd"] <= 1

    storage.delete_prefix(f"{RUN}/evaluate/blocks")
    write, written = Storage.write_table, []

    def killed(storage, key, table, **settings):
        if "/blocks/" in key and len(written) % 4 == 3:  # each task dies in the middle of its attacks
            written.append(None)
            raise KeyboardInterrupt
        written.append(key)
        return write(storage, key, table, **settings)

    monkeypatch.setattr(Storage, "write_table", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            job.evaluate(config, storage)
    monkeypatch.setattr(Storage, "write_table", write)
    for key in storage.list(f"{RUN}/evaluate/blocks")[::4]:
        storage.delete(key)
    assert 0 < job.evaluate(config, storage)["blocks_computed"] < len(kept)
    assert storage.list(f"{RUN}/evaluate/blocks") == kept
    assert without_timing(summary_of(folder)) == without_timing(first)
    storage.delete_prefix(f"{RUN}/evaluate/blocks")


class MaskedGradient(nn.Module):
    """The model behind a rounding of its input, which leaves no gradient."""

    def __init__(self, model):
        super().__init__()
        self.model, self.input_size = model, model.input_size
        self.eval()

    def forward(self, x):
        return self.model((x * 32).round() / 32)


def test_a_failed_gate_means_exit_code_3_no_headline_and_a_report(folder, by_hand, monkeypatch, tmp_path, capfd):
    load = candidates.load_model.__wrapped__
    for tasks in (block_tasks, gate_tasks):
        monkeypatch.setattr(tasks, "load_model", lambda *where: MaskedGradient(load(*where)))
    config = config_of(folder, epsilons=[2], headline=["pgd", 2], bootstrap=10)
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    for _ in range(2):  # the second finds every result, and refuses again
        code = run_job("evaluate", job.evaluate, needs_ray=False, argv=["--config", str(tmp_path / "config.yaml"), f"run.name={RUN}"])
        told = capfd.readouterr().err.splitlines()[-1]
        assert code == 3
        assert told.startswith("evaluate: NOT CREDIBLE: input_gradients (baseline), input_gradients (defended). input_gradients: 100 %")
        monkeypatch.setattr(gate_tasks, "gates_task", None)
        monkeypatch.setattr(block_tasks, "run_task", None)
    summary = summary_of(folder)
    assert summary["headline"] is None and summary["verdict"]["credible"] is False
    assert len(summary["gates"]) == 2 * 4 and len(summary["under_attack"]) > 0
    storage = Storage.from_config(config.storage)
    result = storage.read_json(f"{RUN}/evaluate/result.json")
    assert result["verdict"].startswith("NOT CREDIBLE") and result["headline"] is None and result["credible"] is False
    assert "NOT CREDIBLE" in storage.read_bytes(f"{RUN}/report/index.html").decode()
    for prefix in ("evaluate", "config.yaml"):
        storage.delete_prefix(f"{RUN}/{prefix}")


def test_the_gates_take_the_budget_of_a_gradient_attack(folder):
    suite = {"square": {"steps": 5000}, "eot": {"steps": 25}, "apgd": {"steps": 40, "restarts": 5}}

    def budget_of(headline, **attacks):
        config = config_of(folder, suites={"tiny": attacks}, headline=[headline, 4])
        cell = gate_tasks.gates_cell(config, attack_block.cells(config.evaluate))
        return cell.attack, cell.epsilon, cell.steps, cell.restarts, cell.samples

    assert budget_of("square", **suite) == budget_of("eot", **suite) == budget_of("worst", **suite) == ("apgd", 4, 40, 5, 1)
    assert budget_of("square", square={"steps": 5000}) == ("pgd", 4, 20, 1, 1)


def test_gates_can_be_left_out(folder, by_hand, monkeypatch):
    monkeypatch.setattr(gate_tasks, "gates_task", None)
    config = config_of(folder, epsilons=[0.5], bootstrap=10, gates={"enabled": False})
    result = job.evaluate(config, Storage.from_config(config.storage))
    assert result["credible"] is None and result["headline"] is not None
    assert "NOT CHECKED" in result["summary"]


def test_settings_may_change_between_evaluations_and_what_is_left_out_leaves_no_table(folder, by_hand, tmp_path):
    def run(**evaluate):
        settings = {"epsilons": [0.5], "bootstrap": 10, "gates": {"enabled": False}, **evaluate}
        (tmp_path / "config.yaml").write_text(dump_yaml(config_of(folder, **settings)))
        assert run_job("evaluate", job.evaluate, needs_ray=False, argv=["--config", str(tmp_path / "config.yaml")]) == 0
        return summary_of(folder), storage.exists(f"{RUN}/evaluate/certificates.parquet")

    storage = Storage.from_config(config_of(folder).storage)
    first, there = run()
    assert first["smoothing"] is None and not there
    more, there = run(smoothing={"enabled": True, "sigmas": [16], "n0": 5, "n": 20}, bootstrap=20)
    assert more["smoothing"]["records"] and there
    again, there = run()
    assert without_timing(again) == without_timing(first) and not there
    for prefix in ("evaluate", "config.yaml"):
        storage.delete_prefix(f"{RUN}/{prefix}")


def test_new_weights_under_an_old_name_are_evaluated_anew(folder, by_hand):
    config = config_of(folder, epsilons=[0.5], bootstrap=10)
    storage = Storage.from_config(config.storage)
    job.evaluate(config, storage)
    first, second = job.find_candidates(config, storage)
    changed = candidates.Candidate("defended", second.storage, second.key, {**second.card, "sha256": "0" * 64})
    plan = blocks.plan_blocks(read_status(storage, RUN), split="test", block_size=10)
    cells = attack_block.cells(config.evaluate)
    assert job.missing_tasks(config, storage, [first, second], plan, job.attack_crops, cells) == []
    tasks = job.missing_tasks(config, storage, [first, changed], plan, job.attack_crops, cells)
    assert sum(len(task.items) for task in tasks) == len(plan) * len(cells)
    with pytest.raises(UserError, match="changed while"):
        block_tasks.run_task(config, storage, tasks[0])


@pytest.mark.parametrize("changed", [{"mean": [0.1, 0.1, 0.1]}, {"std": [1.0, 1.0, 1.0]}, {"activation": "silu"}])
def test_the_same_weights_under_another_card_are_another_model(folder, by_hand, changed):
    config = config_of(folder, epsilons=[0.5], bootstrap=10)
    storage = Storage.from_config(config.storage)
    one = job.find_candidates(config, storage)[0]
    other = candidates.Candidate("other", one.storage, one.key, {**one.card, "architecture": {**one.card["architecture"], **changed}})
    plan = blocks.plan_blocks(read_status(storage, RUN), split="test", block_size=10)
    cell = attack_block.cells(config.evaluate)[0]
    assert one.sha256 == other.sha256 and one.card["architecture"] != other.card["architecture"]
    assert block_tasks.result_key(config, one, plan[0], cell) != block_tasks.result_key(config, other, plan[0], cell)
    sample = gate_tasks.credibility.choose_sample(read_status(storage, RUN), split="test", images=8)
    assert gate_tasks.gates_key(config, one, sample, cell) != gate_tasks.gates_key(config, other, sample, cell)
    assert surrogates.other_models(one, [one, other]) == (other.function,)


def test_a_card_without_the_hash_of_its_weights_is_named(folder, by_hand):
    config = config_of(folder)
    storage = Storage.from_config(config.storage)
    card = f"{RUN}/train/defended/card.json"
    kept = storage.read_json(card)
    storage.write_json(card, {name: value for name, value in kept.items() if name != "sha256"})
    try:
        with pytest.raises(UserError, match="train/defended: card.json has no sha256 of model.safetensors"):
            job.find_candidates(config, storage)
    finally:
        storage.write_json(card, kept)


TRANSFER = {"tiny": {"pgd": {"steps": 3}, "transfer": {"steps": 3}}}


def test_transfer_is_made_on_the_other_checkpoints_and_kept_under_their_weights(folder, by_hand):
    config = config_of(folder, epsilons=[4], headline=["worst", 4], suites=TRANSFER, bootstrap=10, gates={"enabled": False})
    storage = Storage.from_config(config.storage)
    job.evaluate(config, storage)
    assert job.evaluate(config, storage)["blocks_computed"] == 0
    baseline, defended = job.find_candidates(config, storage)
    plan = blocks.plan_blocks(read_status(storage, RUN), split="test", block_size=10)
    cell = attack_block.cells(config.evaluate)[1]
    assert cell.attack == "transfer"
    for target, other in ((baseline, defended), (defended, baseline)):
        (found,) = surrogates.cells_of(target, [baseline, defended], [cell])
        assert found.surrogates == (other.function,)
        model, surrogate = (candidates.load_model(one.storage, one.key, one.sha256, "cpu") for one in (target, other))
        crops, pixels = blocks.read_block(storage, RUN, plan[0], size=SIZE)
        x, y = to_tensor(pixels), torch.tensor(crops.column("label").to_pylist())
        x_adv = mi_fgsm(surrogate, x, y, Linf.from_255(4), steps=3, generator=torch.Generator().manual_seed(config.run.seed))
        kept = storage.read_table(block_tasks.result_key(config, target, plan[0], found))
        np.testing.assert_allclose(kept.column("adversarial").to_numpy(), attack_block.logits(model, x_adv), atol=1e-4)
    changed = candidates.Candidate("defended", defended.storage, defended.key, {**defended.card, "sha256": "0" * 64})
    cells = surrogates.cells_of(baseline, [baseline, changed], attack_block.cells(config.evaluate))
    tasks = job.missing_tasks(config, storage, [baseline], plan, job.attack_crops, cells)
    assert len(tasks) == len(plan) and {item.attack for task in tasks for item in task.items} == {"transfer"}


def test_the_gates_of_a_model_look_at_the_others_by_their_weights(folder, by_hand, monkeypatch):
    config = config_of(folder, epsilons=[4], headline=["pgd", 4], gates={"images": 8})
    storage, status = Storage.from_config(config.storage), read_status(Storage.from_config(config.storage), RUN)
    baseline, defended = job.find_candidates(config, storage)
    twin, seen = dataclasses.replace(baseline, name="twin"), []
    run = credibility.gates_on_crops
    monkeypatch.setattr(credibility, "gates_on_crops", lambda *crops, surrogates, **more: seen.append(surrogates) or run(*crops, surrogates=surrogates, **more))

    def gates_of(*candidates):
        gates = job.run_gates(config, storage, list(candidates), status, attack_block.cells(config.evaluate))
        return {one.name: [gate["name"] for gate in gates if gate["model"] == one.name] for one in candidates}

    both = gates_of(baseline, defended)
    assert all("white_box_beats_transfer" in names and len(names) == 16 for names in both.values())
    for (surrogate,), other in zip(seen, (defended, baseline), strict=True):
        kept = candidates.load_model(other.storage, other.key, other.sha256, "cpu").state_dict()
        assert all(torch.equal(tensor, kept[name]) for name, tensor in surrogate.model.state_dict().items())
    assert [len(names) for names in gates_of(baseline, twin).values()] == [15, 15] and seen[2:] == [[]]
    assert gates_of(baseline, defended, twin) == {**both, "twin": both["baseline"]} and len(seen) == 3  # all kept


def test_transfer_with_a_single_checkpoint_is_left_out_and_said(folder, by_hand, monkeypatch):
    config = config_of(folder, epsilons=[4], headline=["worst", 4], suites=TRANSFER, bootstrap=10, gates={"enabled": False})
    storage = Storage.from_config(config.storage)
    baseline, _ = job.find_candidates(config, storage)
    twin = dataclasses.replace(baseline, name="twin")
    for alone in ([baseline], [baseline, twin]):  # the same weights twice are one checkpoint
        monkeypatch.setattr(job, "find_candidates", lambda *_: alone)
        job.evaluate(config, storage)
        summary = summary_of(folder)
        assert [one["attack"] for one in summary["not_run"]] == ["transfer"]
        assert [attack["attack"] for attack in summary["attacks"]] == ["pgd"]
        assert "Not run: transfer" in storage.read_bytes(f"{RUN}/report/index.html").decode()


def test_more_checkpoints_stand_beside_the_runs_own(folder, by_hand):
    other = folder / "storage" / RUN / "train/defended"
    config = config_of(folder, epsilons=[0.5], checkpoints={"peer": str(other)}, bootstrap=10)
    storage = Storage.from_config(config.storage)
    job.evaluate(config, storage)
    models = summary_of(folder)["models"]
    assert [model["name"] for model in models] == ["baseline", "defended", "peer"]
    assert models[1]["sha256"] == models[2]["sha256"]
    own_name = config_of(folder, epsilons=[0.5], checkpoints={"baseline": str(other)})
    with pytest.raises(UserError, match="evaluate.checkpoints.baseline"):
        job.find_candidates(own_name, storage)


def test_what_is_missing_is_said(folder, tmp_path, by_hand):
    empty = config_of(tmp_path)
    with pytest.raises(UserError, match="run jobs.train first"):
        job.evaluate(empty, Storage.from_config(empty.storage))
    gone = config_of(tmp_path, checkpoints={"x": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="no model.safetensors"):
        job.evaluate(gone, Storage.from_config(gone.storage))
    no_crops = config_of(tmp_path, checkpoints={"x": str(folder / "storage" / RUN / "train/baseline")})
    with pytest.raises(UserError, match="run jobs.extract first"):
        job.evaluate(no_crops, Storage.from_config(no_crops.storage))


@pytest.mark.cluster
def test_a_cluster_that_is_too_small_is_an_error_not_a_wait(folder, small_ray):
    with pytest.raises(UserError, match=r"evaluate needs 1 x \(1 CPU, 1 GPU\) .* lower evaluate.cpus_per_task or evaluate.gpus"):
        require_room(config_of(folder, gpus_per_task=1), "evaluate")
    with pytest.raises(UserError, match=r"evaluate needs 1 x \(64 CPU, 0 GPU\)"):
        require_room(config_of(folder, cpus_per_task=64), "evaluate")
