"""Runs attacks of ours, torchattacks, foolbox and ART on one model and the same images, in a process of its own.

The libraries lie in a folder apart, .reference (see requirements-reference.in), which only this process has on its
path. `attack_reference.py` starts it and keeps the score. Files are safetensors, JSON and plain .npz: no pickles.
"""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
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
from robust.attacks.minimal_norm import inside_ball, minimal_perturbation
from robust.attacks.pgd import pgd
from robust.attacks.square import square
from robust.attacks.threat import Linf
from robust.attacks.transfer import mi_fgsm


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


def run_our_square(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    return square(model, x, y, Linf(epsilon), steps=steps, generator=torch.Generator().manual_seed(seed))


def run_torchattacks_apgd(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    # Its DLR loss needs a third class.
    return torchattacks.APGD(TwoLogits(model).eval(), eps=epsilon, steps=steps, seed=seed, loss="ce")(x, y)


def run_torchattacks_square(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int, step_size: float, seed: int
) -> Tensor:
    return torchattacks.Square(TwoLogits(model).eval(), eps=epsilon, n_queries=steps, seed=seed)(x, y)


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
    settings = {"nb_classes": 2, "clip_values": (0.0, 1.0), "device_type": "cpu"}
    return PyTorchClassifier(TwoLogits(model).eval(), nn.CrossEntropyLoss(), tuple(x.shape[1:]), **settings)


def run_our_fmn(model: nn.Module, x: Tensor, y: Tensor, *, epsilons: list[float], steps: int, seed: int) -> list[Tensor]:
    found = minimal_perturbation(model, x, y, Linf, steps=steps, generator=torch.Generator().manual_seed(seed))
    return [inside_ball(model, x, y, Linf(epsilon), *found) for epsilon in epsilons]


def run_torchattacks_fab(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilons: list[float], steps: int, seed: int
) -> list[Tensor]:
    # Its epsilon bounds random starts, of which one path has none, and drops what lies further off, which is done here.
    x_adv = torchattacks.FAB(TwoLogits(model).eval(), eps=1.0, steps=steps, seed=seed, n_classes=2)(x, y)
    distance = (x_adv - x).abs().amax((1, 2, 3), keepdim=True)
    return [torch.where(distance <= epsilon, x_adv, x) for epsilon in epsilons]


def run_foolbox_deepfool(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilons: list[float], steps: int, seed: int
) -> list[Tensor]:
    attack = foolbox.attacks.LinfDeepFoolAttack(steps=steps)
    wrapped = foolbox.PyTorchModel(TwoLogits(model).eval(), bounds=(0, 1), device=x.device)
    return attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=epsilons)[1]


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
    "ours Square": run_our_square,
    "torchattacks APGD": run_torchattacks_apgd,
    "torchattacks Square": run_torchattacks_square,
    "ART PGD": run_art_pgd,
    "ART APGD": run_art_apgd,
    "ours MI-FGSM": run_our_mi_fgsm,
    "ours M-DI-FGSM": partial(run_our_mi_fgsm, diversity=0.5),
    "torchattacks MI-FGSM": run_torchattacks_mi_fgsm,
    "torchattacks M-DI-FGSM": run_torchattacks_di_fgsm,
}


# One run of these serves every epsilon: what they find does not depend on it.
MINIMAL_NORM = {
    "ours FMN": run_our_fmn,
    "torchattacks FAB": run_torchattacks_fab,
    "foolbox DeepFool": run_foolbox_deepfool,
}


class Passes:
    """Counts the images that go through a model and how many of these passes are differentiated."""

    def __init__(self, model: nn.Module) -> None:
        self.forwards = self.gradients = 0
        model.register_forward_hook(self._forward)

    def _forward(self, model: nn.Module, inputs: tuple, logits: Tensor) -> None:
        self.forwards += len(logits)
        if logits.requires_grad:
            logits.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


@dataclasses.dataclass(frozen=True)
class Task:
    """What to run; the epsilons, in 0-255 units, ascend. See `attack_reference.compare`."""

    architecture: dict | None
    attacks: list[str]
    epsilons: list[float]
    steps: int
    queries: int
    seed: int
    batch_size: int
    threads: int
    nested: bool


