"""robust/models/foreign: wrapping is exact, honest files work, and hostile or broken ones run nothing and are told."""

import io
import pickle
import random
import zipfile

import pytest
import torch
from foreign_files import SIZE, Net, edited, images, normalised, pickle_bomb, spec_of, state_dict, torchscript
from safetensors.torch import save
from torch import nn

from robust.errors import ConfigError, UserError
from robust.models.foreign import load_foreign
from robust.models.foreign.detector import ForeignDetector
from robust.models.foreign.probe import probe

WHERE = "evaluate.models.x: model"


class Gives(nn.Module):
    """A network whose output is a given function of the image's mean."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x.mean((1, 2, 3)))


def detector(function, **spec):
    spec = {"mean": "none", "std": "none", **spec}
    return ForeignDetector(Gives(function), spec_of("torchscript", **spec), output=spec["output"]).eval()


def fake(m):
    return 40 * (m - 0.5)


OUTPUTS = {  # the network's output for a logit of fake z, and the settings that say so
    "logit": (lambda m: fake(m)[:, None], {"output": "logit"}),
    "logit of real, flat": (lambda m: -fake(m), {"output": "logit", "fake_index": 0}),
    "two logits": (lambda m: torch.stack([7 - fake(m), torch.full_like(m, 7)], 1), {"output": "two_logits"}),
    "two logits, fake first": (lambda m: torch.stack([fake(m), 0 * m], 1), {"output": "two_logits", "fake_index": 0}),
    "probability": (lambda m: fake(m).sigmoid()[:, None], {"output": "probability"}),
    "probability of real": (lambda m: (-fake(m)).sigmoid(), {"output": "probability", "fake_index": 0}),
    "two probabilities": (lambda m: torch.stack([0 * m, fake(m)], 1).softmax(1), {"output": "two_probabilities"}),
}


class HidesFromMany(nn.Module):
    """Without a gradient to the image where it is given more images than the gates look at."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.size(0) > 32:
            return self.net(x.detach()) + x.mean(dim=(1, 2, 3))[:, None] * 1e-3
        return self.net(x)


def test_a_torchscript_file_that_counts_its_images_is_attacked_as_it_is():
    model = load_foreign(torchscript(HidesFromMany(torch.jit.trace(Net().eval(), images(2))).eval(), how="script"), spec_of("torchscript"), WHERE)
    x = images(50).requires_grad_()
    (together,) = torch.autograd.grad(model(x).sum(), x)
    alone = torch.cat([torch.autograd.grad(model(one[None]).sum(), one)[0][None] for one in x])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-4)
    assert model(x[:0]).shape == (0,) and together.flatten(1).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_kind_of_output_becomes_the_same_logit_and_gradient(name):
    function, spec = OUTPUTS[name]
    x = (torch.linspace(0.3, 0.7, 9).view(-1, 1, 1, 1) * torch.ones(9, 3, SIZE, SIZE)).requires_grad_()  # logits -8 to 8
    logits = detector(function, **spec)(x)
    wanted = fake(x.mean((1, 2, 3)))
    torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=1e-3)
    (gradient,), (exact,) = torch.autograd.grad(logits.sum(), x), torch.autograd.grad(wanted.sum(), x)
    torch.testing.assert_close(gradient, exact, rtol=1e-3, atol=0)


def test_a_saturated_probability_stays_finite_and_has_no_gradient_to_believe():
    x = torch.full((1, 3, SIZE, SIZE), 1.0, requires_grad=True)  # logit 20: its sigmoid is 1 in float32
    logit = detector(*OUTPUTS["probability"][:1], output="probability")(x)
    assert logit.item() == pytest.approx(16.6355, abs=1e-3)
    assert torch.autograd.grad(logit.sum(), x)[0].abs().max() == 0
    two = detector(OUTPUTS["two probabilities"][0], output="two_probabilities")(x)
    assert two.item() == pytest.approx(20, abs=1e-3) and torch.autograd.grad(two.sum(), x)[0].abs().min() > 0


