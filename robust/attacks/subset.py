"""An attack on some images of a batch."""

from collections.abc import Callable

from torch import Tensor


def attack_chosen(attack: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, chosen: Tensor) -> Tensor:
    """The batch with the chosen images attacked; the others cost nothing.

    Args:
        attack: (M, 3, H, W) images and (M,) labels to images of that shape, M may be 0.
        x: (N, 3, H, W).  y: (N,).  chosen: (N,) bool.
    """
    places = chosen.nonzero().squeeze(1)
    return x.index_copy(0, places, attack(x[places], y[places]))