def main(weights: str, task: str, images: str, results: str) -> None:
    """Run each attack of the task at each of its epsilons. After each, one line of JSON on stdout: which one, its cost,
    and the file below `results` with its images.

    Args: paths of model.safetensors, of the task (JSON), of x and y (.npz), and of the folder for the images.
    """
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    settings = Task(**json.loads(Path(task).read_text()))
    torch.set_num_threads(settings.threads)
    model = load_model(Path(weights).read_bytes(), settings.architecture)
    with np.load(images, allow_pickle=False) as arrays:
        x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    passes = Passes(model)
    for name in settings.attacks:
        for place, (epsilon, cost, x_adv) in enumerate(run_attack(name, model, x, y, settings, passes)):
            path = Path(results, f"{settings.attacks.index(name)}-{place}.npy")
            np.save(path, x_adv.detach().numpy())
            print(json.dumps({"library": name, "epsilon": epsilon, "path": str(path), **cost}), file=lines, flush=True)


def run_attack(
    name: str, model: nn.Module, x: Tensor, y: Tensor, task: Task, passes: Passes
) -> Iterator[tuple[float, dict, Tensor]]:
    """For each epsilon: the epsilon, the cost, and the (N, 3, H, W) perturbed images.

    With task.nested an image that is wrong without an attack, or that this attack has flipped in a smaller ball, is left
    as it is: that point lies in the larger ball too.
    """
    if name in MINIMAL_NORM:
        chosen = _right(model, x, y) if task.nested else torch.ones(len(x), dtype=torch.bool)
        run = partial(MINIMAL_NORM[name], model, epsilons=[e / 255 for e in task.epsilons], steps=task.steps, seed=task.seed)
        found, cost = _measured(run, x, y, chosen, task.batch_size, passes)
        for epsilon, part in zip(task.epsilons, found or [x[chosen]] * len(task.epsilons), strict=True):
            yield epsilon, cost, x.index_put((chosen,), part)
        return
    x_adv = x.clone()
    for epsilon in task.epsilons:
        chosen = _right(model, x_adv, y) if task.nested else torch.ones(len(x), dtype=torch.bool)
        budget = {"epsilon": epsilon / 255, "steps": task.queries if "Square" in name else task.steps, "seed": task.seed}
        run = partial(ATTACKS[name], model, **budget, step_size=2.5 * budget["epsilon"] / task.steps)
        found, cost = _measured(lambda *pair: [run(*pair)], x, y, chosen, task.batch_size, passes)
        x_adv = x_adv.index_put((chosen,), found[0]) if found else x_adv
        yield epsilon, cost, x_adv


def _measured(
    run: Callable, x: Tensor, y: Tensor, chosen: Tensor, batch_size: int, passes: Passes
) -> tuple[list[Tensor], dict]:
    """What `run` makes of the chosen images, a tensor for each of its results, and what it cost."""
    forwards, gradients, start = passes.forwards, passes.gradients, time.process_time()
    pairs = zip(x[chosen].split(batch_size), y[chosen].split(batch_size), strict=True) if chosen.any() else ()
    parts = [run(*pair) for pair in pairs]
    cost = {"attacked": int(chosen.sum()), "seconds": time.process_time() - start}
    cost |= {"forwards": passes.forwards - forwards, "gradients": passes.gradients - gradients}
    return [torch.cat(tensors) for tensors in zip(*parts, strict=True)], cost


@torch.no_grad()
def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([model(batch) > 0 for batch in x.split(64)]) == (y > 0)


def load_model(weights: bytes, architecture: dict | None) -> nn.Module:
    """The model in evaluation mode: a detector of that architecture, or the SmallDetector where there is none."""
    if architecture:
        from robust.models.detector import Architecture, empty_detector

        model = empty_detector(Architecture(**architecture))
    else:
        model = SmallDetector()
    model.load_state_dict(load(weights))
    # Convolutions on CPUs are up to twice as fast so; the parameters' gradients, which some libraries take, are no part.
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _leave_with_parent() -> None:
    """The parent holds the other end of stdin; when it ends, however, so does this process."""
    os.read(0, 1)  # not sys.stdin.read(), whose lock Python wants back when it ends
    os._exit(1)
