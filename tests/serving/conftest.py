"""The endpoint in this process: planted faces, an untrained model, the real decoding process."""

import os

import numpy as np
import pytest
import torch

from robust.config_file import parse
from robust.data.faces import Face
from robust.detection import Examiner, thresholds_of
from robust.models.detector import Architecture, empty_detector
from robust.serving.access import Access
from robust.serving.answer import About
from robust.serving.app import build_app
from robust.serving.judging import UploadJudge, score_here
from tests import clips
from tests.serving.asgi import CARD


class Middle:
    """A face in the middle of every frame that is not black, another one in its corner."""

    def detect(self, frames):
        height, width = frames.shape[1:3]
        boxes = [np.array(box, np.float32) * np.array([width, height] * 2, np.float32)
                 for box in ((0.3, 0.2, 0.7, 0.8), (0, 0, 0.15, 0.15))]
        return [[Face(box, 0.99, np.zeros((5, 2), np.float32)) for box in boxes] if frame.max() > 20 else []
                for frame in frames]


@pytest.fixture(scope="session")
def examiner():
    """What jobs.detect judges with."""
    torch.manual_seed(0)
    model = empty_detector(Architecture("meso_inception4", 64, (0.5,) * 3, (0.5,) * 3, None)).eval()
    config = parse({"extract": {"min_face": 10, "decode_memory_mb": 256, "decode_timeout_s": 60}})
    return Examiner(model, thresholds_of(CARD, None), config.extract, 4, Middle(), config.storage)


@pytest.fixture(scope="session")
def judge(examiner):
    return UploadJudge(examiner.extract, examiner.frames, examiner.thresholds, examiner.face_detector,
                       score_here(examiner.model))


@pytest.fixture(scope="session")
def about(examiner):
    return About(checkpoint={"sha256": "0" * 64, "model": "baseline"}, thresholds=examiner.thresholds,
                 settings={"frames": examiner.frames}, warnings=["extract.margin differs"])


@pytest.fixture
def endpoint(judge, about):
    """endpoint(token=None, judge=..., **settings of serve) -> the application."""
    def make(token=None, judge=judge, **serve):
        return build_app(judge, about, parse({"serve": serve}).serve, Access(token))

    return make


@pytest.fixture(scope="session")
def noise():
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (9, 64, 80, 3), np.uint8)


@pytest.fixture(scope="session")
def video(noise) -> bytes:
    return clips.clip(noise)


@pytest.fixture
def open_files():
    """How many files this process has open."""
    return lambda: len(os.listdir("/proc/self/fd"))
