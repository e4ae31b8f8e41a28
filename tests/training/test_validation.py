"""robust/training/validation.py: figures at one fixed threat, on the network as it is deployed."""

import numpy as np
import pytest
import torch
from tiny_training import crop_set, same, smooth, weights

from robust.attacks.pgd import pgd
from robust.attacks.threat import Linf
from robust.config import ValidationConfig
from robust.data.inputs import to_tensor
from robust.evaluation.metrics import auc, video_scores
from robust.training.validation import validate

CPU = torch.device("cpu")


def figures(network, crops, **changes):
    return validate(network, crops, ValidationConfig(**{"epsilon": 4, "steps": 3, **changes}), device=CPU, seed=1)


def test_figures_are_those_of_the_definitions():
    network, crops = smooth().eval(), crop_set()
    if figures(network, crops)["frame_auc"] < 0.5:
        crops.labels = 1 - crops.labels  # this untrained network happens to rank them so
    found = figures(network, crops)
    x, y = to_tensor(crops.pixels), torch.from_numpy(crops.labels)
    with torch.no_grad():
        logits = network(x).numpy()
        attacked = network(pgd(network, x, y, Linf.from_255(4), steps=3, generator=torch.Generator().manual_seed(1))).numpy()
    attacked = np.where(crops.labels == 1, attacked, logits)  # reals stay as they are
    assert (attacked <= logits).all() and (attacked < logits)[crops.labels == 1].all()
    labels = np.array([crops.labels[crops.video_ids == name][0] for name in np.unique(crops.video_ids.astype(str))])
    assert found["frame_auc"] == pytest.approx(auc(logits, crops.labels))
    assert found["auc"] == pytest.approx(auc(video_scores(logits, crops.video_ids)[1], labels))
    assert found["robust_auc"] == pytest.approx(auc(video_scores(attacked, crops.video_ids)[1], labels))
    middle = found["equal_error_logit"]
    false_alarms, missed = (logits[crops.labels == 0] > middle).mean(), (logits[crops.labels == 1] <= middle).mean()
    assert abs(false_alarms - missed) <= 1 / (crops.labels == 0).sum()
    caught = (crops.labels == 1) & (logits > middle)
    assert caught.any() and found["attack_success"] == pytest.approx((attacked[caught] <= middle).mean())
    scores = video_scores(logits, crops.video_ids)[1]
    assert found["threshold"] == pytest.approx(scores[labels == 0].max()) and found["frame_threshold"] == pytest.approx(logits[crops.labels == 0].max())


def test_epsilon_0_is_clean():
    found = figures(smooth(), crop_set(), epsilon=0)
    assert found["robust_auc"] == found["auc"] and found["attack_success"] in (0.0, pytest.approx(float("nan"), nan_ok=True))


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_statistics_stay(training):
    network = smooth().train(training)
    before = weights(network)
    figures(network, crop_set(), max_images=8)
    assert network.training is training and same(weights(network), before)


def test_robust_figures_over_few_images_have_both_labels():
    found = figures(smooth(), crop_set(reals=60, fakes=60), max_images=8)
    assert 0 <= found["robust_auc"] <= 1
