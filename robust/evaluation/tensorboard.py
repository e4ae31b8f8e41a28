"""The figures of summary.json as TensorBoard scalars, images and hparams, one run a model."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from robust.evaluation.gallery import Attacked, Strip
from robust.evaluation.universal_table import Picture

STEPS_OF_EPSILON = 100
"""TensorBoard's steps are whole numbers: figures under attack stand at step 100 * epsilon, certificates at 100 * radius,
the error of the surest at the percentage answered."""


def write_tensorboard(
    folder: Path, summary: Mapping, strips: Sequence[Strip] = (), patterns: Sequence[Picture] = ()
) -> None:
    """Writes event files to a local folder, in one subfolder a model."""
    for model in summary["models"]:
        name = model["name"]
        with SummaryWriter(log_dir=str(folder / name)) as writer:
            _write_hparams(writer, model, summary)
            for tag, step, value in scalars(summary, name):
                writer.add_scalar(tag, value, step)
            for picture in patterns:
                if picture.model == name:
                    tag = f"universal/{'fake_to_real' if picture.label else 'real_to_fake'}_epsilon_{picture.epsilon:g}"
                    writer.add_image(tag, _picture(picture.image), dataformats="HWC")
            for strip in strips:
                for seen in strip.attacked:
                    if seen.model == name:
                        tag = f"examples/{strip.example.method}/{strip.example.video_id.split('/')[-1]}"
                        writer.add_image(tag, _side_by_side(strip, seen), dataformats="HWC")


def scalars(summary: Mapping, model: str) -> list[tuple[str, int, float]]:
    """(tag, step, value) of every figure of a model that exists, all kinds and each kind."""
    found = []
    for record in summary["clean"]:
        if record["model"] == model:
            place = f"{record['level']}/{record['group']}"
            found += [(f"clean_{name}/{place}", 0, figure["value"]) for name, figure in figures_of(record)]
            found += [(f"clean_{name}/{place}", 0, value) for name, value in rates_of(record)]
    for record in summary["under_attack"]:
        if record["model"] == model:
            place = f"{record['attack']}/{record['level']}/{record['group']}"
            step = round(STEPS_OF_EPSILON * record["epsilon"])
            named = {"ece": "attacked_ece", "aurc": "attacked_aurc"}  # the others are of an attack by their names
            figures = [(named.get(name, name), figure["value"]) for name, figure in figures_of(record)]
            found += [(f"{name}/{place}", step, value) for name, value in figures]
            found += [(f"{name}/{place}", step, value) for name, value in rates_of(record)]
    for record in summary["over_epsilon"]:
        if record["model"] == model:
            place = f"{record['level']}/{record['group']}"
            found.append((f"median_minimal_epsilon/{place}", 0, record["minimal_epsilon"]["value"]))
            found.append((f"mean_robust_auc/{place}", 0, record["mean_robust_auc"]["value"]))
    for record in summary["risk_coverage"]:
        if record["model"] == model:
            attack = f"{record['attack']}/epsilon_{record['epsilon']:g}" if record["attack"] else "clean"
            curve = zip(record["coverage"], record["risk"], strict=True)
            tag = f"error_of_the_surest/{attack}/{record['level']}"
            found += [(tag, round(100 * share), risk) for share, risk in curve]
    found += corruption_scalars(summary, model) + codec_scalars(summary, model)
    found += whole_video_scalars(summary, model) + universal_scalars(summary, model)
    found += certificate_scalars(summary, model) + export_scalars(summary, model)
    gates = [gate for gate in summary["gates"] if gate["model"] == model]
    found += [(f"gates_passed/{gate['name']}", 0, float(gate["passed"])) for gate in gates]
    return [(tag, step, value) for tag, step, value in found if value is not None]


def figures_of(record: Mapping) -> list[tuple[str, Mapping]]:
    """(name, figure) of a record's own figures."""
    return [(name, figure) for name, figure in record.items() if isinstance(figure, Mapping) and "value" in figure]


def rates_of(record: Mapping) -> list[tuple[str, float | None]]:
    """(name, value) of a record's rates: at logit 0 by their own name, at a frozen threshold with that behind it."""
    return [(name if threshold == "zero" else f"{name}_at_{threshold}", figure["value"])
            for threshold, rates in record["at"].items() for name, figure in figures_of(rates)]


