"""Are our attacks as strong as the field's? Robust accuracy after ours and after libraries' at equal budget.

    python -m benchmarks.attack_reference [--strong] [--checkpoint FOLDER --faces FACES.npz] [--json FILE]

PGD of ours, torchattacks and foolbox; with --strong, also APGD, the minimal-norm attacks, Square, DeepFool
and ART, and what MI-FGSM and input diversity make on one model for another.

Without a checkpoint the model is a small one with batch normalisation, trained here in seconds. A checkpoint is a
folder with model.safetensors and card.json; its faces are an .npz with x (N, 3, H, W) float32 in [0, 1] and y (N,).
The libraries are installed by `make reference`.
"""

import argparse
import copy
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks.small_detector import make_images, train_small_detector
from robust.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("ours", "torchattacks", "foolbox")
STRONG = (
    "ours APGD", "ours FMN", "ours Square", "torchattacks APGD", "torchattacks FAB", "torchattacks Square",
    "foolbox DeepFool", "ART PGD", "ART APGD",
)
TRANSFER = ("ours MI-FGSM", "torchattacks MI-FGSM", "ours M-DI-FGSM", "torchattacks M-DI-FGSM")
EPSILONS = (1.0, 2.0, 4.0, 8.0)  # 0-255 units


@dataclasses.dataclass(frozen=True)
class Row:
    """What one library's attack did at one epsilon (0-255 units); `library` is of LIBRARIES (PGD), STRONG or TRANSFER."""

    epsilon: float
    library: str
    robust_accuracy: float
    mean_margin: float  # of -(2y - 1) z, larger is a stronger attack
    largest_change: float  # of a pixel, in 0-255 units
    cpu_ms_per_image: float  # CPU time, which other programs on the machine change little
    forwards: float  # passes of the model for each image that was attacked
    gradients: float  # of these, differentiated
    still_right: list[int]  # places of the images that the model gets right


def compare(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 10,
    epsilons: tuple[float, ...] = EPSILONS,
    attacks: tuple[str, ...] = LIBRARIES,
    seed: int = 0,
    batch_size: int = 64,
    threads: int = 1,
    target: nn.Module | None = None,
    queries: int | None = None,
    nested: bool = False,
    on_row: Callable[["Row"], None] = lambda row: None,
) -> list[Row]:
    """Attack the model with each library: Linf, `steps` steps (of 2.5 epsilon / steps for PGD), one start.

    Args:
        model: a SmallDetector, or a robust.models Detector.
        x: (N, 3, H, W) float32 images in [0, 1].
        y: (N,) labels, 1 = fake.
        epsilons: 0-255 units, ascending.
        attacks: of LIBRARIES, for PGD, STRONG, or TRANSFER.
        target: the model that the images are scored on, if it is another one.
        threads: of the attacks; one gives the steadiest times on a small model.
        queries: of the Square attacks, which see no gradient; default ten a step.
        nested: an image that is wrong without an attack, or that the attack has flipped at a smaller epsilon, is not
            attacked again. Less work and at least as strong; the mean margin is then not the attack's.
        on_row: called with each row when it is measured.
    Raises:
        UserError: the libraries are not installed, or fail.
    """
    folder = ROOT / ".reference"
    if not (folder / "torchattacks").is_dir() or not (folder / "foolbox").is_dir():
        raise UserError("torchattacks and foolbox are not in .reference; install them with: make reference")
    architecture = model.architecture.as_dict() if hasattr(model, "architecture") else None
    task = {"architecture": architecture, "epsilons": epsilons, "steps": steps, "seed": seed, "attacks": attacks}
    task |= {"batch_size": batch_size, "threads": threads, "queries": queries or 10 * steps, "nested": nested}
    # Scored as it is attacked: another layout of the weights rounds otherwise, and minimal perturbations barely flip.
    scored = copy.deepcopy(target or model).to(memory_format=torch.channels_last).eval()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch, name) for name in ("model.safetensors", "task.json", "images.npz")]
        files[0].write_bytes(save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))
        files[1].write_text(json.dumps(task))
        np.savez(files[2], x=x.numpy(), y=y.numpy())
        for outcome in _run_worker(folder, [*files, Path(scratch)], log=Path(scratch, "worker.log")):
            rows.append(_score(scored, x, y, outcome))
            on_row(rows[-1])
    return sorted(rows, key=lambda row: (row.epsilon, attacks.index(row.library)))