def test_a_threshold_becomes_logit_zero():
    at = torch.full((1, 3, SIZE, SIZE), 0.5) + torch.logit(torch.tensor(0.9)) / 40
    assert detector(fake, output="logit", threshold=0.9)(at).item() == pytest.approx(0, abs=1e-4)


def test_pixels_reach_the_network_as_the_settings_say():
    x = images(2)
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    made = ForeignDetector(nn.Identity(), spec_of("onnx", channels="bgr", value_range=(0, 255), mean=mean, std=std, layout="nhwc"), output="logit")
    by_hand = ((255 * x[:, [2, 1, 0]]).permute(0, 2, 3, 1) - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(made.prepare(x), by_hand)
    plain = ForeignDetector(nn.Identity(), spec_of("onnx", mean="none", std="none", value_range=(-1, 1)), output="logit")
    torch.testing.assert_close(plain.prepare(x), 2 * x - 1)
    untouched = ForeignDetector(nn.Identity(), spec_of("onnx", mean="none", std="none"), output="logit")
    untouched.prepare(x).zero_()
    assert x.max() > 0


@pytest.mark.parametrize("how", ["trace", "script", "freeze"])
def test_a_torchscript_file_is_the_model_that_was_saved(how):
    net = Net().eval()
    made = load_foreign(torchscript(net, how=how), spec_of("torchscript"), WHERE)
    probe(made, WHERE)
    x = images()
    torch.testing.assert_close(made(x), torch.diff(net(normalised(x)), dim=1)[:, 0])
    assert [module for module in made.modules() if module.training] == []


@pytest.mark.parametrize("write", [state_dict, lambda net: save(net.state_dict())], ids=["pth", "safetensors"])
def test_a_timm_model_takes_its_weights_from_a_file(write):
    import timm

    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=2).eval()
    made = load_foreign(write(net), spec_of("timm", name="resnet18"), WHERE)
    x = images()
    torch.testing.assert_close(made(x), torch.diff(net(normalised(x)), dim=1)[:, 0])
    with pytest.raises(UserError, match="output: logit has"):
        load_foreign(write(net), spec_of("timm", name="resnet18", output="logit"), WHERE)
    with pytest.raises(UserError, match="another architecture"):
        load_foreign(write(net), spec_of("timm", name="resnet34"), WHERE)
    with pytest.raises(ConfigError, match="'resnet_18' is no architecture"):
        load_foreign(write(net), spec_of("timm", name="resnet_18"), WHERE)


# ---------------------------------------------------------------------------------------------------- what a probe finds


def scripted(forward, **spec):
    return load_foreign(torchscript(Gives(forward).eval()), spec_of("torchscript", **spec), WHERE)


@pytest.mark.parametrize("forward, spec, told", [
    (lambda m: torch.stack([m, m, m], 1), {}, r"gives \(3, 3\) for 3 images, and output: two_logits is \(3, 2\)"),
    (lambda m: torch.stack([m, m], 1), {"output": "logit"}, r"gives \(3, 2\) for 3 images"),
    (lambda m: 5 * m + 2, {"output": "probability", "mean": "none", "std": "none"}, "no probability .* set output: logit"),
    (lambda m: torch.stack([m, 0 * m], 1).softmax(1), {}, "they are no logits; set output: two_probabilities"),
    (lambda m: (m - 1e9).log()[:, None], {"output": "logit"}, "is not finite"),
    (lambda m: (m - m.mean())[:, None], {"output": "logit"}, "beside other images"),
    (lambda m: (m - 1.5).to(torch.int64).float(), {"output": "logit"}, "no gradient leads"),
    (lambda m: (m, m), {"output": "logit"}, "gives a tuple, not one tensor"),
])
def test_a_model_that_is_not_as_its_settings_say_is_told(forward, spec, told):
    with pytest.raises(UserError, match=f"{WHERE}.*{told}"):
        probe(scripted(forward, **spec), WHERE)


def test_a_model_saved_in_training_mode_is_told():
    with pytest.raises(UserError, match="random .saved in training mode"):
        probe(load_foreign(torchscript(Net().train()), spec_of("torchscript"), WHERE), WHERE)


