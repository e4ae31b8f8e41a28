"""Files of foreign models, honest and hostile, made where a test needs them."""

import io
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from robust.config import AuditedModelConfig

SIZE = 32
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class Net(nn.Module):
    """A small classifier with all that matters: batch normalisation with statistics, dropout, a pool, a linear head."""

    def __init__(self, outputs: int = 2, last: nn.Module | None = None):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.drop, self.head, self.last = nn.Dropout(0.5), nn.Linear(8, outputs), last or nn.Identity()
        self.body[1].running_mean.uniform_(-0.3, 0.3)
        self.body[1].running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.drop(self.body(x).mean((2, 3)))))


def spec_of(kind: str, **more) -> AuditedModelConfig:
    return AuditedModelConfig(**{"kind": kind, "path": "model", "input_size": SIZE, "mean": MEAN, "std": STD, "output": "two_logits", **more})


def images(count: int = 4, size: int = SIZE) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def torchscript(model: nn.Module, *, how: str = "trace", example: Tensor | None = None) -> bytes:
    script = torch.jit.trace(model, images(2) if example is None else example, check_trace=False) if how == "trace" else torch.jit.script(model)
    content = io.BytesIO()
    torch.jit.save(torch.jit.freeze(script) if how == "freeze" else script, content)
    return content.getvalue()


def onnx_file(model: nn.Module, *, batch: int | None = None, size: int = SIZE, opset: int = 17) -> bytes:
    content = io.BytesIO()
    free = {"dynamic_axes": {"image": {0: "n"}}} if batch is None else {}
    torch.onnx.export(model, (images(batch or 2, size),), content, dynamo=False, input_names=["image"], output_names=["scores"], opset_version=opset, **free)
    return content.getvalue()


def state_dict(model: nn.Module) -> bytes:
    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    return content.getvalue()


class Bomb:
    """A pickle that makes a file when it is loaded as Python would."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def pickle_bomb(path: Path) -> bytes:
    return pickle.dumps({"state_dict": Bomb(path)}, protocol=2)


def edited(content: bytes, entries: dict[str, bytes], *, compress: bool = False) -> bytes:
    """A torch archive with some entries replaced or added; names end as given."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        top = old.namelist()[0].partition("/")[0]
        left = dict(entries)
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            new.writestr(info.filename, left.pop(name, None) or old.read(info))
        for name, data in left.items():
            new.writestr(f"{top}/{name}", data, zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)
    return out.getvalue()
