"""Deep Image Prior in front of the plain detector, beside the defended one: under the same attacks, and with its time.

    python -m benchmarks.deep_image_prior [--published] --profile demo [section.key=value ...]

On a finished run. The iteration to stop at and the threshold behind the prior are chosen on validation crops. Three
attackers: one who attacks the plain detector and does not know of the prior (as it was published), one who attacks
through it (BPDA, backward as through the identity), and on the defended model the plain white-box one.
Run jobs.evaluate again to see it in the report.
--published fits the network of 2.2 million parameters 10 000 times at 512 pixels: for a GPU, with evaluate.gpus_per_task=1.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from jobs.candidates import OWN_MODELS
from jobs.cli import run_job
from jobs.task_pool import device_of
from robust.attacks.pgd import pgd
from robust.attacks.threat import Linf
from robust.config import Config
from robust.data.crops import CropSet
from robust.data.face_table import read_faces
from robust.data.inputs import to_tensor
from robust.defenses.deep_image_prior import PUBLISHED, QUICK, Prior, bpda, choose_stop, purify
from robust.errors import UserError
from robust.evaluation import metrics
from robust.evaluation.comparators import rate
from robust.models.checkpoint import load_checkpoint
from robust.storage import Storage
from robust.training.session import COLUMNS

VALIDATION_CROPS, TEST_CROPS = 16, 32  # half of them fake
STEPS = 20  # of PGD on a detector alone
ADAPTIVE_STEPS = 3  # through the prior, each of which fits it anew to every image
TIMED_ITERATIONS = 2


@dataclasses.dataclass(frozen=True)
class Row:
    """A detector under one attacker; shares as (hits, among)."""

    detector: str
    attacker: str
    accuracy: tuple[int, int]  # right without an attack
    success: tuple[int, int]  # of the fakes caught before the attack, those called real after it
    robust: tuple[int, int]  # right before and after it
    seconds: float  # an image, to score it


def main(config: Config, storage: Storage, *, prior: Prior) -> dict:
    """Prints the table; writes it below the run's `benchmarks/`, where jobs.evaluate finds it for its report."""
    run, device = config.run.name, device_of(config)
    epsilon = config.evaluate.headline[1]
    loaded = {name: load_checkpoint(storage, f"{run}/train/{name}") for name in OWN_MODELS}
    plain, defended = (model.to(device) for model, _ in loaded.values())
    validation = read_crops(storage, run, "val", plain.input_size, VALIDATION_CROPS, device)
    test = read_crops(storage, run, "test", plain.input_size, TEST_CROPS, device)
    rows, facts = compare(plain, defended, validation, test, Linf.from_255(epsilon), prior, seed=config.run.seed)
    facts |= {"epsilon": epsilon, "published_seconds": published_seconds(test[0][:1]),
              "models": {name: card["sha256"] for name, (_, card) in loaded.items()}}
    print(as_markdown(rows, facts), flush=True)
    key = f"{run}/benchmarks/deep_image_prior.json"
    storage.write_json(key, {"prior": dataclasses.asdict(prior), "rows": [dataclasses.asdict(row) for row in rows], **facts})
    return {"summary": f"written to {storage.uri(key)}"}


def read_crops(storage: Storage, run: str, split: str, size: int, count: int, device: str) -> tuple[Tensor, Tensor]:
    """(N, 3, size, size) crops in [0, 1] and (N,) labels, half of them fake, spread over the split's videos."""
    faces = read_faces(storage, run, split=split, columns=COLUMNS, max_frames_per_video=1, subject_only=True)
    crops = CropSet.from_table(faces, size)
    chosen = crops.evenly_over_videos(count)
    if not 0 < crops.labels[chosen].sum() < len(chosen):
        raise UserError(f"run {run}: the {split} split needs fakes and reals for this table; run jobs.extract first, or see data.splits")
    return to_tensor(crops.batch(chosen)).to(device), torch.from_numpy(crops.labels[chosen]).to(device)


def compare(
    plain: nn.Module, defended: nn.Module, validation: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], threat: Linf, prior: Prior, *, seed: int
) -> tuple[list[Row], dict]:
    """The rows, and what was chosen on validation: `stop` and `threshold`."""

    def attacked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return pgd(model, x, y, threat, steps=STEPS, generator=torch.Generator().manual_seed(seed))

    x, y = validation
    stop, threshold, figures = choose_on_validation(plain, purify(x, prior, seed=seed), purify(attacked(plain, x, y), prior, seed=seed), y)
    stopped = dataclasses.replace(prior, iterations=stop, stops=(stop,))

    def purifier(images: Tensor) -> Tensor:
        return purify(images, stopped, seed=seed)[stop]

    x, y = test
    behind = functools.partial(behind_prior, plain, purifier, threshold)
    on_plain, through = attacked(plain, x, y), bpda(plain, purifier, x, y, threat, steps=ADAPTIVE_STEPS)
    clean = {name: timed_logits(model, x) for name, model in (("plain", plain), ("behind", behind), ("defended", defended))}
    rows = [
        measure("plain", f"PGD-{STEPS} on it", clean["plain"], logits(plain, on_plain), y),
        measure("plain behind the prior", f"PGD-{STEPS} on the plain detector", clean["behind"], logits(behind, on_plain), y),
        measure("plain behind the prior", f"BPDA-{ADAPTIVE_STEPS} through the prior", clean["behind"], logits(behind, through), y),
        measure("defended", f"PGD-{STEPS} on it", clean["defended"], logits(defended, attacked(defended, x, y)), y),
    ]
    return rows, {"stop": stop, "threshold": threshold, "validation": figures}


