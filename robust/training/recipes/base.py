"""What differs between training recipes; all the rest is the one loop.

A recipe attacks images (`attack`) and says what is minimised on the logits (`loss`). A recipe that is another one
with fixed or changing settings says which (`stage`).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust.attacks.subset import attack_chosen
from robust.attacks.threat import THREATS, Threat
from robust.config import PIXEL, AttackConfig, RecipeConfig

Attack = Callable[..., Tensor]
"""(network, x, y, settings, *, epsilon, generator) -> examples of images that are all to be attacked; see `Recipe.perturb`."""
Loss = Callable[[Tensor | None, Tensor | None, Tensor, RecipeConfig], dict[str, Tensor]]
"""(clean logits, adversarial logits, targets, settings) -> scalars: total, to minimise, and terms to log.

The adversarial logits are None where nothing was attacked, the clean ones where the recipe does not ask for them.
"""


def mixture(clean: Tensor | None, adversarial: Tensor | None, targets: Tensor, settings: RecipeConfig) -> dict[str, Tensor]:
    """(1 - share) * BCE(clean) + share * BCE(adversarial)."""
    share = settings.adversarial_share if adversarial is not None else 0.0
    zero = targets.new_zeros(())
    on_clean = zero if share == 1 else F.binary_cross_entropy_with_logits(clean, targets)
    on_adversarial = zero if share == 0 else F.binary_cross_entropy_with_logits(adversarial, targets)
    return {"total": (1 - share) * on_clean + share * on_adversarial, "clean": on_clean, "adversarial": on_adversarial}


@dataclass(frozen=True)
class Recipe:
    """
    Args:
        attack: makes the examples; None: there is none.
        loss: of the logits.
        looks_at: the points whose logits the loss needs, "clean" and "adversarial", from the settings.
        replay: moves the perturbation by the input gradient of the training loss itself, for recipes without an attack of
            their own: (perturbation, gradient, y, *, epsilon) -> perturbation. The loop then makes `settings.replays`
            updates on a batch.
        carried: with `replay`: the last batch's perturbation as the next one begins with it: (perturbation, y, settings).
        single_step: the attack makes one step, so that the network may learn to fool it: the loop probes for that.
        stage: the settings of an epoch, from (settings, epoch); they may name another recipe.
    """

    attack: Attack | None = None
    loss: Loss = mixture
    looks_at: Callable[[RecipeConfig], tuple[str, ...]] = lambda settings: both_or_one(settings.adversarial_share)
    replay: Callable[..., Tensor] | None = None
    carried: Callable[[Tensor, Tensor, RecipeConfig], Tensor] = lambda perturbation, y, settings: perturbation
    single_step: bool = False
    stage: Callable[[RecipeConfig, int], RecipeConfig] = lambda settings, epoch: settings

    def perturb(
        self, network: nn.Module, x: Tensor, y: Tensor, settings: RecipeConfig, *, epsilon: float, generator: torch.Generator
    ) -> Tensor:
        """The batch's examples; `x` itself where nothing is attacked.

        Args:
            network: the bare detector (not its DDP wrapper: an attack needs no reduction of gradients).
            x: (N, 3, H, W) in [0, 1].
            y: (N,) labels, on the CPU.
            epsilon: today's radius in 0-255 units (during a warm-up below attack.epsilon).
        """
        if self.attack is None or epsilon == 0:
            return x

        def attacked(x: Tensor, y: Tensor) -> Tensor:
            return self.attack(network, x, y, settings, epsilon=epsilon, generator=generator)

        return of_chosen(attacked, x, y, settings.attack)


def both_or_one(share: float) -> tuple[str, ...]:
    """The points that a mixture needs."""
    return ("clean",) if share == 0 else ("adversarial",) if share == 1 else ("clean", "adversarial")


def of_chosen(attack: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, settings: AttackConfig) -> Tensor:
    """The batch, attacked as `attack.targets` says.

    Fakes only: somebody who has a forgery wants it called real; hardly anybody wants his real video called fake. The detector
    then needs a margin of epsilon instead of two (a fake may move towards real, a real one stays), and the attack costs half.

    Args:
        attack: (M, 3, H, W) images and their (M,) labels, to images.
    """
    return attack_chosen(attack, x, y, y == 1) if settings.targets == "fake" else attack(x, y)


def ball(settings: AttackConfig, epsilon: float) -> Threat:
    """The ball of radius epsilon, which is in 0-255 units."""
    return THREATS[settings.norm](epsilon * PIXEL)


def step_size_of(settings: AttackConfig, epsilon: float) -> float | None:
    """attack.step_size in [0, 1] units, smaller in proportion while epsilon is; None where it is not set."""
    return None if settings.step_size is None else settings.step_size * PIXEL * epsilon / settings.epsilon


def bernoulli_kl(of: Tensor, to: Tensor) -> Tensor:
    """(N,) Kullback-Leibler divergences of Bernoulli(sigmoid(of)) from Bernoulli(sigmoid(to)), in nats; finite for any logits."""
    narrow, of, to = torch.promote_types(of.dtype, torch.float32), of.double(), to.double()  # near each other the terms cancel
    p = torch.sigmoid(of)
    return (p * (F.logsigmoid(of) - F.logsigmoid(to)) + (1 - p) * (F.logsigmoid(-of) - F.logsigmoid(-to))).to(narrow)
