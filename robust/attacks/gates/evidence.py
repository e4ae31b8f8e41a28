"""What the gates look at: the model's answers on one sample, and each attack on it, run once and read by several gates."""

import dataclasses
import hashlib
from functools import cached_property

import torch
from torch import Tensor, nn

from robust.attacks.fgsm import fgsm
from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.losses import AttackLoss, cross_entropy_loss, margin_loss
from robust.attacks.noise import ImageNoise
from robust.attacks.pgd import pgd
from robust.attacks.random_search import random_search
from robust.attacks.registry import Attack
from robust.attacks.threat import Linf

STEPS = 10
"""Steps of the attacks that gates compare with each other: on equal terms, and half the cost of the usual 20."""

NOISE_DRAWS = 5
"""Draws of +-epsilon noise; the worst of them counts."""

QUERIES = 3 * STEPS
"""Of the black-box search: as much work as the gradient attack's steps, each a forward and a backward of twice that."""

LARGE_BUDGETS = ((16.0, STEPS, None), (48.0, 4 * STEPS, None), (128.0, 6 * STEPS, 2.0))
"""(epsilon, steps, step size) in 0-255 units of the attacks that together must turn everything; None: PGD's own step.

Each is tried on what the last one left. No single one does for all honest models: in a large ball, a random start and
large sign steps are noise to a detector of fine traces, and small steps may stop on the way.
"""

