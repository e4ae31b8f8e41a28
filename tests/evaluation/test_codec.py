"""Pasting, sharing and finding again, with a real face, a real detector and a real encoder."""

import numpy as np
import pytest
import torch
from torch import nn

from robust.config import ExtractConfig, StorageConfig
from robust.data.crop import crop_face
from robust.data.extraction import extract_video
from robust.data.faces import Face, build_detector
from robust.data.inputs import resize_one, to_input
from robust.data.rows import VideoRow
from robust.data.shards import decode_image
from robust.data.video import read_frames
from robust.evaluation.attack_block import Cell
from robust.evaluation.codec import LOSSLESS, Channel, Footage, Sharing, paste, score_again, share_video
from tests import clips

EXTRACT = ExtractConfig(frames_test=3)
SIZE = 64


class Pattern(nn.Module):
    """A linear logit: `bias` + the crop's inner product with waves of so many pixels a period, scaled so that epsilon 8 moves it by 2."""

    input_size = SIZE

    def __init__(self, period, bias):
        super().__init__()
        wave = torch.sin(2 * torch.pi * (torch.arange(SIZE) + 0.5) / period)
        pattern = (wave[:, None] * wave[None, :]).sign().expand(1, 3, SIZE, SIZE)
        self.register_buffer("weight", 2 * pattern / (8 / 255 * pattern.numel()))
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        self.eval()

    def forward(self, x):
        return (x * self.weight).sum((1, 2, 3)) + self.bias


@pytest.fixture(scope="module")
def detector():
    torch.set_num_threads(1)
    return build_detector(EXTRACT, device="cpu")


@pytest.fixture(scope="module")
def video(detector):
    """(footage, stored crops) of a real man, called a fake."""
    row = VideoRow("d/m/v", str(clips.real_face()), 1, "d", "m", ("d:a",), "test")
    faces, _ = extract_video(row, EXTRACT, detector, storage_config=StorageConfig(), fingerprint="f")
    frames = read_frames(row.uri, count=3, name="v")
    indices = tuple(face["frame_index"] for face in faces)
    assert indices == tuple(frames.indices)
    footage = Footage(row, frames.frames, indices, np.array([face["box"] for face in faces]))
    return footage, [decode_image(face["image"]) for face in faces]


def calibrated(period, video):
    """A model that calls each crop fake by 1."""
    model = Pattern(period, 0)
    with torch.no_grad():
        model.bias.sub_(model(to_input(video[1], SIZE)).min() - 1)
    return model


@pytest.mark.parametrize("box, shape", [((30, 20, 94, 84), (128, 160)), ((5, 10, 60, 90), (100, 40)), ((10, 5, 90, 70), (50, 120))])
def test_what_is_pasted_is_what_the_model_is_given_again(box, shape):
    rng = np.random.default_rng(0)
    frame = rng.integers(60, 190, (*shape, 3)).astype(np.uint8)
    side = max(crop_face(frame, box, margin=0).shape)
    delta = (rng.integers(-8, 9, (side, side, 3)) / 255).astype(np.float32)
    changed = paste(frame, box, delta, margin=0)
    before, after = (crop_face(one, box, margin=0).astype(int) for one in (frame, changed))
    height, width = before.shape[:2]
    above, left = (side - height) // 2, (side - width) // 2
    expected = np.rint(255 * delta[above:above + height, left:left + width])
    np.testing.assert_array_equal(after - before, expected)
    outside = changed.copy()
    outside[changed != frame] = frame[changed != frame]
    assert np.array_equal(outside, frame) and (changed != frame).any(-1).sum() <= height * width


@pytest.mark.parametrize("size", [48, 96])
def test_a_smooth_perturbation_survives_the_change_of_scale(size):
    frame = np.full((200, 200, 3), 120, np.uint8)
    wave = np.sin(np.linspace(0, 4 * np.pi, size))
    delta = np.repeat((8 / 255 * wave[:, None] * wave[None])[..., None], 3, 2).astype(np.float32)
    again = resize_one(crop_face(paste(frame, (50, 60, 130, 140), delta, margin=0.2), (50, 60, 130, 140), margin=0.2), size) / 255 - 120 / 255
    assert np.abs(again - delta).max() < 1.2 / 255


def test_frames_come_back_in_their_size_and_worse_with_the_rate(video):
    frames = video[0].frames[:, :181, :201]
    damage = {}
    for channel in (LOSSLESS, Channel("h264", 23), Channel("h264", 40), Channel("jpeg", 90), Channel("jpeg", 50)):
        arrived = channel.transmit(frames)
        assert arrived.shape == frames.shape and arrived.dtype == np.uint8
        damage[channel] = np.mean((arrived.astype(float) - frames) ** 2)
    lossless, h23, h40, j90, j50 = damage.values()
    assert lossless == 0 < h23 < h40 and 0 < j90 < j50 and max(h40, j50) < 150


def test_without_an_attack_and_a_codec_it_is_the_stored_crop_again(video, detector):
    model = calibrated(16, video)
    with torch.no_grad():
        expected = model(to_input(video[1], SIZE)).tolist()
    logits = score_again(model, video[0], video[0].frames, detector, EXTRACT, device="cpu")
    assert list(logits) == list(video[0].indices)
    np.testing.assert_allclose(list(logits.values()), expected, atol=0.05)


@pytest.mark.parametrize("period, survives", [(16, True), (2, False)])
def test_a_coarse_perturbation_survives_h264_and_a_fine_one_does_not(video, detector, period, survives):
    # Epsilon 8 moves the logit by exactly 2 at the model's input, from 1 or more above 0.
    model, hard = calibrated(period, video), Channel("h264", 35)
    sharing = Sharing(Cell("pgd", 8.0, 3), (LOSSLESS, hard))
    outcomes = share_video(model, *video, sharing, detector, EXTRACT, seed=1, device="cpu")
    assert [(one.channel, one.frame_index) for one in outcomes] == [(channel, index) for channel in (LOSSLESS, hard) for index in video[0].indices]
    moved = {channel: np.mean([one.clean - one.adversarial for one in outcomes if one.channel == channel]) for channel in (LOSSLESS, hard)}
    if survives:
        assert 1.3 < moved[LOSSLESS] < 2.1 and moved[hard] > 0.8 * moved[LOSSLESS]
    else:
        assert moved[hard] < 0.1


def test_a_face_that_is_not_found_or_is_another_has_no_logit(video, detector):
    footage, model = video[0], calibrated(16, video)
    black = footage.frames.copy()
    black[1] = 0
    assert list(score_again(model, footage, black, detector, EXTRACT, device="cpu")) == [footage.indices[0], footage.indices[2]]

    class Elsewhere:
        def detect(self, frames):
            return [[Face(np.array([10, 10, 60, 60], np.float32), 0.99, np.zeros((5, 2), np.float32))] for _ in frames]

    assert score_again(model, footage, footage.frames, Elsewhere(), EXTRACT, device="cpu") == {}
