"""What a model must do before it is worth attacking: tried on noise images, so that a wrong setting is told at once."""

from __future__ import annotations

import torch
from torch import Tensor

from robust.attacks.gates.preconditions import SAME_LOGIT, difference
from robust.errors import UserError
from robust.models.foreign.detector import ForeignDetector, require_output

IMAGES = 3


def probe(model: ForeignDetector, where: str) -> None:
    """Right outputs, the same twice, each image for itself, and a gradient.

    Raises:
        UserError: names what is wrong with the model or its settings.
    """
    x = probe_images(model.input_size)
    with torch.no_grad():
        out = _run(lambda: model.network(model.prepare(x)), where)
        require_output(out, len(x), model.spec, model.output, where)
        logits, again = model(x), model(x)
        alone = torch.cat([_run(lambda one=one: model(one[None]), where) for one in x])
    if (apart := difference(logits, again)) > SAME_LOGIT:
        raise UserError(f"{where}: the same image gets logits that differ by {apart:.2g}; it is random (saved in training mode? call eval() and save it again)")
    if alone.shape != logits.shape or (apart := difference(logits, alone)) > SAME_LOGIT:
        raise UserError(
            f"{where}: an image gets another logit (by {apart:.2g}) beside other images; it was saved in training mode, or for one "
            "number of images: call eval() first, and export it with a free batch axis"
        )
    _require_gradient(model, x, where)


def probe_images(size: int) -> Tensor:
    """(3, 3, size, size) noise around mid-grey, the same every time."""
    return 0.2 + 0.6 * torch.rand(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0))


def _run(call, where: str) -> Tensor:
    try:
        return call()
    except UserError:
        raise
    except Exception as error:  # of any operator of the network, in its own words
        raise UserError(f"{where}: can not be run on {IMAGES} images or on one ({_first_line(error)}); see input_size and layout, "
                        "and export it with a free batch axis") from None


def _require_gradient(model: ForeignDetector, x: Tensor, where: str) -> None:
    x = x.clone().requires_grad_()
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(model(x).sum(), x)
    except Exception as error:
        raise UserError(f"{where}: no gradient leads from its output to the image ({_first_line(error)}); a white-box attack needs one: "
                        "export it unquantised and without detach or no_grad") from None
    if not gradient.isfinite().all():
        raise UserError(f"{where}: its gradient is not finite for plain noise images; see mean, std and value_range")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines[-1] if lines else 'no message')[:200]}"
