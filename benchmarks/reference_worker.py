"""Runs attacks of ours, torchattacks, foolbox and ART on one model and the same images, in a process of its own.

The libraries lie in a folder apart, .reference (see requirements-reference.in), which only this process has on its
path. `attack_reference.py` starts it and keeps the score. Files are safetensors, JSON and plain .npz: no pickles.
"""

import json
import os
import threading
import time
from functools import partial
from pathlib import Path

import foolbox
import numpy as np
import torch
import torchattacks
from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from safetensors.torch import load
from torch import Tensor, nn

from benchmarks.small_detector import SmallDetector
from robust.attacks.apgd import apgd
from robust.attacks.minimal_norm import fmn
from robust.attacks.pgd import pgd
from robust.attacks.square import square
from robust.attacks.threat import Linf
from robust.attacks.transfer import mi_fgsm

QUERIES_PER_STEP = 10  # of the square attacks, which see no gradient


class TwoLogits(nn.Module):
    """One logit z as the two that the libraries need, [0, z]: their cross-entropy and argmax are then exact."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logit = self.model(x)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def run_ours(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return pgd(model, x, y, Linf(epsilon), steps=steps, step_size=step_size, generator=generator)


def run_torchattacks(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    torch.manual_seed(seed)
    return torchattacks.PGD(TwoLogits(model).eval(), eps=epsilon, alpha=step_size, steps=steps, random_start=True)(x, y)


def run_foolbox(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    torch.manual_seed(seed)
    attack = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=step_size, random_start=True)
    wrapped = foolbox.PyTorchModel(TwoLogits(model).eval(), bounds=(0, 1), device=x.device)
    return attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=epsilon)[1]


def run_our_apgd(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    return apgd(model, x, y, Linf(epsilon), steps=steps, generator=torch.Generator().manual_seed(seed))


def run_our_fmn(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    return fmn(model, x, y, Linf(epsilon), steps=steps, generator=torch.Generator().manual_seed(seed))


def run_our_square(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    queries = QUERIES_PER_STEP * steps
    return square(model, x, y, Linf(epsilon), steps=queries, generator=torch.Generator().manual_seed(seed))


def run_torchattacks_apgd(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    # Its DLR loss needs a third class.
    return torchattacks.APGD(TwoLogits(model).eval(), eps=epsilon, steps=steps, seed=seed, loss="ce")(x, y)


def run_torchattacks_fab(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    return torchattacks.FAB(TwoLogits(model).eval(), eps=epsilon, steps=steps, seed=seed, n_classes=2)(x, y)


def run_torchattacks_square(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    queries = QUERIES_PER_STEP * steps
    return torchattacks.Square(TwoLogits(model).eval(), eps=epsilon, n_queries=queries, seed=seed)(x, y)


def run_foolbox_deepfool(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    attack = foolbox.attacks.LinfDeepFoolAttack(steps=steps)
    wrapped = foolbox.PyTorchModel(TwoLogits(model).eval(), bounds=(0, 1), device=x.device)
    return attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=epsilon)[1]


def run_art_pgd(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    np.random.seed(seed)
    attack = ProjectedGradientDescentPyTorch(
        art_classifier(model, x), eps=epsilon, eps_step=step_size, max_iter=steps, num_random_init=1, verbose=False)
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def run_art_apgd(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    np.random.seed(seed)
    # Its DLR loss needs a third class. The first step is 2 epsilon, as in the paper.
    attack = AutoProjectedGradientDescent(
        art_classifier(model, x), eps=epsilon, eps_step=2 * epsilon, max_iter=steps, nb_random_init=1,
        loss_type="cross_entropy", batch_size=len(x), verbose=False)
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def art_classifier(model: nn.Module, x: Tensor) -> PyTorchClassifier:
    return PyTorchClassifier(
        TwoLogits(model).eval(), nn.CrossEntropyLoss(), tuple(x.shape[1:]), nb_classes=2, clip_values=(0.0, 1.0), device_type="cpu")


def run_our_mi_fgsm(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int, diversity=0.0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mi_fgsm(model, x, y, Linf(epsilon), steps=steps, step_size=step_size, generator=generator, diversity=diversity)


def run_torchattacks_mi_fgsm(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    return torchattacks.MIFGSM(TwoLogits(model).eval(), eps=epsilon, alpha=step_size, steps=steps, decay=1.0)(x, y)


def run_torchattacks_di_fgsm(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    torch.manual_seed(seed)
    settings = {"decay": 1.0, "resize_rate": 0.9, "diversity_prob": 0.5}
    return torchattacks.DIFGSM(TwoLogits(model).eval(), eps=epsilon, alpha=step_size, steps=steps, **settings)(x, y)


ATTACKS = {
    "ours": run_ours,
    "torchattacks": run_torchattacks,
    "foolbox": run_foolbox,
    "ours APGD": run_our_apgd,
    "ours FMN": run_our_fmn,
    "ours Square": run_our_square,
    "torchattacks APGD": run_torchattacks_apgd,
    "torchattacks FAB": run_torchattacks_fab,
    "torchattacks Square": run_torchattacks_square,
    "foolbox DeepFool": run_foolbox_deepfool,
    "ART PGD": run_art_pgd,
    "ART APGD": run_art_apgd,
    "ours MI-FGSM": run_our_mi_fgsm,
    "ours M-DI-FGSM": partial(run_our_mi_fgsm, diversity=0.5),
    "torchattacks MI-FGSM": run_torchattacks_mi_fgsm,
    "torchattacks M-DI-FGSM": run_torchattacks_di_fgsm,
}


def main(weights: str, task: str, images: str, result: str) -> None:
    """Run each attack of the task at each of its epsilons; write the perturbed images and the CPU seconds.

    Args: paths of model.safetensors, of the task (JSON), of x and y (.npz), and of the .npz to write.
    """
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    settings = json.loads(Path(task).read_text())
    torch.set_num_threads(settings["threads"])
    model = load_model(Path(weights).read_bytes(), settings["architecture"])
    with np.load(images, allow_pickle=False) as arrays:
        x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    batches = list(zip(x.split(settings["batch_size"]), y.split(settings["batch_size"])))
    outcome = {}
    for epsilon in settings["epsilons"]:
        budget = {"epsilon": epsilon / 255, "steps": settings["steps"], "seed": settings["seed"]}
        budget["step_size"] = 2.5 * budget["epsilon"] / budget["steps"]
        for name in settings["attacks"]:
            start = time.process_time()
            perturbed = [ATTACKS[name](model, *pair, **budget) for pair in batches]
            outcome[f"{name} {epsilon} seconds"] = np.array(time.process_time() - start)
            outcome[f"{name} {epsilon}"] = torch.cat(perturbed).detach().numpy()
    np.savez(result, **outcome)


def load_model(weights: bytes, architecture: dict | None) -> nn.Module:
    """The model in evaluation mode: a detector of that architecture, or the SmallDetector where there is none."""
    if architecture:
        from robust.models.detector import Architecture, empty_detector

        model = empty_detector(Architecture(**architecture))
    else:
        model = SmallDetector()
    model.load_state_dict(load(weights))
    return model.eval()


def _leave_with_parent() -> None:
    """The parent holds the other end of stdin; when it ends, however, so does this process."""
    os.read(0, 1)  # not sys.stdin.read(), whose lock Python wants back when it ends
    os._exit(1)