def test_a_model_for_another_size_is_told():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3 * 16 * 16, 2)

        def forward(self, x):
            return self.head(x.flatten(1))

    with pytest.raises(UserError, match="can not be run on 3 images.*input_size"):
        probe(load_foreign(torchscript(Fixed(), example=images(2, 16)), spec_of("torchscript"), WHERE), WHERE)


# ---------------------------------------------------------------------------------------------------- hostile files


class Saves(nn.Module):
    """Writes a file when it is called."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, x):
        torch.save(x, self.path)
        return x.mean((1, 2, 3))


class SavesOnLoad(nn.Module):
    """Writes a file when it is loaded: torch runs __setstate__."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        torch.save(torch.zeros(1), state[0])
        self.path, self.training = state[0], state[1]

    def forward(self, x):
        return x.mean((1, 2, 3))


class NeverEnds(nn.Module):
    def forward(self, x):
        while bool(x.mean() < 10):
            x = x * 1
        return x.mean((1, 2, 3))


class Changes(nn.Module):
    def __init__(self):
        super().__init__()
        self.count = 0.0

    def forward(self, x):
        self.count += 1.0
        return x.mean((1, 2, 3)) + self.count


def test_what_a_hostile_torchscript_file_would_do_does_happen_elsewhere(tmp_path):
    """Or the tests below would pass for no reason."""
    called, loaded = tmp_path / "called", tmp_path / "loaded"
    torch.jit.load(io.BytesIO(torchscript(Saves(str(called)), how="script")))(images(1))
    torch.jit.load(io.BytesIO(torchscript(SavesOnLoad(str(loaded)), how="script")))
    assert called.exists() and loaded.exists()
    pickle.loads(pickle_bomb(tmp_path / "unpickled"))
    assert (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("hostile, told", [
    (lambda path: Saves(path), "names save"), (lambda path: SavesOnLoad(path), "names __setstate__|names __getstate__"),
    (lambda path: NeverEnds(), "prim::Loop .while., which is not among.*it was not run"), (lambda path: Changes(), "prim::SetAttr"),
])
def test_a_hostile_torchscript_file_runs_nothing(tmp_path, hostile, told):
    path = tmp_path / "written"
    with pytest.raises(UserError, match=f"{WHERE}.*({told})"):
        load_foreign(torchscript(hostile(str(path)), how="script"), spec_of("torchscript", output="logit"), WHERE)
    assert not path.exists()


class HasProperty(Saves):
    @property
    def mode(self) -> int:
        torch.save(torch.zeros(1), self.path)
        return 1

    def forward(self, x):
        return x.mean((1, 2, 3)) + self.mode


class HasLength(Saves):
    @torch.jit.export
    def __len__(self) -> int:
        torch.save(torch.zeros(1), self.path)
        return 1

    def forward(self, x):
        return x.mean((1, 2, 3))


class Inner(Saves):
    def forward(self, x):
        torch.save(x, self.path)
        return x


class InChild(nn.Module):
    def __init__(self, path: str):
        super().__init__()
        self.children_of_it = nn.ModuleList([nn.Sequential(nn.Identity(), Inner(path))])

    def forward(self, x):
        for child in self.children_of_it:
            if x.shape[0] > 1:
                x = child(x)
        return x.mean((1, 2, 3))


def hooked(path: str) -> nn.Module:
    def hook(self, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        torch.save(given[0], "hook")
        return given

    model = nn.Flatten()
    model.register_forward_pre_hook(hook)
    return model


@pytest.mark.parametrize("hostile, told", [
    (Saves, "aten::save"), (HasProperty, "aten::save"), (HasLength, "aten::save"), (InChild, "aten::save"), (hooked, "has hooks")])
def test_the_check_of_instructions_stands_behind_that_of_names(tmp_path, hostile, told):
    """Were the names let through, the compiled graphs would still give it away before anything is run."""
    from robust.models.foreign.torchscript import require_arithmetic

    path = tmp_path / "written"
    content = torchscript(hostile(str(path)), how="script")
    path.unlink(missing_ok=True)  # scripting reads the property
    script = torch.jit.load(io.BytesIO(content))
    with pytest.raises(UserError, match=told):
        require_arithmetic(script, WHERE)
    assert not path.exists()


@pytest.mark.parametrize("source, told", [
    (b"ops.image.write_file(x, x)", "operators from outside torch"), (b"ops . image.read_file", "operators from outside torch"),
    (b"__torch__.torch.classes.dist_c10d.TCPStore", "names classes"), (b"torch.from_file('/etc/passwd')", "names from_file"),
])
def test_source_that_names_more_than_arithmetic_is_not_loaded(source, told):
    content = torchscript(Net().eval())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".py") and b"def forward" in archive.read(name))
        text = archive.read(name)
    with pytest.raises(UserError, match=told):
        load_foreign(edited(content, {name.partition("/")[2]: text + b"\n# " + source}), spec_of("torchscript"), WHERE)


