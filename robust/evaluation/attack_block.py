"""One block of work of the evaluation: some crops, one model, one attack at one epsilon. Plain torch."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robust.attacks.checks import require_eval_mode, require_plausible_inputs
from robust.attacks.registry import ATTACKS, L2_ONLY, NEEDS_SURROGATES
from robust.attacks.threat import Linf
from robust.data.inputs import to_tensor
from robust.errors import ConfigError
from robust.evaluation.item import Item


@dataclasses.dataclass(frozen=True)
class Cell(Item):
    """An attack with its budget at one epsilon (0-255 units, Linf).

    Args:
        samples: random views of an image in one step, of eot.
        surrogates: hashes of the models that transfer is made on; see jobs/surrogates.py.
    """

    attack: str
    epsilon: float
    steps: int
    restarts: int = 1
    samples: int = 1
    surrogates: tuple[str, ...] = ()

    @property
    def epsilons(self) -> tuple[float, ...]:
        """Those that its result tells of."""
        return (self.epsilon,)

    @property
    def label(self) -> str:
        """As people write it: "PGD-20", "FGSM", "PGD-20 x 3" with three restarts, "EOT-25 (8 views)"."""
        steps = f"-{self.steps}" if self.steps > 1 else ""
        restarts = f" x {self.restarts}" if self.restarts > 1 else ""
        views = f" ({self.samples} views)" if self.samples > 1 else ""
        return f"{self.attack.upper()}{steps}{restarts}{views}"


def cells(evaluate) -> list[Cell]:
    """The grid of attacks and epsilons of `config.evaluate`, in order.

    Raises:
        ConfigError: an attack that is not in the registry, or a budget that it can not have.
    """
    unknown = sorted(set(evaluate.attacks) - set(ATTACKS))
    if unknown:
        raise ConfigError(f"evaluate.suites.{evaluate.suite}: {', '.join(unknown)} unknown; there are {', '.join(sorted(ATTACKS))}")
    for name, budget in evaluate.attacks.items():
        _check_budget(f"evaluate.suites.{evaluate.suite}.{name}", name, budget)
    if evaluate.headline[0] in NEEDS_SURROGATES or set(evaluate.attacks) <= NEEDS_SURROGATES:
        raise ConfigError(f"evaluate.headline: {', '.join(sorted(NEEDS_SURROGATES))} sees other models only; the headline, its gates and "
                          "pictures need an attack that sees the model itself")
    return [
        Cell(name, float(epsilon), budget.steps, budget.restarts, evaluate.eot_samples if _takes(name, "samples") else 1)
        for name, budget in (evaluate.attacks.items() if evaluate.sequential else sorted(evaluate.attacks.items()))
        for epsilon in sorted(set(evaluate.epsilons))
    ]


def _check_budget(key: str, name: str, budget) -> None:
    """Raises ConfigError for what an attack can not do, before any work is done."""
    if name == "fgsm" and (budget.steps, budget.restarts) != (1, 1):
        raise ConfigError(f"{key}: is one step from the image itself, not {budget.steps} steps and {budget.restarts} restarts; use pgd")
    if name in L2_ONLY:
        raise ConfigError(f"{key}: minimises an L2 length, and the evaluation's ball is Linf; use fmn for minimal Linf perturbations")
    if budget.restarts > 1 and not _takes(name, "restarts"):
        raise ConfigError(f"{key}.restarts is {budget.restarts}, but {name} is one search; raise its steps")


def _takes(name: str, setting: str) -> bool:
    return setting in inspect.signature(ATTACKS[name]).parameters


def block_hash(**facts) -> str:
    """A name for a block's result: a hash of everything that it depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def attack_block(
    model: nn.Module, pixels: np.ndarray, labels: np.ndarray, cell: Cell, *, batch_size: int, seed: int, device: str = "cpu",
    surrogates: Sequence[nn.Module] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the crops before and after the attack.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits; in eval mode, on `device`.
        pixels: (n, H, W, 3) uint8 at the model's input size.
        labels: (n,) 1 = fake; fakes are attacked towards real and reals towards fake.
        seed: of the random starts, which depend on it and on the image, not on the batch.
        surrogates: the models that transfer is made on, for images of this size.
    Returns:
        (n,) float32 clean and (n,) float32 adversarial logits.
    Raises:
        UserError: the model is not in eval mode, or the crops do not look like images.
    """
    clean, adversarial = [], []
    for _, x, y in batches(model, pixels, labels, batch_size=batch_size, device=device):
        x_adv = perturb(model, x, y, cell, seed=seed, surrogates=surrogates)
        clean.append(logits(model, x))
        adversarial.append(logits(model, x_adv))
    return np.concatenate(clean), np.concatenate(adversarial)


def batches(
    model: nn.Module, pixels: np.ndarray, labels: np.ndarray, *, batch_size: int, device: str = "cpu",
    of: str = "the block",
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Crops as every measurement gives them to a model, batch by batch: which of them, their images and their labels.

    Args:
        model: as of `attack_block`.
        pixels, labels: (n, H, W, 3) uint8 and (n,).
        of: what the crops are, for messages.
    Yields:
        the slice of the crops, (N, 3, H, W) images in [0, 1] and (N,) labels, both on `device`.
    Raises:
        UserError: the model is not in eval mode, or the crops do not look like images.
    """
    require_eval_mode(model)
    for start in range(0, len(pixels), batch_size):
        chosen = slice(start, start + batch_size)
        x = to_tensor(pixels[chosen]).to(device, memory_format=torch.channels_last)  # twice as fast on CPUs
        require_plausible_inputs(x, where=f"crops {start} to {start + len(x)} of {of}")
        yield chosen, x, torch.tensor(labels[chosen], device=device)


def perturb(
    model: nn.Module, x: Tensor, y: Tensor, cell: Cell, *, seed: int, surrogates: Sequence[nn.Module] = ()
) -> Tensor:
    """The adversarial images of one batch; (N, 3, H, W) in [0, 1]."""
    more = {"restarts": cell.restarts} if cell.restarts > 1 else {}
    if _takes(cell.attack, "samples"):
        more["samples"] = cell.samples
    if cell.attack in NEEDS_SURROGATES:
        more["surrogates"] = surrogates
    generator = torch.Generator().manual_seed(seed)
    return ATTACKS[cell.attack](
        model, x, y, Linf.from_255(cell.epsilon), steps=cell.steps, generator=generator, **more
    )


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> np.ndarray:
    """(N,) float32 logits on the CPU."""
    return model(x).float().cpu().numpy()
