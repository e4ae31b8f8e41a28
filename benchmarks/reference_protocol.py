"""What would the reference implementation have said of these models? Its protocol, fault for fault, beside ours.

    python -m benchmarks.reference_protocol --profile demo [section.key=value ...]

On the baseline and the defended model of a finished run and its test crops: first our figure, then ours with one of the
reference's faults at a time, then its three scripts with all of theirs. The faulty attack is in reference_attack.py.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.reference_attack import (
    FGSM_EPSILON,
    PGD_EPSILON,
    STEPS,
    TRAINING_EPSILON,
    WithoutNormalisation,
    in_normalised_units,
    reference_fgsm,
    reference_pgd,
)
from jobs.candidates import OWN_MODELS
from jobs.cli import run_job
from robust.attacks.pgd import pgd
from robust.attacks.threat import Linf
from robust.config import PIXEL, Config
from robust.data.crops import CropSet
from robust.data.face_table import read_faces
from robust.data.inputs import to_tensor
from robust.errors import UserError
from robust.evaluation import metrics
from robust.models.checkpoint import load_checkpoint
from robust.models.detector import Detector
from robust.storage import Storage
from robust.training.session import COLUMNS

CROPS = 96  # half of them fake
BATCH = 32
BUDGETS = (1.0, 2.0, 4.0, 8.0, 16.0)  # 0-255 units


@dataclasses.dataclass(frozen=True)
class Crops:
    """(N, 3, H, W) pixels in [0, 1] and (N,) labels, 1 = fake."""

    x: Tensor
    y: Tensor


@dataclasses.dataclass(frozen=True)
class Row:
    """One protocol on one model; shares as (hits, among). `change` is the largest of a value, 0-255 units."""

    model: str
    group: str
    protocol: str
    epsilon: float
    change: float
    success: tuple[int, int] | None
    accuracy: tuple[int, int]


def main(config: Config, storage: Storage) -> dict:
    """Prints a table for each model and one of the budgets; writes all below the run's `benchmarks/`, for the report."""
    run, rows, budgets, sha256 = config.run.name, [], [], {}
    for name in OWN_MODELS:
        model, card = load_checkpoint(storage, f"{run}/train/{name}")
        sha256[name] = card["sha256"]
        test, seen = (read_crops(storage, run, split, model.input_size) for split in ("test", "train"))
        table = compare(model, name, test, seen, strict=float(card["frame_threshold"]), seed=config.run.seed)
        print(as_markdown(f"{name} of run {run}, {len(test.x)} test crops ({int(test.y.sum())} fake)", table), flush=True)
        rows += table
        budgets = budgets or compare_budgets(model, Crops(test.x[:BATCH], test.y[:BATCH]))
    print(budgets_as_markdown(budgets))
    key = f"{run}/benchmarks/reference_protocol.json"
    storage.write_json(key, {"crops": CROPS, "models": sha256, "rows": [dataclasses.asdict(row) for row in rows], "budgets": budgets})
    return {"summary": f"written to {storage.uri(key)}"}


def read_crops(storage: Storage, run: str, split: str, size: int) -> Crops:
    """At most CROPS crops of a split, half of them fake, spread over its videos."""
    faces = read_faces(storage, run, split=split, columns=COLUMNS, max_frames_per_video=1, subject_only=True)
    crops = CropSet.from_table(faces, size)
    chosen = crops.evenly_over_videos(CROPS)
    if not 0 < crops.labels[chosen].sum() < len(chosen):
        raise UserError(f"run {run}: the {split} split needs fakes and reals for this table; run jobs.extract first, or see data.splits")
    return Crops(to_tensor(crops.batch(chosen)).to(memory_format=torch.channels_last), torch.from_numpy(crops.labels[chosen]))


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a protocol counts: logits before and after its attack, (N,) each, of the images that it shows to the model."""

    before: np.ndarray
    after: np.ndarray
    labels: np.ndarray
    threshold: float = 0.0


def caught_fakes(scored: Scored) -> metrics.Share:
    """Ours: of the fakes called fake before, those called real after."""
    return metrics.fake_to_real(scored.before, scored.after, scored.labels, threshold=scored.threshold)


def all_fakes(scored: Scored) -> metrics.Share:
    """The reference's: of all fakes, those called real after; one that was missed anyway counts as a success."""
    fakes = scored.labels == 1
    return metrics.Share(hits=fakes & (scored.after <= scored.threshold), among=fakes)


