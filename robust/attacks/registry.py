"""The attacks by the name that the config uses.

A new attack is one file with one function of the signature below, and one line here. What else it takes is
keyword-only with a default, so that every caller can call every attack alike.
"""

from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from robust.attacks.apgd import apgd
from robust.attacks.carlini_wagner import cw
from robust.attacks.eot import eot
from robust.attacks.fgsm import fgsm
from robust.attacks.losses import cross_entropy_loss
from robust.attacks.minimal_norm import fmn
from robust.attacks.pgd import pgd
from robust.attacks.square import square
from robust.attacks.threat import Threat
from robust.attacks.transfer import mi_fgsm, transfer


class Attack(Protocol):
    """attack(model, x, y, threat, *, steps, generator) -> x_adv; the contract is in robust/attacks/__init__.py."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, steps: int, generator: torch.Generator | None
    ) -> Tensor: ...


ATTACKS: dict[str, Attack] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "apgd": apgd,
    "apgd_ce": partial(apgd, loss=cross_entropy_loss),
    "fmn": fmn,
    "cw": cw,
    "square": square,
    "eot": eot,
    "mi_fgsm": mi_fgsm,
    "transfer": transfer,
}
L2_ONLY = {"cw"}
"""Attacks that minimise an L2 length and know no other ball."""
NEEDS_SURROGATES = {"transfer"}
"""Attacks that are made on other models, given as `surrogates`, and scored on this one."""