def certificate_scalars(summary: Mapping, model: str) -> list[tuple[str, int, float | None]]:
    """Certified accuracy at step 100 * L2 radius (0-255 units) for each sigma, and what belongs to no radius at 0."""
    found = []
    for record in (summary.get("smoothing") or {"records": []})["records"]:
        if record["model"] == model:
            sigma = f"sigma_{record['sigma']:g}"
            found += [(f"certified_{name}/{sigma}", 0, figure["value"]) for name, figure in figures_of(record)]
            found.append((f"certified_mean_radius/{sigma}", 0, record["mean_radius"]))
            for point in record["certified"]:
                step = round(STEPS_OF_EPSILON * point["radius"])
                found += [(f"certified_accuracy/{sigma}/{who}", step, point[who]["value"]) for who in ("all", "fakes", "reals")]
    return found


def export_scalars(summary: Mapping, model: str) -> list[tuple[str, int, float | None]]:
    """What is left of the attack in the exported files."""
    return [(f"exported_{name}", 0, figure["value"])
            for record in (summary.get("export") or {"models": []})["models"] if record["model"] == model
            for name, figure in figures_of(record)]


def corruption_scalars(summary: Mapping, model: str) -> list[tuple[str, int, float | None]]:
    """The AUC under each corruption, at the step of its severity, clean at 0; and mean and worst."""
    found = []
    for row in (summary.get("corruptions") or {"models": []})["models"]:
        if row["model"] == model:
            found += [(f"corruptions/{name}", 0, row[name]["value"]) for name in ("clean_auc", "mean_auc", "worst_auc")]
            found += [(f"corruption_auc/{cell['corruption']}", cell["severity"], cell["auc"]["value"]) for cell in row["cells"]]
    return found


def codec_scalars(summary: Mapping, model: str) -> list[tuple[str, int, float | None]]:
    """Attack success after sharing, and the share of faces found, at the step of the channel's CRF or JPEG quality."""
    return [(f"codec_{name}/{record['attack']}/{record['codec']}/epsilon_{record['epsilon']:g}", record["quality"],
             record[name]["value"])
            for record in (summary.get("codec") or {"records": []})["records"] if record["model"] == model
            for name in ("caught", "fake_to_real", "found_clean", "found_attacked")]


def whole_video_scalars(summary: Mapping, model: str) -> list[tuple[str, int, float | None]]:
    """Success and AUC of the attack on the video's score, of the worst case frame by frame, and what only one turns."""
    found = []
    for record in (summary.get("whole_video") or {"records": []})["records"]:
        if record["model"] == model:
            step = round(STEPS_OF_EPSILON * record["epsilon"])
            found += [(f"whole_video_{name}/{attack}", step, record[attack][name]["value"])
                      for attack in ("joint", "frame_wise", "either")
                      for name in ("fake_to_real", "real_to_fake", "robust_auc")]
            found += [(f"whole_video/{name}", step, record[name]["value"])
                      for name in ("only_joint", "only_frame_wise")]
    return found


def universal_scalars(summary: Mapping, model: str) -> list[tuple[str, int, float | None]]:
    """Success and AUC of one pattern for all, of its values shuffled, and of the worst case image by image."""
    return [(f"universal_{name}/{attack}/{record['level']}", round(STEPS_OF_EPSILON * record["epsilon"]),
             record[attack][name]["value"])
            for record in (summary.get("universal") or {"records": []})["records"] if record["model"] == model
            for attack in ("universal", "shuffled", "per_image")
            for name in ("fake_to_real", "real_to_fake", "robust_auc")]


def _write_hparams(writer: SummaryWriter, model: Mapping, summary: Mapping) -> None:
    settings = {"model": model["name"], "epsilon": summary["shown"]["epsilon"]}
    settings |= {key: value for key, value in model["card"].items() if isinstance(value, (str, int, float, bool))}
    settings |= {f"architecture_{key}": str(value) for key, value in (model["architecture"] or {}).items()}
    figures = (summary["headline"] or {"models": {}})["models"]  # no headline: a gate failed
    headline = figures.get(model["name"], {"value": None})["value"]
    metrics = {} if headline is None else {"headline/attack_success": headline}
    for event in hparams(settings, metrics):
        writer.file_writer.add_summary(event)
    for tag, value in metrics.items():
        writer.add_scalar(tag, value, 0)


def _side_by_side(strip: Strip, seen: Attacked) -> np.ndarray:
    """Clean, perturbed and difference next to each other; (H, 3 W, 3) uint8."""
    pictures = (strip.clean, seen.perturbed, seen.difference)
    return np.concatenate([_picture(data) for data in pictures], axis=1)


def _picture(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