LONGER = 2
"""The longer attack has so many times the steps, and so many times the restarts, of the evaluation's."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """The attack whose figures are to be believed.

    Args:
        epsilon: radius of the Linf ball in 0-255 units.
        steps, restarts: of the evaluation.
        seed: of every random start.
        attack: the gradient attack.
        black_box: attack(model, x, y, threat, *, steps, generator) that sees logits only; steps are its queries.
    Raises:
        ValueError: epsilon is not positive.
    """

    epsilon: float
    steps: int = 20
    restarts: int = 1
    seed: int = 0
    attack: Attack = pgd
    black_box: Attack = random_search

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"gates need an attack, so an epsilon above 0, not {self.epsilon}")


@dataclasses.dataclass(frozen=True)
class Attacked:
    """Images after an attack, scored anew.

    Args:
        images: (N, 3, H, W) in [0, 1].
        loss: (N,) their margin, see `margin_loss`.
        wrong: (N,) bool, called the wrong class.
    """

    images: Tensor
    loss: Tensor
    wrong: Tensor


class Evidence:
    """Answers and attacks on one sample; each is computed when first asked for, and kept.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0.
        x: (N, 3, H, W) images, y: (N,) labels, 1 = fake.
        budget: what to attack with.
        training_inputs: {"mean", "std"} of the images that the model was trained on, if known.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, budget: Budget, training_inputs: dict | None = None):
        self.model, self.x, self.y, self.budget = model, x, y, budget
        self.training_inputs = training_inputs
        self.training_modules = [name or type(model).__name__ for name, part in model.named_modules() if part.training]
        self.weights = weights_hash(model)

    # ------------------------------------------------------------------------------------------------ the model alone

    @cached_property
    def logits(self) -> Tensor:
        """(N,) of the clean images, before any attack."""
        return self.score(self.x)

    @cached_property
    def clean(self) -> Attacked:
        return self._attacked(self.x, self.logits)

    @cached_property
    def gradients(self) -> tuple[Tensor, Tensor]:
        """(N,) margins and (N, 3, H, W) gradients at the clean images."""
        with attack_mode(self.model):
            return value_and_input_gradient(self.model, self.x, self.y)

    @torch.no_grad()
    def score(self, x: Tensor) -> Tensor:
        """(N,) logits as the evaluation scores them."""
        return self.model(x).float() if len(x) else x.new_empty(0)

    # ------------------------------------------------------------------------------------------------ attacks

    @cached_property
    def one_step(self) -> Attacked:
        return self._attacked(fgsm(self.model, self.x, self.y, self.threat))

    @cached_property
    def _white_and_path(self) -> tuple[Attacked, Tensor]:
        recorder = _Recorder(self.model)
        attacked = self.attack(recorder=recorder)
        whole = [logits for logits in recorder.logits if len(logits) == len(self.y)]  # an attack may show it a part
        return attacked, torch.stack([margin_loss(logits, self.y) for logits in whole])

    @property
    def white(self) -> Attacked:
        """The gradient attack at epsilon, STEPS steps, all images."""
        return self._white_and_path[0]

    @property
    def path(self) -> Tensor:
        """(calls, N) margins of every image that this attack showed to the model, in order."""
        return self._white_and_path[1]

    @cached_property
    def double(self) -> Attacked:
        """The same at twice the radius."""
        return self.attack(epsilon=2 * self.budget.epsilon)

    @cached_property
    def noise(self) -> Attacked:
        """The worst of NOISE_DRAWS draws of +-epsilon at every pixel value."""
        draws = ImageNoise.of(self.x, generator=self.generator())
        signs = [torch.where(draws.uniform(stream) < 0, -1.0, 1.0) for stream in range(NOISE_DRAWS)]
        tried = [self._attacked(self.threat.project(self.x + self.threat.epsilon * sign, self.x)) for sign in signs]
        worst = torch.stack([one.loss for one in tried]).argmax(dim=0)
        each = torch.arange(len(self.x), device=self.x.device)
        fields = ([getattr(one, field.name) for one in tried] for field in dataclasses.fields(Attacked))
        return Attacked(*(torch.stack(field)[worst, each] for field in fields))

    @cached_property
    def left_at_large_epsilon(self) -> Tensor:
        """Indices of the images that no budget of LARGE_BUDGETS turns; all lie in the largest ball."""
        left = (~self.clean.wrong).nonzero().squeeze(1)
        for epsilon, steps, size in LARGE_BUDGETS:
            if len(left):
                attacked = self.attack(left, epsilon=epsilon, steps=steps, attack=pgd, step_size=size and size / 255)
                left = left[~attacked.wrong]
        return left

    @cached_property
    def contested(self) -> Tensor:
        """Indices of the images that the gradient attack left right, the nearest to being turned: a quarter, at least 8.

        If a stronger attack turns any, it turns these; the others cost time only.
        """
        left = (~self.white.wrong).nonzero().squeeze(1)
        nearest = self.white.loss[left].argsort(descending=True)
        return left[nearest[: max(8, len(self.x) // 4)]]

    @cached_property
    def searched(self) -> Attacked:
        """The black-box search on the contested images, QUERIES queries."""
        x, y = self.x[self.contested], self.y[self.contested]
        found = self.budget.black_box(self.model, x, y, self.threat, steps=QUERIES, generator=self.generator())
        return self._attacked(found, y=y)

    @cached_property
    def losses(self) -> dict[str, Attacked]:
        """PGD on the contested images under each loss; plain PGD has been tried under the margin."""
        others = {name: loss for name, loss in LOSSES.items() if (self.budget.attack, loss) != (pgd, margin_loss)}
        return {name: self.attack(self.contested, attack=pgd, loss=loss) for name, loss in others.items()}

    @cached_property
    def evaluated(self) -> Attacked:
        """The attack with the evaluation's own budget, on the contested images."""
        return self.attack(self.contested, steps=self.budget.steps, restarts=self.budget.restarts)

    @cached_property
    def longer(self) -> Attacked:
        """A longer attack, on the contested images that the evaluation's left right."""
        left = self.contested[~self.evaluated.wrong]
        return self.attack(left, steps=LONGER * self.budget.steps, restarts=LONGER * self.budget.restarts, seed=1)

    # ------------------------------------------------------------------------------------------------ how

    @property
    def threat(self) -> Linf:
        return Linf.from_255(self.budget.epsilon)

    def generator(self, more: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(self.budget.seed + more)

    def attack(self, chosen: Tensor | None = None, *, epsilon: float | None = None, steps: int = STEPS, seed: int = 0,
               attack: Attack | None = None, recorder: nn.Module | None = None, **more) -> Attacked:
        """The budget's gradient attack on some of the images (None: all), at another radius or length if asked."""
        x, y = (self.x, self.y) if chosen is None else (self.x[chosen], self.y[chosen])
        threat = Linf.from_255(epsilon or self.budget.epsilon)
        x_adv = (attack or self.budget.attack)(recorder or self.model, x, y, threat, steps=steps, generator=self.generator(seed), **more)
        return self._attacked(x_adv, y=y)

    def attacked(self, images: Tensor) -> Attacked:
        """Images of the whole sample, scored."""
        return self._attacked(images)

    def _attacked(self, images: Tensor, logits: Tensor | None = None, y: Tensor | None = None) -> Attacked:
        y = self.y if y is None else y
        logits = self.score(images) if logits is None else logits
        return Attacked(images, margin_loss(logits, y), (logits > 0) != (y > 0))


LOSSES: dict[str, AttackLoss] = {"margin": margin_loss, "cross-entropy": cross_entropy_loss}


class _Recorder(nn.Module):
    """The model, keeping the logits of every call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.logits = model, []
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        self.logits.append(logits.detach().float())
        return logits


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all parameters and persistent buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
