"""Gates on the attack: whether it behaves as one must that works, seen from losses, other attacks and other budgets."""

import torch

from robust.attacks.gates.budget import LARGE_BUDGETS, NOISE_DRAWS, QUERIES, STEPS
from robust.attacks.gates.compare import allowed, gains_less, lost, sampling_noise
from robust.attacks.gates.evidence import Attacked, Evidence
from robust.attacks.gates.gate import Gate
from robust.attacks.gates.preconditions import BROKEN_LOGITS

FALLS_BACK = 0.25
"""Share of its best gain that the attack's path may lose at its end; the overshoot of sign steps stays below it."""


def larger_epsilon(evidence: Evidence) -> Gate:
    """Twice the radius breaks no less: the smaller ball lies inside the larger one."""
    return _not_weaker(
        "larger_epsilon", evidence, evidence.double, evidence.white, "at twice epsilon", "at epsilon",
        "the gradient misleads further out: use more steps and restarts, and look for a defence that reacts to noise",
    )


def more_steps(evidence: Evidence) -> Gate:
    """Along the attack's path the loss rises: its end is no worse than its middle."""
    path = evidence.path[1:]  # the first call is the clean image
    if broken := int((~path.isfinite()).any(dim=0).sum()):
        measured = f"on the paths of {broken} of {path.shape[1]} images the logit is not a finite number somewhere"
        return Gate("more_steps", False, measured, BROKEN_LOGITS)
    start, end = path[0], path[-1]
    means = [path[index].mean().item() for index in (0, len(path) // 2, len(path) - 1)]
    best = path[int(path.clamp_max(0).mean(dim=1).argmax())]
    fell, gain = ((best.clamp_max(0) - other.clamp_max(0)).double().mean() for other in (end, start))
    passed = not (gains_less(end, best, start) and fell > FALLS_BACK * gain)
    return Gate(
        "more_steps", passed,
        "mean margin %.3g at the start of the path, %.3g in its middle, %.3g at its end" % tuple(means),
        "the gradient does not point uphill: check its sign, its scale and what the model does before its first layer",
    )


def large_epsilon(evidence: Evidence) -> Gate:
    """A radius at which a face may become any other one leaves nothing right."""
    left, right = len(evidence.left_at_large_epsilon), int((~evidence.clean.wrong).sum())
    budgets = ", then ".join(f"{steps} steps at epsilon {epsilon:g}" for epsilon, steps, _ in LARGE_BUDGETS)
    permitted = allowed(len(evidence.x))
    return Gate(
        "large_epsilon", left <= permitted,
        f"{left} of {right} images stay right under {budgets} ({permitted} allowed)",
        "no real robustness survives this: the gradient is masked, or the model does not look at its input",
    )


def iterative_beats_one_step(evidence: Evidence) -> Gate:
    """Many small steps break no less than one large one."""
    return _not_weaker(
        "iterative_beats_one_step", evidence, evidence.white, evidence.one_step,
        f"with {STEPS} steps", "with one (FGSM)",
        "the steps undo each other: check the step size, the projection and that the gradient is taken anew each step",
    )


def white_box_beats_black_box(evidence: Evidence) -> Gate:
    """A search that sees logits only turns nothing that the gradient attack could not."""
    found, permitted = int(evidence.searched.wrong.sum()), allowed(len(evidence.x))
    return Gate(
        "white_box_beats_black_box", found <= permitted,
        f"{QUERIES} queries turn {found} of the {len(evidence.contested)} images nearest to it that the gradient "
        f"attack left ({permitted} allowed)",
        "the gradient is masked: attack through a smooth stand-in (BPDA), or report the black-box figure",
    )


def white_box_beats_transfer(evidence: Evidence) -> Gate:
    """Images made on other models, which never ask this one, turn nothing that the gradient attack could not."""
    remedy = "the gradient is masked: attack through a smooth stand-in (BPDA), or report the figure of the transfer attack"
    try:
        found, permitted = int(evidence.transferred.wrong.sum()), allowed(len(evidence.x))
    except (ValueError, RuntimeError) as error:  # autograd's own is a RuntimeError
        return Gate("white_box_beats_transfer", True, f"nothing can be made on the other models, so nothing to compare with: {error}", remedy)
    others = f"{len(evidence.surrogates)} other model{'s' * (len(evidence.surrogates) > 1)}"
    return Gate(
        "white_box_beats_transfer", found <= permitted,
        f"{STEPS} steps on {others} turn {found} of the {len(evidence.contested)} images nearest to it that the gradient "
        f"attack left ({permitted} allowed)", remedy,
    )


def beats_random_noise(evidence: Evidence) -> Gate:
    """Noise of the same size breaks no more."""
    return _not_weaker(
        "beats_random_noise", evidence, evidence.white, evidence.noise, "by the attack",
        f"by the worst of {NOISE_DRAWS} draws of +-epsilon noise",
        "the attack is worse than chance: its gradient is of another function than the one that is scored",
    )


def converged(evidence: Evidence) -> Gate:
    """More steps and restarts than the evaluation's turn hardly more."""
    budget, permitted = evidence.budget, sampling_noise(len(evidence.x))
    (steps, restarts), found = evidence.longer_budget, int(evidence.longer.wrong.sum())
    return Gate(
        "converged", found <= permitted,
        f"{restarts} restarts of {steps} steps turn {found} of the {len(evidence.longer.wrong)} images nearest to it "
        f"that {budget.restarts} of {budget.steps} left ({permitted} allowed)",
        "raise steps and restarts in evaluate.suites until this no longer changes",
    )


def margin_not_weaker(evidence: Evidence) -> Gate:
    """Neither the margin nor cross-entropy as the loss turns what the attack in use could not."""
    found = {name: int(attacked.wrong.sum()) for name, attacked in evidence.losses.items()}
    permitted = allowed(len(evidence.x))
    text = ", ".join(f"{name} {count}" for name, count in found.items())
    return Gate(
        "margin_not_weaker", max(found.values()) <= permitted,
        f"PGD turns of the {len(evidence.contested)} images nearest to it that the attack left: {text} "
        f"({permitted} allowed)",
        "attack the signed logit (margin): cross-entropy has no gradient where logits are large",
    )


def survives_rounding(evidence: Evidence) -> Gate:
    """Success is kept by 8-bit images: rounded to the nearest, or away from the clean image, as the attacker likes."""
    white, permitted = evidence.white, sampling_noise(len(evidence.x))  # images just turned may well be lost
    nearest = evidence.attacked((white.images * 255).round() / 255)
    away = evidence.attacked(round_away(white.images, evidence.x, evidence.budget.epsilon))
    gone = int((white.wrong & ~nearest.wrong & ~away.wrong).sum())
    return Gate(
        "survives_rounding", gone <= permitted,
        f"{gone} of {int(white.wrong.sum())} turned images are right again as 8-bit files ({permitted} allowed)",
        "the success lies between two steps of an 8-bit channel: no file can carry it; quantise inside the attack",
    )


def round_away(x_adv: torch.Tensor, x: torch.Tensor, epsilon: float) -> torch.Tensor:
    """8-bit images in the direction of x_adv: each value's change rounded up to whole steps, ceil(epsilon) at most.

    Args:
        x_adv, x: (N, 3, H, W) in [0, 1].
        epsilon: in 0-255 units; below 1 the ball holds no other 8-bit image, so 1 counts.
    """
    change = (x_adv - x) * 255
    whole = change.abs().sub(1e-3).ceil().clamp(0, torch.tensor(epsilon).ceil().item())  # 1e-3: of float rounding
    return ((x * 255).round() + change.sign() * whole).clamp(0, 255) / 255


def _not_weaker(
    name: str, evidence: Evidence, attack: Attacked, reference: Attacked, of: str, than: str, remedy: str
) -> Gate:
    """Fails if the attack loses images that the reference turns, or gains surely less margin."""
    gone, permitted = lost(attack, reference), allowed(len(evidence.x))
    less = gains_less(attack.loss, reference.loss, evidence.clean.loss)
    measured = (
        f"{int(attack.wrong.sum())} turned {of}, {int(reference.wrong.sum())} {than}, {gone} only so "
        f"({permitted} allowed); mean margin {attack.loss.mean().item():.3g} and {reference.loss.mean().item():.3g}"
    )
    return Gate(name, gone <= permitted and not less, measured, remedy)