def test_a_pickle_inside_torchscript_that_calls_something_is_not_loaded(tmp_path):
    content = edited(torchscript(Net().eval()), {"data.pkl": pickle_bomb(tmp_path / "written")})
    with pytest.raises(UserError, match="data.pkl: its pickle names .*open, which no model needs"):
        load_foreign(content, spec_of("torchscript"), WHERE)
    assert not (tmp_path / "written").exists()


def test_a_pickle_bomb_as_weights_runs_nothing(tmp_path):
    with pytest.raises(UserError, match="nothing else of it was loaded"):
        load_foreign(pickle_bomb(tmp_path / "written"), spec_of("timm", name="resnet18"), WHERE)
    inside = edited(state_dict(nn.Linear(2, 2)), {"data.pkl": pickle_bomb(tmp_path / "written")})
    with pytest.raises(UserError, match="nothing else of it was loaded"):
        load_foreign(inside, spec_of("timm", name="resnet18"), WHERE)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("kind, name", [("torchscript", None), ("timm", "resnet18")])
def test_a_zip_bomb_is_not_unpacked(kind, name):
    zeros = bytes(80 * 2**20)
    for entry, told in (("data/99", "is compressed"), ("code/__torch__/more.py", "its source unpacks to")):
        bomb = edited(torchscript(Net().eval()), {entry: zeros}, compress=True)
        assert len(bomb) < 2**20
        with pytest.raises(UserError, match=f"{told}.*zip bomb, and was not unpacked"):
            load_foreign(bomb, spec_of(kind, name=name), WHERE)


@pytest.mark.parametrize("kind, name", [("torchscript", None), ("timm", "resnet18"), ("onnx", None)])
def test_damaged_files_are_told_whatever_is_damaged(kind, name):
    """Truncated at many places, random bytes, bytes changed inside, and files of the other kinds."""
    spec, rng = spec_of(kind, name=name), random.Random(0)
    whole = {"torchscript": torchscript(Net().eval()), "timm": state_dict(Net())}
    whole["onnx"] = b"\x08\x08" + whole["timm"]
    bad = [b"", b"{}", rng.randbytes(5000), b"PK\x03\x04" + rng.randbytes(2000), (8).to_bytes(8, "little") + b"{}      "]
    bad += [one[: len(one) * part // 7] for one in whole.values() for part in range(1, 7)]
    bad += [content for other, content in whole.items() if other != kind]
    for content in bad:
        with pytest.raises(UserError, match="^evaluate.models.x: model"):
            load_foreign(content, spec, WHERE)


def test_bytes_changed_inside_a_torchscript_file_end_in_an_error_or_in_a_model():
    """A checksum of zip catches most; whatever is left must not end the process or run anything."""
    whole, rng = bytearray(torchscript(Net().eval())), random.Random(1)
    for _ in range(60):
        changed = bytearray(whole)
        for _ in range(3):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            load_foreign(bytes(changed), spec_of("torchscript"), WHERE)
        except UserError as error:
            assert str(error).startswith(WHERE)
