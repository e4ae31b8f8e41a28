"""The whole-video attack: where it equals the frame-wise one, and where it is stronger; against exact optima."""

import pytest
import torch
from strength import Counting, seeded

from robust.attacks.apgd import apgd
from robust.attacks.threat import L2, Linf
from robust.attacks.whole_video import VideoScore, whole_video

LENGTHS = (5, 3, 5, 1)


@pytest.fixture
def clips():
    """14 frames of four videos, the frames of each apart, with contrasts so that some matter more than others."""
    videos = torch.tensor([video for video, length in enumerate(LENGTHS) for _ in range(length)])
    order = torch.randperm(len(videos), generator=seeded(4))
    videos = videos[order]
    x = 0.3 + 0.4 * torch.rand(len(videos), 3, 6, 6, generator=seeded(1), dtype=torch.float64)
    return x, videos % 2, videos


class Weighted(torch.nn.Module):
    """Linear in each frame, with a slope of its own: a pixel in the corner, that no attack may move far, sets it."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        slope = 0.5 + 2 * x[:, 0, 0, 0].detach()
        return slope * (self.linear(x) - self.linear.bias)


def scores(model, x, videos):
    with torch.no_grad():
        logits = model(x)
    return torch.stack([logits[videos == video].mean() for video in videos.unique()])


def signs(y, videos):
    return torch.stack([1 - 2 * y[videos == video][0] for video in videos.unique()])


def test_for_a_mean_of_logits_it_is_the_frame_wise_optimum(linear, clips):
    x, y, videos = clips
    uphill = (1 - 2 * y).view(-1, 1, 1, 1) * linear.weight.detach().sign()
    joint = whole_video(linear, x, y, Linf(0.1), steps=10, videos=videos)
    frame_wise = apgd(linear, x, y, Linf(0.1), steps=10)
    torch.testing.assert_close(joint, x + 0.1 * uphill, rtol=0, atol=1e-12)
    torch.testing.assert_close(joint, frame_wise, rtol=0, atol=1e-12)


def test_one_length_over_the_video_goes_where_the_slope_is(linear, clips):
    # For slopes g_i the optimum of an L2 ball over all frames is epsilon * |(g_1, ..., g_F)| / F, not the equal share.
    _, y, videos = clips
    x = 0.4 + 0.2 * torch.rand(len(y), 3, 6, 6, generator=seeded(1), dtype=torch.float64)
    slopes = torch.rand(len(y), generator=seeded(2), dtype=torch.float64)
    x[:, 0, 0, 0] = slopes / 2 + 0.25
    weight = linear.weight.detach().clone()
    weight[0, 0, 0] = 0  # the pixel that holds the slope takes no part
    linear.weight.data.copy_(weight)
    model, epsilon = Weighted(linear), 0.2
    x_adv = whole_video(model, x, y, L2(epsilon), steps=150, videos=videos)
    gain = (scores(model, x_adv, videos) - scores(model, x, videos)) * signs(y, videos)
    for index, video in enumerate(videos.unique()):
        rows = videos == video
        lengths = (0.5 + 2 * x[rows, 0, 0, 0]) * weight.norm()
        assert (x_adv - x)[rows].norm() <= epsilon + 1e-6
        assert gain[index].item() == pytest.approx(epsilon * lengths.norm().item() / len(lengths), rel=2e-3)
        if len(lengths) > 1:  # the same length shared out evenly, by frame-wise attacks
            assert gain[index] > epsilon * lengths.sum() / len(lengths) ** 1.5 + 1e-4


def test_a_video_is_attacked_alike_beside_any_others(detector, images):
    detector, x = detector.double(), images[0][:12].double()
    videos = torch.tensor([0, 1, 2] * 4)
    y = videos % 2
    whole = whole_video(detector, x, y, L2(1.0), steps=4, videos=videos, generator=seeded(0))
    for video in range(3):
        rows = videos == video
        alone = whole_video(detector, x[rows], y[rows], L2(1.0), steps=4, videos=videos[rows], generator=seeded(0))
        torch.testing.assert_close(alone, whole[rows], rtol=0, atol=1e-6)


def test_a_video_longer_than_the_batch_goes_through_in_parts_to_the_same_end(detector, images):
    model, x = Counting(detector.double()), images[0][:13].double()
    videos = torch.tensor([0] * 8 + [1, 1, 1] + [2, 2])
    y, widest = videos % 2, []
    detector.register_forward_pre_hook(lambda _, inputs: widest.append(len(inputs[0])))
    whole = whole_video(model, x, y, L2(1.0), steps=4, videos=videos)
    passes, model.images = model.images, 0
    assert max(widest) > 3
    widest.clear()
    parts = whole_video(model, x, y, L2(1.0), steps=4, videos=videos, batch_size=3)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-9)
    assert max(widest) == 3 and model.images == passes


def test_the_score_in_parts_and_its_gradient_are_those_of_the_whole(detector, images):
    detector, clip = detector.double().eval(), images[0][:14].double().view(2, 7, *images[0].shape[1:])
    frames = clip.clone().requires_grad_()
    expected = detector(clip.flatten(0, 1)).view(2, 7).mean(dim=1)
    for batch_size in (None, 4, 1):
        score = VideoScore(detector, batch_size=batch_size)(frames)
        torch.testing.assert_close(score, expected, rtol=0, atol=1e-9)
        (gradient,) = torch.autograd.grad(score[1], frames)
        (whole,) = torch.autograd.grad(detector(frames.flatten(0, 1)).view(2, 7)[1].mean(), frames)
        torch.testing.assert_close(gradient, whole, rtol=0, atol=1e-9)


def test_impossible_settings_are_named(detector, images):
    x, y = images
    for settings, message in (({"steps": 0}, "steps=0"), ({"steps": 1, "batch_size": 0}, "batch_size=0")):
        with pytest.raises(ValueError, match=message):
            whole_video(detector, x, y, Linf(0.1), **settings)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        whole_video(detector, x, y, Linf(0.1), steps=1, videos=torch.zeros(3))
    with pytest.raises(ValueError, match="video 0 have different labels"):
        whole_video(detector, x, y, Linf(0.1), steps=1, videos=torch.zeros(64))
