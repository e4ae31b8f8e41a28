"""robust/config*.py and ray_config.yaml: what is refused and how it is told, overrides, profiles, identity of a run."""

import re
from pathlib import Path

import pytest
import yaml

from robust.config import Config
from robust.config_file import load_config, parse
from robust.config_identity import describe, differences, dump_yaml, fingerprint
from robust.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = ROOT / "ray_config.yaml"

FILE = """
data: {datasets: [{layout: folder, uri: a}, {layout: dfdc, uri: b}]}
train: {batch_size: 16}
profiles:
  small:
    train: {batch_size: 8, defended: {epochs: 3}}
  smaller:
    extends: small
    train: {defended: {epochs: 2}}
    data: {datasets: [{layout: folder, uri: c}]}
  lost: {extends: nothing}
  round: {extends: about}
  about: {extends: round}
  empty:
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("tree, told", [
    ({"trian": {}}, "trian: unknown key; did you mean 'train'?"),
    ({"train": {"epsilon": 2}},
     "train.epsilon: unknown key; did you mean train.validation.epsilon or train.baseline.attack.epsilon or train.defended.attack.epsilon?"),
    ({"train": {"batchsize": 8}}, "train.batchsize: unknown key; did you mean 'batch_size'?"),
    ({"train": {"defended": {"attack": {"epsilom": 1}}}}, "train.defended.attack.epsilom: unknown key; did you mean 'epsilon'?"),
    ({"data": {"datasets": [{"layout": "dfdc", "uri": "x", "methodes": []}]}}, "data.datasets.0.methodes: unknown key; did you mean 'methods'?"),
    ({"evaluate": {"suites": {"quick": {"pgd": {"stepz": 3}}}}}, "evaluate.suites.quick.pgd.stepz: unknown key; did you mean 'steps'?"),
    ({"model": {"zzz": 1}}, "model.zzz: unknown key; known are name, input_size, weights, activation"),
])
def test_an_unknown_key_is_refused_with_the_nearest_one(tree, told):
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}$"):
        parse(tree)


@pytest.mark.parametrize("tree, key, value, allowed", [
    ({"train": {"batch_size": 1}}, "train.batch_size", "1", "greater than or equal to 2"),
    ({"train": {"batch_size": "many"}}, "train.batch_size", "'many'", "integer"),
    ({"train": {"optimizer": "adamm"}}, "train.optimizer", "'adamm'", "'adam', 'adamw' or 'sgd'"),
    ({"train": {"defended": {"attack": {"epsilon": 300}}}}, "train.defended.attack.epsilon", "300", "less than or equal to 255"),
    ({"train": {"batch_size": 32, "workers": 3}}, "train.batch_size", "32", "multiple of train.workers = 3"),
    ({"train": {"workers": 2, "least_workers": 3}}, "train.least_workers", "3", "more than train.workers = 2"),
    ({"train": {"self_blend": {"share": 1.5}}}, "train.self_blend.share", "1.5", "less than or equal to 1"),
    ({"train": {"balance": False, "self_blend": {"share": 0.5}}}, "train.self_blend.share", "0.5", "balance must be true"),
    ({"model": {"activation": "swish"}}, "model.activation", "'swish'", "'relu', 'silu', 'gelu' or 'softplus'"),
    ({"run": {"name": "a/b"}}, "run.name", "'a/b'", "pattern"),
    ({"augment": {"jpeg_quality": [100, 60]}}, "augment.jpeg_quality", "[100, 60]", "low <= high"),
    ({"augment": {"blur_kernel": 4}}, "augment.blur_kernel", "4", "odd"),
    ({"tune": {"epsilon": [0, 8]}}, "tune.epsilon", "[0, 8]", "low <= high"),
    ({"tune": {"lipschitz_weight": [0.1, 0.01]}}, "tune.lipschitz_weight", "[0.1, 0.01]", "low <= high"),
    ({"evaluate": {"headline": ["pgd", 3]}}, "evaluate.headline", "pgd at epsilon 3", "evaluate.epsilons"),
    ({"evaluate": {"headline": ["pgd", 0], "epsilons": [0, 1]}}, "evaluate.headline", "pgd at epsilon 0", "is no attack"),
    ({"data": {"splits": {"folds": 3, "fold": 3}}}, "data.splits.fold", "3", "below data.splits.folds = 3"),
    ({"data": {"demo": {"enabled": True}}}, "data.demo.enabled", "data.datasets[0]", "must say where"),
    ({"train": 5}, "train", "5", "dictionary"),
    ({"data": {"datasets": [{"layout": "dfdc"}]}}, "data.datasets.0.uri", "field", "required"),
    ({"evaluate": {"epsilons": [1, -2]}}, "evaluate.epsilons.1", "-2", "greater than or equal to 0"),
])
def test_an_error_names_the_key_the_value_and_what_is_allowed(tree, key, value, allowed):
    with pytest.raises(ConfigError) as told:
        parse(tree)
    line = str(told.value)
    assert line.startswith(f"{key}: ") and value in line and allowed in line and "\n" not in line


def test_all_errors_are_told_at_once():
    with pytest.raises(ConfigError) as told:
        parse({"train": {"batch_size": 0, "momentum": 1}, "extract": {"margin": -1}})
    assert {line.split(":")[0] for line in str(told.value).splitlines()} == {"train.batch_size", "train.momentum", "extract.margin"}


def test_overrides_reach_sections_lists_and_numbers(file):
    config = load_config(file, [
        "data.datasets.0.uri=s3://bucket/x", "data.datasets.1.max_videos=7", "train.learning_rate=1e-4", "train.weight_decay=5e-2",
        "train.models=[baseline]", "evaluate.suites.quick.pgd.steps=3", "evaluate.epsilons=[0.5, 2e0]", "cluster.dashboard=true",
        "train.gradient_clip=", "model.weights=none", "detect.input=a=b.mp4",
    ])
    assert [dataset.uri for dataset in config.data.datasets] == ["s3://bucket/x", "b"]
    assert config.data.datasets[1].max_videos == 7
    assert (config.train.learning_rate, config.train.weight_decay, config.train.batch_size) == (1e-4, 0.05, 16)
    assert config.train.models == ["baseline"] and config.train.gradient_clip is None
    assert set(config.evaluate.attacks) == {"pgd"} and config.evaluate.attacks["pgd"].steps == 3
    assert config.evaluate.epsilons == [0.5, 2.0] and config.cluster.dashboard is True
    assert config.model.weights == "none" and config.detect.input == "a=b.mp4"


def test_an_override_of_an_unknown_key_is_refused(file):
    with pytest.raises(ConfigError, match="train.batchsize: unknown key; did you mean 'batch_size'"):
        load_config(file, ["train.batchsize=4"])


@pytest.mark.parametrize("override, told", [
    ("train.batch_size", "write section.key=value"), ("train..x=1", "write section.key=value"),
    ("train.batch_size.x=1", "train.batch_size is a value, not a section"),
    ("data.datasets.2.uri=x", "'2' is not an index below 2"), ("data.datasets.first.uri=x", "'first' is not an index below 2"),
])
def test_an_override_that_leads_nowhere_is_told(file, override, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_config(file, [override])


SECRET = "s3://AKIAKEY:hunter2@bucket/x"


@pytest.mark.parametrize("override, told", [
    (f"data.datasets=[{{uri: '{SECRET}'}}]", "data.datasets.0.layout: field required"),
    (f"data.datasets={{uri: '{SECRET}'}}", "data.datasets: a dict: "),
    (f"data.datasets=[['{SECRET}']]", "data.datasets.0: a list: "),
    (f"train.batch_size='{SECRET}'", "train.batch_size: a str that holds credentials: "),
    (f"run.name='{SECRET}'", "run.name: a str that holds credentials: "),
    (SECRET, "override a str that holds credentials: write"),
    (f"train.batch_size.x={SECRET}", "override train.batch_size.x: "),
    ("storage={secret_key: hunter2}", "storage.secret_key: unknown key"),
    ("data.datasets=[{layout: folder, uri: a, name: {secret: hunter2}}]", "data.datasets.0.name: a dict: "),
])
def test_no_error_repeats_a_secret(file, override, told):
    with pytest.raises(ConfigError) as refused:
        load_config(file, [override])
    assert str(refused.value).startswith(told) and "hunter2" not in str(refused.value)


def test_a_line_that_is_no_yaml_is_told_by_its_number_alone(tmp_path):
    (tmp_path / "bad.yaml").write_text(f"run: {{name: a}}\nstorage: {{uri: '{SECRET}']\n")
    with pytest.raises(ConfigError, match="bad.yaml is not YAML: .* in line 2, column ") as told:
        load_config(tmp_path / "bad.yaml")
    assert "hunter2" not in str(told.value)


def test_profiles_are_laid_over_the_file_and_extend_each_other(file):
    assert load_config(file).train.batch_size == 16
    small, smaller = (load_config(file, profile=name) for name in ("small", "smaller"))
    assert (small.train.batch_size, small.train.defended.epochs, len(small.data.datasets)) == (8, 3, 2)
    assert (smaller.train.batch_size, smaller.train.defended.epochs) == (8, 2)
    assert [dataset.uri for dataset in smaller.data.datasets] == ["c"]
    assert load_config(file, ["train.defended.epochs=1"], profile="smaller").train.defended.epochs == 1
    assert load_config(file, profile="empty") == load_config(file)


@pytest.mark.parametrize("profile, told", [
    ("large", "profile 'large': .* has about, empty, lost, round, small, smaller"),
    ("lost", "profiles.lost.extends: 'nothing' is not another profile"), ("round", "extends: .* is not another profile"),
])
def test_a_profile_that_is_not_there_is_told(file, profile, told):
    with pytest.raises(ConfigError, match=told):
        load_config(file, profile=profile)


@pytest.mark.parametrize("text, told", [("a: [", "is not YAML"), ("[1]", "expected sections, found list")])
def test_a_file_that_is_no_config_is_told(tmp_path, text, told):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"bad.yaml.*{told}"):
        load_config(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="none.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


def keys_of(node, prefix=""):
    """Keys of every scalar, list or empty dict of a tree."""
    if isinstance(node, dict) and node:
        return {key for name, value in node.items() for key in keys_of(value, f"{prefix}{name}.")}
    return {prefix.rstrip(".")}


def test_ray_config_holds_every_key_with_its_default():
    tree = yaml.safe_load(DEFAULTS.read_text())
    tree.pop("profiles", None)
    assert keys_of(tree) == keys_of(Config().model_dump(mode="json"))
    assert load_config(DEFAULTS) == Config()


def test_every_line_of_ray_config_has_a_comment():
    text = DEFAULTS.read_text().split("\nprofiles:")[0]
    bare = [line for line in text.splitlines() if re.match(r"^ *\w+: *[^\s{]", line) and "#" not in line]
    assert bare == []


def test_every_profile_of_ray_config_is_valid():
    for name in yaml.safe_load(DEFAULTS.read_text()).get("profiles") or {}:
        load_config(DEFAULTS, profile=name)


def test_help_has_a_meaning_for_every_setting():
    lines = describe()
    assert {key for key, _, _ in lines} >= {"run.name", "train.defended.attack.epsilon", "evaluate.suites"}
    assert [key for key, _, meaning in lines if not meaning] == []


def test_a_dumped_config_is_read_back_the_same():
    config = parse({
        "run": {"name": "a-1", "seed": 7}, "data": {"datasets": [{"layout": "folder", "uri": "x", "methods": ["a"]}]},
        "train": {"learning_rate": 3e-5, "gradient_clip": 1}, "tune": {"lipschitz_weight": [1e-7, 1e-3]},
        "evaluate": {"suite": "mine", "suites": {"mine": {"pgd": {"steps": 3, "restarts": 2}}}, "headline": ["pgd", 1], "checkpoints": {"peer": "/x"}},
    })
    again = parse(yaml.safe_load(dump_yaml(config)))
    assert again == config and differences(config, again) == [] and again != Config()


def test_the_defaults_are_the_reference_recipe():
    config = Config()
    assert (config.model.name, config.model.input_size, config.train.optimizer, config.train.learning_rate) == ("legacy_xception", 299, "adam", 1e-4)
    assert (config.train.batch_size, config.train.baseline.epochs, config.train.defended.epochs) == (32, 20, 50)
    assert (config.extract.margin, config.extract.frames_train, config.extract.frames_test) == (0.3, 25, 20)
    assert config.train.baseline.attack.epsilon == 0 and config.train.baseline.lipschitz.weight == 0


def test_a_runs_identity_is_its_science_not_its_machines():
    config = parse({"data": {"datasets": [{"layout": "folder", "uri": "a"}]}})
    moved = parse({"data": {"datasets": [{"layout": "folder", "uri": "s3://b/c"}]}, "storage": {"uri": "s3://b/runs"},
                   "cluster": {"num_cpus": 3}, "train": {"workers": 4, "max_failures": 9, "models": ["baseline"]}, "tune": {"cpus_per_trial": 2}})
    sections = ("data", "train", "tune")
    assert differences(config, moved) == [] and fingerprint(config, sections) == fingerprint(moved, sections)

    changed = parse({"data": {"datasets": [{"layout": "folder", "uri": "a", "max_videos": 3}]}, "train": {"defended": {"attack": {"epsilon": 2}}}})
    assert fingerprint(changed, ("data",)) != fingerprint(config, ("data",))
    assert fingerprint(changed, ("model",)) == fingerprint(config, ("model",))
    assert "train.defended.attack.epsilon: 0.5 -> 2.0" in differences(config, changed)
    assert fingerprint(parse({"run": {"seed": 1}}), ("model",)) != fingerprint(config, ("model",))


def test_runs_of_before_the_shards_size_could_be_left_open_keep_their_identity():
    left_open, as_before, other = (parse({"extract": {"videos_per_shard": size}}) for size in (None, 64, 32))
    assert parse({}).extract.videos_per_shard is None
    assert differences(as_before, left_open) == []
    assert fingerprint(as_before, ["extract"]) == fingerprint(left_open, ["extract"])
    assert differences(left_open, other) == ["extract.videos_per_shard: 64 -> 32"]
    assert "videos_per_shard: null" in dump_yaml(left_open)


MODEL = "{kind: onnx, path: m.onnx, input_size: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], output: two_logits}"


def test_a_model_to_audit_can_be_named_on_the_command_line():
    config = load_config(DEFAULTS, [f"evaluate.models.mine={MODEL}", "evaluate.models.other={kind: timm, name: resnet18, path: w, input_size: 64, "
                                                                     "mean: none, std: none, output: logit, value_range: [-1, 1]}"])
    assert config.evaluate.models["mine"].mean == (0.485, 0.456, 0.406) and config.evaluate.models["other"].mean == "none"
    assert differences(config, Config()) == []
    assert parse(yaml.safe_load(dump_yaml(config))) == config


@pytest.mark.parametrize("change, told", [
    ("mean: none", "mean, std: give both, or none"), ("kind: timm", "kind timm needs the name"), ("name: resnet18", "kind timm needs the name"),
    ("value_range: [1, 0]", "black below white"), ("output: scores", "evaluate.models.mine.output"), ("size: 3", "evaluate.models.mine.size: unknown key"),
    ("std: [0, 1, 1]", "evaluate.models.mine.std"),
])
def test_what_is_wrong_with_a_model_to_audit_is_told(change, told):
    settings = {**yaml.safe_load(MODEL), **yaml.safe_load(f"{{{change}}}")}
    with pytest.raises(ConfigError, match=told):
        parse({"evaluate": {"models": {"mine": settings}}})


@pytest.mark.parametrize("name", ["../../up", "a/b", "<script>", ""])
def test_a_checkpoints_name_is_no_path(name):
    # Event files of TensorBoard are written to a folder of this name.
    with pytest.raises(ConfigError, match="evaluate.checkpoints"):
        parse({"run": {"name": "r"}, "evaluate": {"checkpoints": {name: "/models/m"}}})
