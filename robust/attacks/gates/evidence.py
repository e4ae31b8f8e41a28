"""What the gates look at: the model's answers on a sample and each attack on it, run once and read by several gates."""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from robust.attacks.fgsm import fgsm
from robust.attacks.gates.budget import LARGE_BUDGETS, LEAST_LONG_STEPS, LONGER, NOISE_DRAWS, QUERIES, STEPS, Budget
from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.attacks.losses import AttackLoss, cross_entropy_loss, margin_loss
from robust.attacks.noise import ImageNoise
from robust.attacks.pgd import pgd
from robust.attacks.registry import Attack
from robust.attacks.threat import Linf
from robust.attacks.transfer import transfer


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
        surrogates: other models, with (N,) logits for images of this size, if there are any.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, budget: Budget, training_inputs: dict | None = None,
                 surrogates: Sequence[nn.Module] = ()):
        self.model, self.x, self.y, self.budget = model, x, y, budget
        self.training_inputs, self.surrogates = training_inputs, tuple(surrogates)
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
        """Indices of the images that the gradient attack left right and that are nearest to being turned."""
        return self._nearest(torch.arange(len(self.x), device=self.x.device), self.white)

    @cached_property
    def searched(self) -> Attacked:
        """The black-box search on the contested images, QUERIES queries."""
        x, y = self.x[self.contested], self.y[self.contested]
        found = self.budget.black_box(self.model, x, y, self.threat, steps=QUERIES, generator=self.generator())
        return self._attacked(found, y=y)

    @cached_property
    def transferred(self) -> Attacked:
        """The contested images as STEPS steps on the surrogates make them, which never ask this model."""
        x, y = self.x[self.contested], self.y[self.contested]
        made = transfer(self.model, x, y, self.threat, steps=STEPS, generator=self.generator(), surrogates=self.surrogates)
        return self._attacked(made, y=y)

    @cached_property
    def losses(self) -> dict[str, Attacked]:
        """PGD on the contested images under each loss; plain PGD has been tried under the margin."""
        others = {name: loss for name, loss in LOSSES.items() if (self.budget.attack, loss) != (pgd, margin_loss)}
        return {name: self.attack(self.contested, attack=pgd, loss=loss) for name, loss in others.items()}

    @cached_property
    def left_by_evaluation(self) -> Tensor:
        """Indices of the images that the evaluation's own budget leaves right, those nearest to being turned."""
        budget = self.budget
        weaker = budget.steps * budget.restarts < STEPS  # than the attack that chose the contested images
        tried = torch.arange(len(self.x), device=self.x.device) if weaker else self.contested
        return self._nearest(tried, self.attack_again(tried, steps=budget.steps, restarts=budget.restarts))

    @property
    def longer_budget(self) -> tuple[int, int]:
        """(steps, restarts) of the longer attack."""
        return max(LONGER * self.budget.steps, LEAST_LONG_STEPS), LONGER * self.budget.restarts

    @cached_property
    def longer(self) -> Attacked:
        """The longer attack on these, from other random starts."""
        steps, restarts = self.longer_budget
        return self.attack_again(self.left_by_evaluation, steps=steps, restarts=restarts, seed=self.budget.restarts)

    def _nearest(self, tried: Tensor, attacked: Attacked) -> Tensor:
        """Of these indices, those still right with the largest loss: a quarter of the sample, at least 8.

        If a stronger attack turns any image, it turns these; the others cost time only.
        """
        left = tried[~attacked.wrong]
        nearest = attacked.loss[~attacked.wrong].argsort(descending=True)
        return left[nearest[: max(8, len(self.x) // 4)]]

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
        attack, model = attack or self.budget.attack, recorder or self.model
        x_adv = attack(model, x, y, threat, steps=steps, generator=self.generator(seed), **more)
        return self._attacked(x_adv, y=y)

    def attack_again(self, chosen: Tensor, *, steps: int, restarts: int, seed: int = 0) -> Attacked:
        """So many restarts from other random starts, each on the images that the ones before left right."""
        images, left = self.x[chosen].clone(), torch.arange(len(chosen), device=self.x.device)
        for restart in range(restarts):
            if len(left):
                images[left] = (tried := self.attack(chosen[left], steps=steps, seed=seed + restart)).images
                left = left[~tried.wrong]
        return self._attacked(images, y=self.y[chosen])

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