def _run_worker(folder: Path, files: list[Path], *, log: Path) -> Iterator[dict]:
    """The worker's lines (reference_worker.main) as they come."""
    # The libraries come last on the path, so that nothing of theirs replaces a package of ours.
    script = (
        "import sys; sys.path.append(sys.argv.pop(1)); "
        "from benchmarks.reference_worker import main; main(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, str(folder), *map(str, files)]
    # GitPython, which foolbox imports, fails where there is no git program; nothing here needs one.
    environment = {**os.environ, "GIT_PYTHON_REFRESH": "quiet"}
    # The worker ends when its stdin closes, so it does not outlive this process.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        log.open("w") as errors,
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors, text=True, **pipes) as worker,
    ):
        for line in worker.stdout:
            yield json.loads(line)
        worker.wait()
    if worker.returncode:
        raise UserError(f"the reference libraries' process failed:\n{log.read_text()[-2000:]}")


@torch.no_grad()
def _score(model: nn.Module, x: Tensor, y: Tensor, outcome: dict) -> Row:
    x_adv = torch.from_numpy(np.load(outcome["path"], allow_pickle=False))
    os.remove(outcome["path"])
    logits = torch.cat([model(batch) for batch in x_adv.split(64)])
    right = (logits > 0).long() == y
    return Row(
        epsilon=outcome["epsilon"],
        library=outcome["library"],
        robust_accuracy=right.float().mean().item(),
        mean_margin=((1 - 2 * y) * logits).mean().item(),
        largest_change=(x_adv - x).abs().max().item() * 255,
        cpu_ms_per_image=1000 * outcome["seconds"] / len(x),
        forwards=outcome["forwards"] / max(1, outcome["attacked"]),
        gradients=outcome["gradients"] / max(1, outcome["attacked"]),
        still_right=right.nonzero().flatten().tolist(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder with model.safetensors and card.json; needs --faces")
    parser.add_argument("--faces", help=".npz with x and y, the faces that the checkpoint is attacked on")
    parser.add_argument("--strong", action="store_true", help="also APGD, FMN, FAB, Square and transfer; takes ten times as long")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the attacks")
    parser.add_argument("--json", default="outputs/benchmarks/attack_reference.json", help="where the figures go")
    arguments = parser.parse_args()
    if bool(arguments.checkpoint) != bool(arguments.faces):
        parser.error("--checkpoint and --faces belong together")
    models = {"small BN net": (train_small_detector(), *make_images(256, generator=torch.Generator().manual_seed(99)))}
    if arguments.checkpoint:
        models[arguments.checkpoint] = load_checkpoint_and_faces(arguments.checkpoint, arguments.faces)
    report = {}
    for name, (model, x, y) in models.items():
        rows = []
        for title, attacks in (("PGD", LIBRARIES), ("strong attacks", STRONG))[: 2 if arguments.strong else 1]:
            more = compare(model, x, y, steps=arguments.steps, attacks=attacks, threads=arguments.threads)
            print_table(f"{name}: {len(x)} images, {title}, {arguments.steps} steps", more)
            rows += more
        if arguments.strong and not hasattr(model, "architecture"):
            target = train_small_detector(seed=1)
            more = compare(model, x, y, steps=arguments.steps, attacks=TRANSFER, threads=arguments.threads, target=target)
            print_table(f"{name}: {len(x)} images, scored on a net of another seed, {arguments.steps} steps", more)
            report[f"{name}, transfer"] = [dataclasses.asdict(row) for row in more]
        report[name] = [dataclasses.asdict(row) for row in rows]
    path = Path(arguments.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"steps": arguments.steps, "models": report}, indent=2) + "\n")
    print(f"\nwritten to {path}")


def load_checkpoint_and_faces(checkpoint: str, faces: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The detector of a checkpoint folder, and (N, 3, H, W) images and (N,) labels of an .npz."""
    from robust.config import StorageConfig
    from robust.models.checkpoint import load_checkpoint
    from robust.storage import Storage

    folder = Path(checkpoint).resolve()
    model, _ = load_checkpoint(Storage.from_config(StorageConfig(uri=str(folder.parent))), folder.name)
    with np.load(faces, allow_pickle=False) as arrays:
        return model, torch.from_numpy(arrays["x"]).float(), torch.from_numpy(arrays["y"]).long()


def print_table(title: str, rows: list[Row]) -> None:
    """One line per epsilon and library."""
    print_header(title)
    for row in rows:
        print_row(row)


def print_header(title: str) -> None:
    print(f"\n{title}\n{'epsilon':>8}  {'library':<22} {'robust accuracy':>15} {'mean margin':>12} {'CPU ms/image':>12} "
          f"{'forwards':>9} {'gradients':>9}", flush=True)


def print_row(row: Row) -> None:
    print(f"{row.epsilon:>8g}  {row.library:<22} {row.robust_accuracy:>15.3f} {row.mean_margin:>12.3f} "
          f"{row.cpu_ms_per_image:>12.2f} {row.forwards:>9.1f} {row.gradients:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
