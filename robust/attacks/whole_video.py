"""A video attacked as one thing: all its frames against the mean of their logits, which is the video's score.

It adds nothing over attacking each frame where every frame has its own budget and all may be changed: the mean's gradient
for a frame is that frame's own gradient divided by their number, so the worst frames are the worst video. It adds where
frames share a budget: only some frames may be changed, or one L2 length is to be spent over the whole video.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from robust.attacks.apgd import apgd
from robust.attacks.gradients import attack_mode
from robust.attacks.inputs import check_inputs
from robust.attacks.losses import margin_loss
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
    frames: int | None = None,
    until_flip: bool = False,
    batch_size: int | None = None,
) -> Tensor:
    """APGD on the mean logit of each video's frames, of which at most `frames` are changed.

    The frames that may change are those whose own attack, with this threat on each frame, gains most. For a mean of
    logits and Linf, whose budget is each frame's own, no other choice gains more from these perturbations. With L2 the
    radius is the length over all frames of the video together, and the attack shares it out.

    Passes of the model over all frames: 1 + restarts * (steps + 1) forwards, of which restarts * steps have a gradient;
    with `frames`, as many again, the second time over the chosen frames, and two more forwards.

    Args:
        model: maps (N, 3, H, W) pixels in [0, 1] to (N,) logits, fake > 0; attacked in evaluation mode.
        x: (N, 3, H, W) float frames in [0, 1].
        y: (N,) labels, 1 = fake; one for all frames of a video.
        threat: the ball: of each frame for Linf, of a whole video for L2.
        generator: a CPU one, seeds the random starts; every video is attacked from the same seed. None is the seed 0.
        restarts: how many paths, each from another random point of the ball.
        videos: (N,) whole numbers, the same for the frames of a video; None: each frame is a video by itself.
        frames: at most so many frames of a video are changed; None: all.
        until_flip: stop where the video's score has changed sides, not at its worst.
        batch_size: frames at once; a longer video goes through the model in parts, at no more passes of a frame. It
            changes nothing but rounding. None: all.
    Returns:
        (N, 3, H, W) frames in [0, 1], dtype of x, each video inside the ball.
    Raises:
        ValueError: bad frames, labels, logits or settings, or a video whose frames have different labels.
    """
    videos = torch.arange(len(x)) if videos is None else videos.cpu()
    _check_settings(x, y, videos, steps, frames, batch_size)
    if threat.epsilon == 0 or len(x) == 0:
        return x.detach().clone()
    seed = int(torch.randint(2**62, (), generator=generator)) if generator else 0
    settings = {"steps": steps, "restarts": restarts}
    with attack_mode(model), torch.no_grad():
        x_adv = x.detach().clone()
        movable = torch.ones(len(x), dtype=torch.bool, device=x.device)
        if frames is not None:
            movable = choose_frames(
                model, x_adv, y, threat, videos, frames, seed=seed, batch_size=batch_size, **settings
            )
        for rows in _groups(videos, alone=until_flip, batch_size=batch_size or len(x)):
            clip, changed = x_adv[rows], movable[rows]
            joint = VideoScore(model, clip, changed, batch_size=batch_size)
            target = clip[changed].view(len(rows), -1, *x.shape[1:])
            target = apgd(joint, target, y[rows[:, 0]], threat, generator=_seeded(seed), early_stop=until_flip, **settings)
            x_adv[rows[changed]] = target.flatten(0, 1)
    return x_adv


def choose_frames(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, videos: Tensor, frames: int, *, seed: int = 0,
    batch_size: int | None = None, **settings
) -> Tensor:
    """(N,) bool: of each video the `frames` frames whose own attack raises their margin most, earlier ones first in a tie."""
    with attack_mode(model), torch.no_grad():
        gains, size = [], batch_size or len(x)
        for images, labels in zip(x.split(size), y.split(size), strict=True):
            attacked = apgd(model, images, labels, threat, generator=_seeded(seed), **settings)
            gains.append((margin_loss(model(attacked), labels) - margin_loss(model(images), labels)).cpu())
        gain = torch.cat(gains)
    chosen = torch.zeros(len(x), dtype=torch.bool)
    for video in videos.unique():
        rows = (videos == video).nonzero().squeeze(1)
        chosen[rows[gain[rows].argsort(descending=True, stable=True)[:frames]]] = True
    return chosen.to(x.device)


class VideoScore(nn.Module):
    """The score of V videos of F frames when some of the frames are replaced: the mean of all F logits.

    Args:
        clip: (V, F, 3, H, W) clean frames.
        changed: (V, F) bool, equally many in each video; the logits of the others are computed once.
        batch_size: frames that the model is given at once; None: all.
    """

    def __init__(self, model: nn.Module, clip: Tensor, changed: Tensor, *, batch_size: int | None = None) -> None:
        super().__init__()
        self.model, self.count, self.batch_size = model, clip.shape[1], batch_size
        rest = torch.zeros(clip.shape[:2], device=clip.device)
        if not changed.all():
            others = clip[~changed]
            logits = torch.cat([model(part) for part in others.split(batch_size or len(others))])
            rest = rest.to(logits.dtype).masked_scatter(~changed, logits)
        self.rest = rest.sum(dim=1)

    def forward(self, frames: Tensor) -> Tensor:
        """(V,) scores from (V, K, 3, H, W) frames that take the changed ones' place."""
        of_each = max(1, (self.batch_size or frames.shape[:2].numel()) // len(frames))
        parts = [partial(self._sum, start=start, stop=start + of_each) for start in range(0, frames.shape[1], of_each)]
        total = parts[0](frames) if len(parts) == 1 else len(parts) * mean_logit(parts, frames)
        return (self.rest + total) / self.count

    def _sum(self, frames: Tensor, *, start: int, stop: int) -> Tensor:
        """(V,) summed logits of some of the frames."""
        part = frames[:, start:stop]
        return self.model(part.flatten(0, 1)).view(part.shape[:2]).sum(dim=1)


def frames_to_flip(clean: Tensor, attacked: Tensor, videos: Tensor, y: Tensor) -> Tensor:
    """(V,) the fewest frames whose attack alone changes the side of each video's mean logit.

    Args:
        clean, attacked: (N,) logits of all frames before and after a frame-wise attack.
        videos: (N,) whole numbers; the result is in their rising order.  y: (N,) labels, 1 = fake.
    Returns:
        int64; 0: wrong without an attack; -1: not even with all frames.
    """
    counts = []
    for video in videos.unique():
        before, after = (margin_loss(logits, y)[videos == video].double() for logits in (clean, attacked))
        sums = before.sum() + torch.cat([before.new_zeros(1), (after - before).sort(descending=True).values.cumsum(0)])
        flipped = (sums > 0).nonzero().flatten()
        counts.append(int(flipped[0]) if len(flipped) else -1)
    return torch.tensor(counts)


def _groups(videos: Tensor, *, alone: bool, batch_size: int) -> Iterator[Tensor]:
    """(V, F) rows of x: as many videos of one length F as fit; or each alone, as one that is done with must be."""
    lengths: dict[int, list[Tensor]] = {}
    for video in videos.unique():
        rows = (videos == video).nonzero().squeeze(1)
        lengths.setdefault(len(rows), []).append(rows)
    for length, group in lengths.items():
        at_once = 1 if alone else max(1, batch_size // length)
        for start in range(0, len(group), at_once):
            yield torch.stack(group[start:start + at_once])


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _check_settings(
    x: Tensor, y: Tensor, videos: Tensor, steps: int, frames: int | None, batch_size: int | None
) -> None:
    check_inputs(x, y)
    if steps < 1 or (frames is not None and frames < 1) or (batch_size is not None and batch_size < 1):
        raise ValueError(f"whole_video needs at least one step, one frame and a batch of one, not steps={steps}, "
                         f"frames={frames}, batch_size={batch_size}")
    if videos.shape != y.shape:
        raise ValueError(f"videos have shape {tuple(videos.shape)}; one number per frame, shape ({len(x)},), is needed")
    for video in videos.unique():
        if y[(videos == video).to(y.device)].unique().numel() > 1:
            raise ValueError(f"the frames of video {int(video)} have different labels; a video is real or fake")