def right_twice(scored: Scored) -> metrics.Share:
    """Ours: robust accuracy, right before and after."""
    return metrics.still_correct(scored.before, scored.after, scored.labels, threshold=scored.threshold)


def right_after(scored: Scored) -> metrics.Share:
    """The reference's: right after the attack."""
    return metrics.correct(scored.after, scored.labels, threshold=scored.threshold)


def called_fake(scored: Scored) -> metrics.Share:
    """The reference's test script: every image counts as a fake, reals included."""
    return metrics.correct(scored.after, np.ones_like(scored.labels), threshold=scored.threshold)


def compare(model: Detector, name: str, test: Crops, seen: Crops, *, strict: float = 0.0, seed: int = 0) -> list[Row]:
    """Our figure, ours with one fault at a time, and the reference's scripts with all of theirs.

    Args:
        model: left as it was.
        seen: crops of the training videos, which a split by frame also tests on.
        strict: our second threshold, a logit (FPR 1 % on clean validation frames).
    """
    model = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)  # twice as fast on CPUs
    training = copy.deepcopy(model).train()  # its batch statistics drift, as the reference's do
    epsilon = PGD_EPSILON * PIXEL
    repaired = {"epsilon": epsilon, "moves": True, "step_size": 2.5 * epsilon / STEPS}
    threat, passes = Linf(epsilon), needed_passes(model)

    def attack(function: Callable, crops: Crops = test, *, size: int = BATCH, **settings) -> Tensor:
        return torch.cat([function(x=x, y=y, **settings) for x, y in zip(crops.x.split(size), crops.y.split(size), strict=True)])

    def strong(x: Tensor, y: Tensor) -> Tensor:
        return pgd(model, x, y, threat, steps=STEPS, generator=torch.Generator().manual_seed(seed))

    def row(group: str, protocol: str, images: Tensor, after: np.ndarray, *, before: np.ndarray | None = None, crops: Crops = test,
            epsilon: float = PGD_EPSILON, threshold: float = 0.0, success: Callable | None = caught_fakes, accuracy: Callable = right_twice) -> Row:
        scored = Scored(clean if before is None else before, after, crops.y.numpy(), threshold)
        change = (images - crops.x).abs().max().item() / PIXEL
        return Row(name, group, protocol, epsilon, round(change, 2), _counts(success(scored)) if success else None, _counts(accuracy(scored)))

    def alone(protocol: str, images: Tensor, after: np.ndarray, **settings) -> Row:
        return row("one fault", protocol, images, after, **settings)

    def script(protocol: str, images: Tensor, after: np.ndarray, **settings) -> Row:
        return row("all faults", protocol, images, after, **{"success": all_fakes, "accuracy": right_after, **settings})

    clean, clean_seen = logits(model, test.x), logits(model, seen.x)
    ours, ours_seen = attack(strong), attack(strong, seen)
    after, after_seen = logits(model, ours), logits(model, ours_seen)
    rows = [
        row("ours", f"PGD-{STEPS} on the margin, logit 0", ours, after),
        row("ours", f"PGD-{STEPS} on the margin, threshold at FPR 1 %", ours, after, threshold=strict),
    ]
    images = attack(reference_pgd, model=model, epsilon=epsilon, steps=passes)
    rows.append(alone(f"{STEPS} passes, each from the clean image: one step", images, logits(model, images)))
    images = attack(reference_pgd, model=model, epsilon=epsilon, moves=True)
    rows.append(alone("steps of 0.01 whatever epsilon is, no random start, last point kept", images, logits(model, images)))
    images = attack(reference_pgd, model=WithoutNormalisation(model), **repaired)
    rows.append(alone("attack on the network without its normalisation", images, logits(model, images)))
    images = attack(in_normalised_units, model=model, **repaired)
    rows.append(alone("epsilon and the clamp to [0, 1] on normalised values", images, logits(model, images)))
    images, before = attack(reference_pgd, model=training, size=1, **repaired), logits(training, test.x, size=1)
    rows.append(alone("training mode, one image at a time", images, logits(training, images, size=1), before=before))
    rows += [
        alone("scored after a second division by 255", ours, logits(model, ours / 255)),
        alone("scored from JPEG copies", ours, logits(model, jpeg_copies(ours))),
        alone("success counted over all fakes, missed ones too", ours, after, success=all_fakes, accuracy=right_after),
        alone("every image labelled fake", ours, after, success=None, accuracy=called_fake),
        alone("crops of the training videos (a split by frame)", ours_seen, after_seen, crops=seen, before=clean_seen),
    ]
    unnormalised = WithoutNormalisation(training)
    images = attack(reference_fgsm, model=unnormalised, size=1, epsilon=FGSM_EPSILON * PIXEL)
    rows.append(script("attack script, FGSM", images, logits(training, images / 255, size=1), epsilon=FGSM_EPSILON))
    images = attack(reference_pgd, model=unnormalised, size=1, epsilon=epsilon, steps=passes)
    rows.append(script(f"attack script, PGD-{STEPS}", images, logits(training, images / 255, size=1)))
    rows.append(script(f"test script, on JPEG copies of that PGD-{STEPS}", images, logits(model, jpeg_copies(images)),
                       success=None, accuracy=called_fake))
    images = attack(in_normalised_units, seen, model=model, epsilon=TRAINING_EPSILON * PIXEL, steps=passes)
    rows.append(script(f"training script, its validation under PGD-{STEPS}", images, logits(model, images), crops=seen,
                       before=clean_seen, epsilon=TRAINING_EPSILON))
    return rows


