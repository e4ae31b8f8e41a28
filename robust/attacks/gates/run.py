"""The gates in their order, and one call that runs them all."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from robust.attacks.gates import preconditions, strength
from robust.attacks.gates.budget import Budget
from robust.attacks.gates.evidence import Evidence
from robust.attacks.gates.gate import Gate
from robust.attacks.gates.planted import finds_planted

GateFunction = Callable[[Evidence], Gate]

PRECONDITIONS: tuple[GateFunction, ...] = (
    preconditions.input_statistics,
    preconditions.evaluation_mode,
    preconditions.deterministic,
    preconditions.input_gradients,
)
GATES: tuple[GateFunction, ...] = (
    strength.iterative_beats_one_step,
    strength.more_steps,
    strength.larger_epsilon,
    strength.large_epsilon,
    strength.beats_random_noise,
    strength.white_box_beats_black_box,
    strength.white_box_beats_transfer,
    strength.margin_not_weaker,
    strength.converged,
    strength.survives_rounding,
    finds_planted,
    preconditions.same_model,  # last: it looks at what the others did to the model
)
NEED_SURROGATES: tuple[GateFunction, ...] = (strength.white_box_beats_transfer,)
"""Left out where there is no other model."""


def run_gates(
    model: nn.Module, x: Tensor, y: Tensor, budget: Budget, *, training_inputs: dict | None = None,
    surrogates: Sequence[nn.Module] = (),
) -> tuple[Gate, ...]:
    """All gates on one model; after a failed precondition, no attack.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0.
        x: (N, 3, H, W) float images in [0, 1], y: (N,) labels, 1 = fake; a few dozen, half of them fake.
        training_inputs: {"mean", "std"} of the training images (`preconditions.pixel_statistics`), if known.
        surrogates: other models, with (N,) logits for images of this size, that transfer is made on.
    Raises:
        ValueError: no images, or labels that are not one an image.
    """
    if len(x) == 0 or y.shape != (len(x),):
        raise ValueError(f"gates need images and a label for each, not {tuple(x.shape)} and {tuple(y.shape)}")
    evidence = Evidence(model, x, y, budget, training_inputs, surrogates)
    outcomes = tuple(gate(evidence) for gate in PRECONDITIONS)
    if all(outcome.passed for outcome in outcomes):
        outcomes += tuple(gate(evidence) for gate in GATES if surrogates or gate not in NEED_SURROGATES)
    return outcomes
