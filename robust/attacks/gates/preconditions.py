"""Gates on the inputs and on the model alone. If one fails, no attack is run: its figures would mean nothing."""

import torch

from robust.attacks.checks import require_plausible_inputs
from robust.attacks.gates.evidence import Evidence, weights_hash
from robust.attacks.gates.gate import Gate
from robust.errors import UserError

MEAN_TOLERANCE = 0.15
"""Of the pixels' mean: other people and other light move it by less; a normalisation too many moves it by 0.4."""

STD_FACTOR = 2.0
"""Of the spread within an image: face crops have 0.15-0.3 in any data set; a division by 255 is a factor of 255."""

SAME_LOGIT = 1e-3
"""Relative difference of a logit that the order of sums explains; the evaluation's own blocks are held to the same."""

ZERO_GRADIENTS = 0.05
"""Share of images that may have no gradient: one of 32. The margin is nowhere flat: honest models have none."""

BROKEN_LOGITS = "no attack can climb what is not a number: make the model finite for every image in [0, 1], and see its weights and its precision"


def input_statistics(evidence: Evidence) -> Gate:
    """The images look like pictures, and like those of training where the checkpoint's card tells of them."""
    remedy = "look for a normalisation that is applied twice, and compare the face crops with those of training"
    mean, std = pixel_statistics(evidence.x)
    measured = f"mean {mean:.3f}, standard deviation within an image {std:.3f}"
    try:
        require_plausible_inputs(evidence.x, where="the sample")
    except UserError as error:
        return Gate("input_statistics", False, str(error), remedy)
    if not evidence.training_inputs:
        return Gate("input_statistics", True, f"{measured}; the card has none of training to compare with", remedy)
    then_mean, then_std = evidence.training_inputs["mean"], evidence.training_inputs["std"]
    near = abs(mean - then_mean) <= MEAN_TOLERANCE and 1 / STD_FACTOR <= std / max(then_std, 1e-9) <= STD_FACTOR
    return Gate("input_statistics", near, f"{measured}; in training {then_mean:.3f} and {then_std:.3f}", remedy)


def pixel_statistics(x: torch.Tensor) -> tuple[float, float]:
    """Mean of all values and median of the images' standard deviations; x: (N, 3, H, W) in [0, 1]."""
    return x.double().mean().item(), x.double().flatten(1).std(dim=1, correction=0).median().item()


def evaluation_mode(evidence: Evidence) -> Gate:
    """The model came in evaluation mode, all of it: batch statistics and dropout would make it another."""
    training = evidence.training_modules
    measured = f"{len(training)} modules in training mode" + (f", the first is {training[0]}" if training else "")
    return Gate("evaluation_mode", not training, measured, "call eval() on the model before it is attacked and scored")


def deterministic(evidence: Evidence) -> Gate:
    """The same image twice gives the same logit."""
    apart = difference(evidence.logits, evidence.score(evidence.x))
    return Gate(
        "deterministic", apart <= SAME_LOGIT, f"logits of the same images differ by {apart:.2g} at most",
        "attack the expectation over the model's randomness (EOT: average gradients of many passes), or remove it",
    )


def input_gradients(evidence: Evidence) -> Gate:
    """Gradients lead from the logit to the image, and are those of the model that is scored."""
    remedy = "a rounding, a detach or a saturated output hides the gradient: attack through a smooth stand-in (BPDA)"
    try:
        value, gradient = evidence.gradients
    except (ValueError, RuntimeError) as error:  # autograd's own is a RuntimeError
        return Gate("input_gradients", False, f"no gradient: {error}", remedy)
    values = gradient.flatten(1)
    none = (values == 0).all(dim=1) | ~values.isfinite().all(dim=1)
    share, pixels = none.double().mean().item(), (values == 0).double().mean().item()
    measured = f"{100 * share:.0f} % of the images have none or a broken one, {100 * pixels:.0f} % of the values are 0"
    apart = difference(value, evidence.clean.loss)
    if apart > SAME_LOGIT:
        measured = f"while gradients are recorded, logits differ by {apart:.2g} from those scored"
        return Gate("input_gradients", False, measured, remedy)
    if broken := int((~evidence.noise.loss.isfinite()).sum()):  # attacks pass over such points, and stay where they began
        measured = f"beside {broken} of {len(values)} images, at +-epsilon noise, the logit is not a finite number"
        return Gate("input_gradients", False, measured, BROKEN_LOGITS)
    return Gate("input_gradients", share <= ZERO_GRADIENTS, measured, remedy)


def same_model(evidence: Evidence) -> Gate:
    """After all attacks the model has the weights, the mode and the logits that it had before."""
    changed = weights_hash(evidence.model) != evidence.weights
    apart = difference(evidence.logits, evidence.score(evidence.x))
    measured = f"weights {'changed' if changed else 'unchanged'}, clean logits moved by {apart:.2g} during the attacks"
    return Gate(
        "same_model", not changed and apart <= SAME_LOGIT, measured,
        "something in the model changes when it is called: averaged weights swapped, statistics updated, a counter",
    )


def difference(before: torch.Tensor, after: torch.Tensor) -> float:
    """Largest difference of (N,) logits, relative where they are above 1; infinite if any is not a number."""
    apart = ((before - after).abs() / before.abs().clamp_min(1)).double()
    return apart.nan_to_num(torch.inf, torch.inf).max().item()
