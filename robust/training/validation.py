"""Validation figures of a detector: clean, and under PGD at one fixed threat that does not depend on how it was trained."""
from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from robust.attacks.pgd import pgd
from robust.attacks.subset import attack_chosen
from robust.attacks.threat import Linf
from robust.config import ValidationConfig
from robust.data.crops import CropSet
from robust.data.inputs import to_tensor
from robust.evaluation.metrics import auc, equal_error_threshold, fake_to_real, frozen_threshold, video_scores
from robust.training.modes import evaluation_mode

BATCH = 64
CONSTANT = 1e-2
"""A detector whose logits spread less, and less than a tenth of what they did before its first step, and that tells nothing apart, has become a
constant. One that was drawn at random begins with hardly any spread, and needs more than a few steps to get one."""


def validate(network: nn.Module, crops: CropSet, settings: ValidationConfig, *, device: torch.device, seed: int) -> dict[str, float]:
    """Clean figures over all crops, robust ones over at most `settings.max_images`, evenly over videos.

    Returns:
        auc, robust_auc (video level), frame_auc, logit_spread (standard deviation) and equal_error_logit (frames, clean),
        attack_success (fake to real at that logit, frames), thresholds frozen at FPR 1 %: threshold (video scores) and frame_threshold (frame logits), and at FPR 5 %:
        threshold_fpr_5 and frame_threshold_fpr_5.
    """
    with evaluation_mode(network):
        logits = _clean_logits(network, crops, np.arange(len(crops)), device)
        chosen = crops.evenly_over_videos(settings.max_images)
        attacked = _attacked_logits(network, crops, chosen, settings, device, seed)
    _, scores = video_scores(logits, crops.video_ids)
    labels = _video_labels(crops, np.arange(len(crops)))
    middle = equal_error_threshold(logits, crops.labels)
    success = fake_to_real(logits[chosen], attacked, crops.labels[chosen], threshold=middle)
    return {
        "auc": auc(scores, labels),
        "frame_auc": auc(logits, crops.labels),
        "logit_spread": float(logits.std()),
        "robust_auc": auc(video_scores(attacked, crops.video_ids[chosen])[1], _video_labels(crops, chosen)),
        "attack_success": success.value() if success.among.any() else float("nan"),
        "equal_error_logit": middle,
        "threshold": frozen_threshold(scores, labels),
        "frame_threshold": frozen_threshold(logits, crops.labels),
        "threshold_fpr_5": frozen_threshold(scores, labels, fpr=0.05),
        "frame_threshold_fpr_5": frozen_threshold(logits, crops.labels, fpr=0.05),
    }


def clean_spread(network: nn.Module, crops: CropSet, *, device: torch.device) -> float:
    """Standard deviation of the clean logits of all crops, `logit_spread` of `validate`."""
    with evaluation_mode(network):
        return float(_clean_logits(network, crops, np.arange(len(crops)), device).std())


def is_constant(scores: dict[str, float], first_spread: float) -> bool:
    """Whether validation found a detector that gives every crop one logit, which nothing brings back: with it goes the gradient.

    Args:
        first_spread: `clean_spread` before the first step; inf where it is not known.
    """
    return scores["logit_spread"] < min(CONSTANT, first_spread / 10) and abs(scores["frame_auc"] - 0.5) < 0.1


def _video_labels(crops: CropSet, indices: np.ndarray) -> np.ndarray:
    """One label a video, in the order of `video_scores`."""
    _, first = np.unique(crops.video_ids[indices].astype(str), return_index=True)
    return crops.labels[indices][first]


def _batches(crops: CropSet, indices: np.ndarray, device: torch.device):
    for start in range(0, len(indices), BATCH):
        part = indices[start:start + BATCH]
        x = to_tensor(crops.batch(part)).to(device, memory_format=torch.channels_last)
        yield x, torch.from_numpy(crops.labels[part]).to(device)


@torch.no_grad()
def _clean_logits(network, crops, indices, device) -> np.ndarray:
    return np.concatenate([network(x).float().cpu().numpy() for x, _ in _batches(crops, indices, device)])


@torch.no_grad()
def _attacked_logits(network, crops, indices, settings: ValidationConfig, device, seed: int) -> np.ndarray:
    threat, logits = Linf.from_255(settings.epsilon), []
    for x, y in _batches(crops, indices, device):
        attack = partial(pgd, network, threat=threat, steps=settings.steps, generator=torch.Generator().manual_seed(seed))
        x_adv = attack_chosen(attack, x, y, y == 1) if settings.targets == "fake" else attack(x, y)
        logits.append(network(x_adv).float().cpu().numpy())
    return np.concatenate(logits)
