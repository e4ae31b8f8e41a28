"""An attack on some images of a batch."""

from collections.abc import Callable

from torch import Tensor


def attack_chosen(attack: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, chosen: Tensor) -> Tensor:
    """The batch with the chosen images attacked; the others cost nothing.

    Args:
        attack: (M, 3, H, W) images and (M,) labels to images of that shape, M may be 0.
        x: (N, 3, H, W).  y: (N,), on x's device or on the CPU.
        chosen: (N,) bool; on the CPU nobody waits for a GPU to know how many they are.
    """
    places = chosen.nonzero().squeeze(1)
    on_device = places.to(x.device, non_blocking=True)
    told = y[places.to(y.device, non_blocking=True)]
    return x.index_copy(0, on_device, attack(x[on_device], told))