def needed_passes(model: nn.Module) -> int:
    """One pass gives to the bit what its 40 give, as each starts from the clean image; only dropout can make them differ."""
    return STEPS if any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in model.modules()) else 1


@torch.no_grad()
def logits(model: nn.Module, x: Tensor, *, size: int = BATCH) -> np.ndarray:
    """(N,) logits; the model stays in its mode, and one in training mode must get one image at a time to be the reference's."""
    return torch.cat([model(part) for part in x.split(size)]).numpy()


def jpeg_copies(x: Tensor) -> Tensor:
    """The images as they come back from .jpg files, saved as the reference saves them: PIL's own quality, 75."""
    copies = []
    for image in (x.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG")
        copies.append(np.asarray(Image.open(file)))
    return to_tensor(np.stack(copies))


def compare_budgets(model: Detector, crops: Crops) -> list[dict]:
    """How far a value really moves, 0-255 units: ours, its attack on pixels, its attack on normalised values."""
    rows, x, y = [], crops.x, crops.y
    model = copy.deepcopy(model).eval()
    for claimed in BUDGETS:
        images = {
            "ours": pgd(model, x, y, Linf.from_255(claimed), steps=STEPS),
            "on pixels": reference_pgd(model, x, y, epsilon=claimed * PIXEL, steps=1),
            "on normalised values": in_normalised_units(model, x, y, epsilon=claimed * PIXEL, steps=1),
        }
        for attack, moved in images.items():
            change = (moved - x).abs() / PIXEL
            beyond = (change > claimed + 1e-3).float().mean().item()
            rows.append({"claimed": claimed, "attack": attack, "largest": round(change.max().item(), 2),
                         "median": round(change.median().item(), 2), "beyond": round(beyond, 4)})
    return rows


def _counts(share: metrics.Share) -> tuple[int, int]:
    return int(share.hits.sum()), int(share.among.sum())


def as_markdown(title: str, rows: Sequence[Row]) -> str:
    lines = [f"\n{title}; %, epsilon and change in 0-255 units\n",
             "| | protocol | epsilon | largest change | success, fake to real | accuracy under attack |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row.group} | {row.protocol} | {row.epsilon:g} | {row.change:g} | {_percent(row.success)} | {_percent(row.accuracy)} |")
    return "\n".join(lines)


def _percent(counts: tuple[int, int] | None) -> str:
    if counts is None or counts[1] == 0:
        return "–"
    return f"{100 * counts[0] / counts[1]:.1f} ({counts[0]} of {counts[1]})"


def budgets_as_markdown(rows: Sequence[dict]) -> str:
    lines = ["\nHow far a value really moves, 0-255 units\n",
             "| claimed epsilon | attack | largest | median | values beyond epsilon, % |", "|---|---|---|---|---|"]
    lines += [f"| {row['claimed']:g} | {row['attack']} | {row['largest']:g} | {row['median']:g} | {100 * row['beyond']:.1f} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_job("benchmark", main, needs_ray=False, in_run_folder=False))