def behind_prior(model: nn.Module, purifier: Callable[[Tensor], Tensor], threshold: float, x: Tensor) -> Tensor:
    """(N,) logits of the purified images, less the threshold chosen for them."""
    return model(purifier(x)) - threshold


@torch.no_grad()
def choose_on_validation(
    model: nn.Module, clean: dict[int, Tensor], attacked: dict[int, Tensor], y: Tensor
) -> tuple[int, float, dict[int, float]]:
    """The stop with the most right verdicts on clean and attacked crops together, each at its own threshold.

    Returns:
        the stop; its threshold, where errors on clean purified crops are equal; the share right for each stop.
    """
    thresholds, right = {}, {}
    labels = y.cpu().numpy()
    for stop in clean:
        before, after = (model(images[stop]).double().cpu().numpy() for images in (clean, attacked))
        thresholds[stop] = metrics.equal_error_threshold(before, labels)
        right[stop] = float(np.mean([metrics.accuracy(logits, labels, threshold=thresholds[stop]) for logits in (before, after)]))
    stop = choose_stop(right)
    return stop, thresholds[stop], right


@torch.no_grad()
def logits(model: Callable[[Tensor], Tensor], x: Tensor) -> np.ndarray:
    """(N,) logits on the CPU."""
    return model(x).cpu().numpy()


def timed_logits(model: Callable[[Tensor], Tensor], x: Tensor) -> tuple[np.ndarray, float]:
    """(N,) logits and the seconds that an image took, all in one batch where the detector can, after a first image for warmth."""
    logits(model, x[:1])
    began = time.perf_counter()
    values = logits(model, x)  # which waits for the device
    return values, (time.perf_counter() - began) / len(x)


def measure(detector: str, attacker: str, clean: tuple[np.ndarray, float], after: np.ndarray, y: Tensor) -> Row:
    """One row from the logits before the attack, with their seconds, and after it."""
    (before, seconds), labels = clean, y.cpu().numpy()
    shares = (metrics.correct(before, labels, threshold=0.0), metrics.fake_to_real(before, after, labels, threshold=0.0),
              metrics.still_correct(before, after, labels, threshold=0.0))
    return Row(detector, attacker, *((int(share.hits.sum()), int(share.among.sum())) for share in shares), seconds)


def published_seconds(x: Tensor) -> float:
    """Seconds an image at the published setting, extrapolated from some iterations, the first not counted."""
    def seconds(iterations: int) -> float:
        began = time.perf_counter()
        purify(x, dataclasses.replace(PUBLISHED, iterations=iterations, stops=(iterations,)))[iterations].cpu()
        return time.perf_counter() - began

    first = seconds(1)
    return (seconds(1 + TIMED_ITERATIONS) - first) / TIMED_ITERATIONS * PUBLISHED.iterations


def as_markdown(rows: Sequence[Row], facts: dict) -> str:
    lines = [f"\n{rows[0].accuracy[1]} test crops, epsilon {facts['epsilon']:g} (0-255 units, Linf); % (count) [95 %, exact]\n",
             "| detector | attack | right without attack | success, fake to real | right before and after | seconds an image |",
             "|---|---|---|---|---|---|"]
    for row in rows:
        cells = " | ".join(_percent(counts) for counts in (row.accuracy, row.success, row.robust))
        lines.append(f"| {row.detector} | {row.attacker} | {cells} | {row.seconds:.2g} |")
    shares = ", ".join(f"{stop}: {100 * share:.0f} %" for stop, share in facts["validation"].items())
    lines.append(f"\nChosen on validation: {facts['stop']} iterations (right at each: {shares}), threshold {facts['threshold']:.2f}.")
    lines.append(f"The published setting would take {facts['published_seconds']:.0f} s an image here ({PUBLISHED.iterations} iterations at "
                 f"{PUBLISHED.size} pixels, extrapolated from {TIMED_ITERATIONS} of them).")
    lines.append(f"BPDA of {ADAPTIVE_STEPS} steps is a short attack, as each step fits the prior anew: what is left behind the prior is at most that.")
    return "\n".join(lines)


def _percent(counts: tuple[int, int]) -> str:
    if not counts[1]:
        return "–"
    figure = rate(counts)
    return f"{100 * figure['value']:.1f} ({counts[0]} of {counts[1]}) [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--published"]
    setting = PUBLISHED if len(arguments) < len(sys.argv) - 1 else QUICK
    sys.exit(run_job("benchmark", functools.partial(main, prior=setting), argv=arguments, needs_ray=False, in_run_folder=False))
