"""A video attacked as one thing: all its frames against the mean of their logits, which is the video's score.

It adds nothing over attacking each frame where every frame has its own budget: the mean's gradient for a frame is that
frame's own gradient divided by their number, so the worst frames are the worst video. It adds where frames share a
budget: one L2 length is to be spent over the whole video.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from robust.attacks.apgd import apgd
from robust.attacks.gradients import attack_mode
from robust.attacks.inputs import check_inputs
from robust.attacks.mean_logit import mean_logit
from robust.attacks.threat import Threat


def whole_video(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    restarts: int = 1,
    videos: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """APGD on the mean logit of each video's frames.

    With L2 the radius is the length over all frames of the video together, and the attack shares it out.

    Passes of the model over all frames: 1 + restarts * (steps + 1) forwards, of which restarts * steps have a gradient.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float frames in [0, 1].
        y: (N,) labels, 1 = fake; one for all frames of a video.
        threat: the ball: of each frame for Linf, of a whole video for L2.
        generator: a CPU one, seeds the random starts; every video is attacked from the same seed. None is the seed 0.
        restarts: how many paths, each from another random point of the ball.
        videos: (N,) whole numbers, the same for the frames of a video; None: each frame is a video by itself.
        batch_size: frames at once; a longer video goes through the model in parts, at no more passes of a frame. It
            changes nothing but rounding. None: all.
    Returns:
        (N, 3, H, W) frames in [0, 1], dtype of x, each video inside the ball.
    Raises:
        ValueError: bad frames, labels, logits or settings, or a video whose frames have different labels.
    """
    videos = torch.arange(len(x)) if videos is None else videos.cpu()
    _check_settings(x, y, videos, steps, batch_size)
    if threat.epsilon == 0 or len(x) == 0:
        return x.detach().clone()
    seed = int(torch.randint(2**62, (), generator=generator)) if generator else 0
    with attack_mode(model), torch.no_grad():
        x_adv, joint = x.detach().clone(), VideoScore(model, batch_size=batch_size)
        for rows in _groups(videos, batch_size=batch_size or len(x)):
            seeded = torch.Generator().manual_seed(seed)
            x_adv[rows] = apgd(
                joint, x_adv[rows], y[rows[:, 0]], threat, steps=steps, restarts=restarts, generator=seeded
            )
    return x_adv


class VideoScore(nn.Module):
    """The score of a video: the mean of its frames' logits.

    Args:
        batch_size: frames that the model is given at once; None: all.
    """

    def __init__(self, model: nn.Module, *, batch_size: int | None = None) -> None:
        super().__init__()
        self.model, self.batch_size = model, batch_size

    def forward(self, frames: Tensor) -> Tensor:
        """(V,) scores of (V, F, 3, H, W) videos."""
        of_each = max(1, (self.batch_size or frames.shape[:2].numel()) // len(frames))
        parts = [partial(self._sum, start=start, stop=start + of_each) for start in range(0, frames.shape[1], of_each)]
        total = parts[0](frames) if len(parts) == 1 else len(parts) * mean_logit(parts, frames)
        return total / frames.shape[1]

    def _sum(self, frames: Tensor, *, start: int, stop: int) -> Tensor:
        """(V,) summed logits of some of the frames."""
        part = frames[:, start:stop]
        return self.model(part.flatten(0, 1)).view(part.shape[:2]).sum(dim=1)


def _groups(videos: Tensor, *, batch_size: int) -> Iterator[Tensor]:
    """(V, F) rows of x: as many videos of one length F as fit."""
    lengths: dict[int, list[Tensor]] = {}
    for video in videos.unique():
        rows = (videos == video).nonzero().squeeze(1)
        lengths.setdefault(len(rows), []).append(rows)
    for length, group in lengths.items():
        at_once = max(1, batch_size // length)
        for start in range(0, len(group), at_once):
            yield torch.stack(group[start:start + at_once])


def _check_settings(x: Tensor, y: Tensor, videos: Tensor, steps: int, batch_size: int | None) -> None:
    check_inputs(x, y)
    if steps < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(f"whole_video needs at least one step and a batch of one, not steps={steps}, "
                         f"batch_size={batch_size}")
    if videos.shape != y.shape:
        raise ValueError(f"videos have shape {tuple(videos.shape)}; one number per frame, shape ({len(x)},), is needed")
    for video in videos.unique():
        if y[(videos == video).to(y.device)].unique().numel() > 1:
            raise ValueError(f"the frames of video {int(video)} have different labels; a video is real or fake")
